// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// Where everything stands in a blob; derived from scheme, n and k alone. To the byte: docs/blob-format.md.
///
///     [header 256] [a checksum per block, padded to 64] [block 0] [block 1] ...        a block: 16 rows of W
///
///     block:  [codes: k_padded / 8 rows of 64 bytes] [scales] [zero points, offsets or rows' codebooks]      each padded to 64
///
///     code row: 16 little-endian lanes of 32 bits, one per row of W; a lane holds eight neighbours in k:
///         bits  31..28 27..24 23..20 19..16 15..12 11..8   7..4   3..0
///         k     +7     +5     +3     +1     +6     +4     +2     +0
///
/// Codes of 8 bits take two code rows for eight neighbours, the low nibbles' places widened to bytes, then the high ones':
///     bytes 3 2 1 0 are k +5 +1 +4 +0, then k +7 +3 +6 +2. Those of 1 and 2 bits: LaneOrder.swift.
public struct BlobLayout {
    public static let headerBytes: UInt64 = 256
    public static let blockRows: Int64 = 16
    /// Groups of rows that are one group per row are cut to this length, so that int32 sums cannot overflow.
    static let longestGroup: Int64 = 65536

    public let n: Int64
    public let k: Int64
    public let kPadded: Int64
    public let groupSize: Int64
    public let groupCount: Int64
    public let blockCount: Int64
    public let scalesOffset: UInt64
    /// Of zero points or offsets; 0 if the kind has neither.
    public let zerosOffset: UInt64
    /// Of rows' codebooks, [code][16 rows] of floats; 0 if there are none.
    public let codebooksOffset: UInt64
    public let blockBytes: UInt64
    public let checksumsOffset: UInt64
    public let blocksOffset: UInt64
    public let totalBytes: UInt64

    public init(_ scheme: Scheme, n: Int64, k: Int64) throws(Failure) {
        try requireAtLeast(n, 1, "n")
        try requireAtLeast(k, 1, "k")
        self.n = n
        self.k = k
        kPadded = Int64(try CheckedSize(UInt64(k), "k").roundedUp(to: 32).value)
        groupSize = scheme.isPerRow ? min(kPadded, BlobLayout.longestGroup) : Int64(scheme.raw.group_size)
        groupCount = (k - 1) / groupSize + 1
        blockCount = (n - 1) / BlobLayout.blockRows + 1

        let codes = try CheckedSize(UInt64(kPadded), "k", argument: k).times(2 * UInt64(scheme.width.bits))
        let scales = try CheckedSize(UInt64(groupCount), "k", argument: k).times(16 * UInt64(scheme.scaleType.size)).roundedUp(to: 64)
        let zerosSize = BlobLayout.zerosSize(scheme)
        let zeros = try CheckedSize(UInt64(groupCount), "k", argument: k).times(16 * zerosSize).roundedUp(to: 64)
        scalesOffset = codes.value
        zerosOffset = zerosSize == 0 ? 0 : try codes.plus(scales.value).value
        codebooksOffset = scheme.hasRowCodebooks ? try codes.plus(scales.value).value : 0
        let codebooks = scheme.hasRowCodebooks ? BlobLayout.codebooksBytes : 0
        let block = try codes.plus(scales.value).plus(zeros.value).plus(codebooks)
        blockBytes = block.value

        checksumsOffset = BlobLayout.headerBytes
        let checksums = try CheckedSize(UInt64(blockCount), "n", argument: n).times(8).roundedUp(to: 64)
        blocksOffset = try checksums.plus(checksumsOffset).value
        totalBytes = try CheckedSize(UInt64(blockCount), "n", argument: n).times(block.value).plus(blocksOffset).value
    }

    static let codebooksBytes: UInt64 = 16 * 16 * 4

    /// Bytes of a zero point or offset.
    static func zerosSize(_ scheme: Scheme) -> UInt64 {
        switch scheme.kind {
        case .asymmetric: 1
        case .offset: UInt64(scheme.scaleType.size)
        case .symmetric, .codebook, .binary, .ternary: 0
        }
    }

    public func block(_ index: Int64, in blob: UnsafeRawPointer) -> UnsafeRawPointer {
        blob + Int(blocksOffset) + Int(index) * Int(blockBytes)
    }
}
