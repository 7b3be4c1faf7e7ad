// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Rows of the matrix that a blob with all of its parts stands for, in the order of x's channels.
public struct EffectiveRows {
    let blob: Blob
    let parts: BlobParts
    let kernels: i4q_kernels
    /// Two rows of floats.
    let packed: UnsafeMutablePointer<Float>
    let row: UnsafeMutablePointer<Float>
    private var k: Int { Int(blob.layout.k) }

    public static func scratchBytes(k: Int64) throws(Failure) -> UInt64 {
        try CheckedSize(UInt64(k), "blob").roundedUp(to: 16).times(8).value
    }

    public init(_ blob: Blob, scratch: UnsafeMutableRawPointer, _ kernels: i4q_kernels) {
        self.blob = blob
        self.kernels = kernels
        parts = BlobParts(blob)
        packed = scratch.assumingMemoryBound(to: Float.self)
        row = packed + (Int(blob.layout.k) + 15) & ~15
    }

    public func gather(rows: UnsafePointer<Int64>, count: Int64, into destination: Matrix) {
        let floats = Matrix(base: packed, type: .f32, columns: k, strideBytes: 0)
        let hadamard = parts.shape.hadamard
        for index in 0..<Int(count) {
            Int4QCore.gather(blob, rows: rows + index, count: 1, into: floats, kernels)
            hadamard?.transform(packed, count: k, inverse: true)
            let restored = restoreOrder()
            addSparse(Int(rows[index]), restored)
            addLowRank(Int(rows[index]), restored)
            kernels.store.unsafelyUnwrapped(restored, Int64(k), Int64(destination.type.raw), destination.mutableRow(index))
        }
    }

    private func restoreOrder() -> UnsafeMutablePointer<Float> {
        if !parts.shape.has(PartsShape.permutation) { return packed }
        row.initialize(repeating: 0, count: k)
        for index in 0..<k { row[Int(min(parts.permutation[index], UInt32(truncatingIfNeeded: k &- 1)))] = packed[index] }
        return row
    }

    private func addSparse(_ index: Int, _ row: UnsafeMutablePointer<Float>) {
        guard let values = parts.raw.sparse_values else { return }
        // At most as many as a row can have, whatever the offsets say.
        for element in parts.elements(of: index).prefix(k) { row[parts.column(element)] += values[element] }
    }

    private func addLowRank(_ index: Int, _ row: UnsafeMutablePointer<Float>) {
        guard let a = parts.raw.low_rank_a, let b = parts.raw.low_rank_b else { return }
        let type = parts.lowRankType
        for column in 0..<k {
            var sum = 0.0
            for rank in 0..<Int(parts.shape.rank) {
                let product = Double(type.load(a, parts.place(index, rank))) * Double(type.load(b, rank &* k &+ column))
                sum += product
            }
            row[column] = Float(Double(row[column]) + sum)
        }
    }
}
