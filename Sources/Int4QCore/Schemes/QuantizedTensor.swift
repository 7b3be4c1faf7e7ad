// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A caller's quantized matrix that was checked: every part is there, aligned and large enough.
public struct QuantizedTensor {
    public let scheme: Scheme
    public let layout: TensorLayout
    public let codes: UnsafeMutablePointer<UInt8>
    public let scales: UnsafeMutableRawPointer
    public let zeroPoints: UnsafeMutablePointer<UInt8>?
    public let offsets: UnsafeMutableRawPointer?
    /// Nil for the kinds that have none, and where it is not read.
    private let codebooks: CallersCodebooks?

    /// `readsCodebook` is false where the codebook is not needed, as in unpacking.
    public init(_ raw: int4q_tensor, readsCodebook: Bool = true) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_tensor.self, "tensor.struct_size")
        try requireZero(raw.reserved, "tensor.reserved")
        scheme = try Scheme(raw.scheme)
        layout = try TensorLayout(scheme, n: raw.n, k: raw.k)
        let size = scheme.scaleType.size
        codes = try part(raw.codes, raw.codes_bytes, layout.codesBytes, 1, "tensor.codes", "tensor.codes_bytes")
            .assumingMemoryBound(to: UInt8.self)
        scales = try part(raw.scales, raw.scales_bytes, layout.scalesBytes, size, "tensor.scales", "tensor.scales_bytes")
        zeroPoints = layout.zeroPointsBytes == 0 ? nil
            : try part(raw.zero_points, raw.zero_points_bytes, layout.zeroPointsBytes, 1, "tensor.zero_points",
                       "tensor.zero_points_bytes").assumingMemoryBound(to: UInt8.self)
        offsets = layout.offsetsBytes == 0 ? nil
            : try part(raw.offsets, raw.offsets_bytes, layout.offsetsBytes, size, "tensor.offsets", "tensor.offsets_bytes")
        codebooks = readsCodebook ? try CallersCodebooks(scheme, raw.codebook, n: raw.n, "tensor.codebook") : nil
    }

    /// A row's codebook: its own, or the tensor's.
    public func codebook(_ row: Int) -> UnsafePointer<Float>? { codebooks?.row(row) }

    /// Codebooks of rows are looked at when the rows are known that a call is about.
    public func requireCodebooks(_ rows: Range<Int64>) throws(Failure) { try codebooks?.check(rows, "tensor.codebook") }

    public func codesRow(_ row: Int) -> UnsafeMutablePointer<UInt8> { codes + row &* Int(layout.codesRowBytes) }

    /// The index of a group in scales, zero points and offsets.
    public func groupIndex(_ row: Int, _ group: Int) -> Int { row &* Int(layout.groupsPerRow) &+ group }
}

private func part(_ pointer: UnsafeMutableRawPointer?, _ declared: UInt64, _ needed: UInt64, _ alignment: Int,
                  _ name: Text, _ bytesName: Text) throws(Failure) -> UnsafeMutableRawPointer {
    let base = try require(pointer, name, alignment: alignment)
    try requireBytes(declared, needed: needed, bytesName)
    return base
}
