// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// Where the parts of a quantized matrix stand in one block of memory, each at a multiple of 64 bytes:
///
///     [codes] [scales] [zero points] [offsets] [codebook or codebooks]
struct PlacedTensor {
    let layout: TensorLayout
    private let scales: Int
    private let zeroPoints: Int
    private let offsets: Int
    private let codebook: Int
    private let codebookBytes: Int
    let bytes: CheckedSize

    @inline(never)
    init(_ scheme: Scheme, n: Int64, k: Int64) throws(Failure) {
        layout = try TensorLayout(scheme, n: n, k: k)
        let rows = scheme.kind != .codebook ? 0 : scheme.hasRowCodebooks ? UInt64(n) : 1
        let codebooks = rows == 0 ? 0 : try CheckedSize(rows, "n").times(CallersCodebooks.rowBytes).value
        let scales = try CheckedSize(layout.codesBytes, "n", argument: n).roundedUp(to: 64)
        let zeroPoints = try scales.plus(layout.scalesBytes).roundedUp(to: 64)
        let offsets = try zeroPoints.plus(layout.zeroPointsBytes).roundedUp(to: 64)
        let codebook = try offsets.plus(layout.offsetsBytes).roundedUp(to: 64)
        bytes = try codebook.plus(codebooks)
        self.scales = Int(scales.value)
        self.zeroPoints = Int(zeroPoints.value)
        self.offsets = Int(offsets.value)
        self.codebook = Int(codebook.value)
        codebookBytes = Int(codebooks)
    }

    /// Codes and what belongs to them, and codebooks if rows have their own.
    func storedBits(_ scheme: Scheme) -> Double {
        var bytes = Double(layout.codesBytes) + Double(layout.scalesBytes)
        bytes += Double(layout.zeroPointsBytes) + Double(layout.offsetsBytes)
        if scheme.hasRowCodebooks { bytes += Double(codebookBytes) }
        return bytes * 8
    }

    @inline(never)
    func tensor(_ scheme: int4q_scheme, at base: UnsafeMutableRawPointer, codebook: UnsafePointer<Float>?) -> int4q_tensor {
        var raw = int4q_tensor()
        raw.struct_size = UInt32(MemoryLayout<int4q_tensor>.stride)
        raw.scheme = scheme
        raw.n = layout.n
        raw.k = layout.k
        raw.codes = base
        raw.codes_bytes = layout.codesBytes
        raw.scales = base + scales
        raw.scales_bytes = layout.scalesBytes
        if layout.zeroPointsBytes > 0 { raw.zero_points = base + zeroPoints }
        raw.zero_points_bytes = layout.zeroPointsBytes
        if layout.offsetsBytes > 0 { raw.offsets = base + offsets }
        raw.offsets_bytes = layout.offsetsBytes
        raw.codebook = codebook
        return raw
    }

    /// A copy of all, with the codebook.
    func copy(_ tensor: int4q_tensor, to base: UnsafeMutableRawPointer) -> int4q_tensor {
        base.copyMemory(from: tensor.codes, byteCount: codebook)
        guard let values = tensor.codebook else { return self.tensor(tensor.scheme, at: base, codebook: nil) }
        (base + codebook).copyMemory(from: values, byteCount: codebookBytes)
        return self.tensor(tensor.scheme, at: base, codebook: UnsafePointer((base + codebook).assumingMemoryBound(to: Float.self)))
    }

    /// A row of one tensor to another of the same scheme.
    @inline(never)
    func copyRow(_ row: Int, from source: UnsafeMutableRawPointer, to target: UnsafeMutableRawPointer) {
        let rows = Int(layout.n)
        func part(_ offset: Int, _ bytes: UInt64) {
            let own = Int(bytes) / rows, place = offset + row * own
            (target + place).copyMemory(from: source + place, byteCount: own)
        }
        part(0, layout.codesBytes)
        part(scales, layout.scalesBytes)
        part(zeroPoints, layout.zeroPointsBytes)
        part(offsets, layout.offsetsBytes)
    }
}
