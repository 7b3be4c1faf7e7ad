// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// The sizes of a quantized matrix's parts, free of overflow.
public struct TensorLayout {
    public let n: Int64
    public let k: Int64
    public let groupSize: Int
    public let groupsPerRow: Int64
    public let codesRowBytes: UInt64
    public let codesBytes: UInt64
    public let scalesBytes: UInt64
    public let zeroPointsBytes: UInt64
    public let offsetsBytes: UInt64

    public init(_ scheme: Scheme, n: Int64, k: Int64) throws(Failure) {
        try requireAtLeast(n, 1, "n")
        try requireAtLeast(k, 1, "k")
        self.n = n
        self.k = k
        let size = scheme.groupSize(k: k)
        groupSize = Int(size)
        groupsPerRow = (k - 1) / size + 1
        codesRowBytes = scheme.width.bytes(k)
        codesBytes = try CheckedSize(UInt64(n), "n").times(codesRowBytes).value
        let groups = try CheckedSize(UInt64(n), "n").times(UInt64(groupsPerRow))
        scalesBytes = try groups.times(UInt64(scheme.scaleType.size)).value
        zeroPointsBytes = scheme.kind == .asymmetric ? groups.value : 0
        offsetsBytes = scheme.kind == .offset ? scalesBytes : 0
    }
}
