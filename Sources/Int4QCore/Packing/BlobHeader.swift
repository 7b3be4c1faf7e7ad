// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// The first 256 bytes of a blob, field by field. All fields are little-endian, as every processor that this library
/// is built for.
enum BlobHeader {
    static let magic: UInt64 = 0x424c_4251_3454_4e49 // "INT4QBLB"
    static let version: UInt32 = 1

    enum Offset {
        static let magic = 0, version = 8, headerBytes = 12, totalBytes = 16, n = 24, k = 32
        static let scheme = 40 // kind, group_size, scale_type, scale_rule, code_range, rounding: int32 each
        static let checksums = 64, blocks = 72, blockBytes = 80, scales = 88, zeros = 96
        static let groupCount = 104, groupSize = 112, kPadded = 120
        static let codebook = 128
        static let codebookScope = 192, codeBits = 196 // int32 each; code_bits 0 unless 8
        static let codebooks = 200
        // Of parts; all zero if there are none.
        static let partFlags = 208 // uint32
        static let partRank = 212, lowRankType = 214 // uint16 each
        static let sparseCount = 216, rotationSeed = 224
        static let rotationOrder = 232 // uint32
        static let reserved = 236 // uint32
        static let partsChecksum = 240
        static let checksum = 248
    }

    /// All before the first block but the checksums of blocks.
    static func writeStart(_ scheme: Scheme, _ layout: BlobLayout, codebook: UnsafePointer<Float>?, to blob: UnsafeMutableRawPointer) {
        let end = layout.checksumsOffset + UInt64(layout.blockCount) * 8
        (blob + Int(end)).initializeMemory(as: UInt8.self, repeating: 0, count: Int(layout.blocksOffset - end))
        write(scheme, layout, codebook: codebook, to: blob)
    }

    static func write(_ scheme: Scheme, _ layout: BlobLayout, codebook: UnsafePointer<Float>?, to blob: UnsafeMutableRawPointer) {
        blob.initializeMemory(as: UInt8.self, repeating: 0, count: Int(BlobLayout.headerBytes))
        func put<T: BitwiseCopyable>(_ value: T, _ offset: Int) { blob.storeBytes(of: value, toByteOffset: offset, as: T.self) }
        put(magic, Offset.magic)
        put(version, Offset.version)
        put(UInt32(BlobLayout.headerBytes), Offset.headerBytes)
        put(layout.totalBytes, Offset.totalBytes)
        put(layout.n, Offset.n)
        put(layout.k, Offset.k)
        let raw = scheme.raw
        let fields: InlineArray<6, Int32> = [raw.kind, raw.group_size, raw.scale_type, raw.scale_rule, raw.code_range, raw.rounding]
        for index in 0..<6 { put(fields[index], Offset.scheme + 4 * index) }
        put(layout.checksumsOffset, Offset.checksums)
        put(layout.blocksOffset, Offset.blocks)
        put(layout.blockBytes, Offset.blockBytes)
        put(layout.scalesOffset, Offset.scales)
        put(layout.zerosOffset, Offset.zeros)
        put(layout.groupCount, Offset.groupCount)
        put(layout.groupSize, Offset.groupSize)
        put(layout.kPadded, Offset.kPadded)
        put(raw.codebook_scope, Offset.codebookScope)
        put(scheme.wideBits, Offset.codeBits)
        put(layout.codebooksOffset, Offset.codebooks)
        if let codebook {
            for index in 0..<16 { put(codebook[index], Offset.codebook + 4 * index) }
        }
        put(checksum(blob, count: Offset.checksum), Offset.checksum)
    }

    /// Says in a header which parts stand behind the last block.
    static func write(_ parts: PartsShape, _ checksumOfParts: UInt64, totalBytes: UInt64, to blob: UnsafeMutableRawPointer) {
        func put<T: BitwiseCopyable>(_ value: T, _ offset: Int) { blob.storeBytes(of: value, toByteOffset: offset, as: T.self) }
        put(totalBytes, Offset.totalBytes)
        put(parts.flags, Offset.partFlags)
        put(UInt16(truncatingIfNeeded: parts.rank), Offset.partRank)
        put(UInt16(truncatingIfNeeded: parts.lowRankType), Offset.lowRankType)
        put(parts.sparseCount, Offset.sparseCount)
        put(parts.rotationSeed, Offset.rotationSeed)
        put(UInt32(truncatingIfNeeded: parts.rotationOrder), Offset.rotationOrder)
        put(checksumOfParts, Offset.partsChecksum)
        put(checksum(blob, count: Offset.checksum), Offset.checksum)
    }
}

/// A blob whose header was validated: all sizes were derived anew and agree with it.
public struct Blob {
    public let base: UnsafeRawPointer
    public let scheme: Scheme
    public let layout: BlobLayout
    public let parts: PartsShape
    /// With parts.
    public let totalBytes: UInt64

    public var headerChecksum: UInt64 { base.load(fromByteOffset: BlobHeader.Offset.checksum, as: UInt64.self) }
    public var codebook: UnsafePointer<Float> { (base + BlobHeader.Offset.codebook).assumingMemoryBound(to: Float.self) }
    /// Whether the header's codebook is one, and not zeros.
    var hasTensorCodebook: Bool { scheme.kind == .codebook && !scheme.hasRowCodebooks }

    public init(_ pointer: UnsafeRawPointer?, bytes: UInt64, _ name: Text = "blob",
                _ bytesName: Text = "blob_bytes") throws(Failure) {
        let base = try require(pointer, name, alignment: Int(INT4Q_ALIGNMENT))
        try requireBytes(bytes, needed: BlobLayout.headerBytes, bytesName)
        try Blob.checkIdentity(base, name)
        func get<T: BitwiseCopyable>(_ type: T.Type, _ offset: Int) -> T { base.load(fromByteOffset: offset, as: T.self) }

        var raw = int4q_scheme()
        raw.kind = get(Int32.self, BlobHeader.Offset.scheme)
        raw.group_size = get(Int32.self, BlobHeader.Offset.scheme + 4)
        raw.scale_type = get(Int32.self, BlobHeader.Offset.scheme + 8)
        raw.scale_rule = get(Int32.self, BlobHeader.Offset.scheme + 12)
        raw.code_range = get(Int32.self, BlobHeader.Offset.scheme + 16)
        raw.rounding = get(Int32.self, BlobHeader.Offset.scheme + 20)
        raw.codebook_scope = get(Int32.self, BlobHeader.Offset.codebookScope)
        raw.code_bits = get(Int32.self, BlobHeader.Offset.codeBits)
        let n = get(Int64.self, BlobHeader.Offset.n), k = get(Int64.self, BlobHeader.Offset.k)
        do throws(Failure) {
            scheme = try Scheme(raw)
            layout = try BlobLayout(scheme, n: n, k: k)
            if get(UInt32.self, BlobHeader.Offset.partFlags) == 0 {
                parts = PartsShape()
                totalBytes = layout.totalBytes
            } else {
                parts = try PartsShape(header: base, k: k, name)
                totalBytes = try CheckedSize(layout.totalBytes, name).plus(PartsLayout(parts, n: n, k: k).totalBytes).value
            }
        } catch {
            throw error.asCorruption
        }
        self.base = base
        try checkDerivedFields(name)
        try checkCodebook(name)
        try requireBytes(bytes, needed: totalBytes, bytesName)
    }

    private static func checkIdentity(_ base: UnsafeRawPointer, _ name: Text) throws(Failure) {
        let magic = base.load(fromByteOffset: BlobHeader.Offset.magic, as: UInt64.self)
        if magic != BlobHeader.magic {
            throw Failure(INT4Q_ERROR_CORRUPT, name, .pointer(UInt(truncatingIfNeeded: magic)), expected: "a blob: magic \"INT4QBLB\"")
        }
        let version = base.load(fromByteOffset: BlobHeader.Offset.version, as: UInt32.self)
        if version != BlobHeader.version {
            throw Failure(INT4Q_ERROR_BLOB_VERSION, name, .unsigned(UInt64(version)), expected: "format version",
                          bound: UInt64(BlobHeader.version))
        }
        let stored = base.load(fromByteOffset: BlobHeader.Offset.checksum, as: UInt64.self)
        let computed = checksum(base, count: BlobHeader.Offset.checksum)
        if stored != computed {
            throw Failure(INT4Q_ERROR_CORRUPT, name, .text("a header with another checksum"), expected: "header checksum", bound: stored)
        }
    }

    private func checkDerivedFields(_ name: Text) throws(Failure) {
        typealias Field = (offset: Int, value: UInt64)
        let scope = UInt64(UInt32(bitPattern: scheme.raw.codebook_scope)) | UInt64(UInt32(bitPattern: scheme.wideBits)) << 32
        let fields: InlineArray<11, Field> = [
            (BlobHeader.Offset.totalBytes, totalBytes), (BlobHeader.Offset.checksums, layout.checksumsOffset),
            (BlobHeader.Offset.blocks, layout.blocksOffset), (BlobHeader.Offset.blockBytes, layout.blockBytes),
            (BlobHeader.Offset.scales, layout.scalesOffset), (BlobHeader.Offset.zeros, layout.zerosOffset),
            (BlobHeader.Offset.groupCount, UInt64(layout.groupCount)), (BlobHeader.Offset.groupSize, UInt64(layout.groupSize)),
            (BlobHeader.Offset.kPadded, UInt64(layout.kPadded)), (BlobHeader.Offset.codebooks, layout.codebooksOffset),
            (BlobHeader.Offset.codebookScope, scope), // and the bits of codes
        ]
        for index in 0..<11 {
            let stored = base.load(fromByteOffset: fields[index].offset, as: UInt64.self)
            if stored != fields[index].value { throw corrupt(name, stored, expected: "in its header", fields[index].value) }
        }
        // Without parts all of their fields are reserved.
        let reserved = parts.isEmpty ? BlobHeader.Offset.partFlags : BlobHeader.Offset.reserved
        let end = parts.isEmpty ? BlobHeader.Offset.checksum : BlobHeader.Offset.partsChecksum
        for offset in stride(from: reserved, to: end, by: 4) {
            let stored = base.load(fromByteOffset: offset, as: UInt32.self)
            if stored != 0 { throw corrupt(name, UInt64(stored), expected: "in a reserved field", 0) }
        }
        let headerBytes = UInt64(base.load(fromByteOffset: BlobHeader.Offset.headerBytes, as: UInt32.self))
        if headerBytes != BlobLayout.headerBytes { throw corrupt(name, headerBytes, expected: "header bytes", BlobLayout.headerBytes) }
    }

    private func corrupt(_ name: Text, _ stored: UInt64, expected: Text, _ value: UInt64) -> Failure {
        Failure(INT4Q_ERROR_CORRUPT, name, .unsigned(stored), expected: expected, bound: value)
    }

    private func checkCodebook(_ name: Text) throws(Failure) {
        if hasTensorCodebook {
            do throws(Failure) { try requireUsable(codebook: codebook, name) } catch { throw error.asCorruption }
            return
        }
        for index in 0..<16 where codebook[index].bitPattern != 0 {
            throw corrupt(name, UInt64(codebook[index].bitPattern), expected: "in an unused codebook", 0)
        }
    }
}

extension Failure {
    /// A header that states the impossible is a damaged one, whatever the same value would be in an argument.
    var asCorruption: Failure {
        Failure(INT4Q_ERROR_CORRUPT, argument, value, expected: expected, bound: bound)
    }
}
