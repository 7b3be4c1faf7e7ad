// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Runs of a source and of what its quantized tensor dequantizes to, side by side. A run lies in one group.
struct TensorRuns {
    let tensor: QuantizedTensor
    let runs: FloatRuns
    let kernels: i4q_kernels

    var source: UnsafeMutablePointer<Float> { runs.floats }
    var decoded: UnsafeMutablePointer<Float> { runs.room.assumingMemoryBound(to: Float.self) }

    @inline(never)
    static func with(_ tensor: QuantizedTensor, _ source: Matrix, _ kernels: i4q_kernels,
                     _ body: (TensorRuns) throws(Failure) -> Void) throws(Failure) {
        try FloatRuns.with(source, "source", kernels) { (runs) throws(Failure) in
            try body(TensorRuns(tensor: tensor, runs: runs, kernels: kernels))
        }
    }

    /// Loads both from `column` on, at most to the end of the group; how many elements. The source is finite then.
    @inline(never)
    func load(_ row: Int, _ column: Int) throws(Failure) -> Int {
        let group = column / tensor.layout.groupSize
        let end = min((group + 1) * tensor.layout.groupSize, Int(tensor.layout.k))
        let count = runs.load(row, column, count: min(FloatRuns.length, end - column))
        _ = try runs.range(count, row, column)
        let index = tensor.groupIndex(row, group), type = tensor.scheme.scaleType
        var decoding = tensor.scheme.decoding(scale: type.load(tensor.scales, index), zeroPoint: tensor.zeroPoints?[index] ?? 0,
                                              offset: tensor.offsets.map { type.load($0, index) } ?? 0, codebook: tensor.codebook(row))
        kernels.decode.unsafelyUnwrapped(&decoding, tensor.codesRow(row) + tensor.scheme.width.bytes(column), Int64(count), decoded)
        return count
    }
}
