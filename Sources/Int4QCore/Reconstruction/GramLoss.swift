// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Scratch of losses: errors of 16 rows, [padded][16], and sums.
public struct GramLossScratch {
    public let bytes: UInt64
    let padded: Int

    @inline(never)
    public init(k: Int64) throws(Failure) {
        try requireAtLeast(k, 1, "k")
        let padded = try CheckedSize(UInt64(k), "k").roundedUp(to: 16)
        self.padded = Int(padded.value)
        bytes = try padded.times(64).plus(UInt64(GramForm.productBytes)).value
    }
}

/// What quantizing a matrix does to its outputs: d G d^T for each row's errors d, in binary64.
public struct GramLoss {
    private let tensor: QuantizedTensor
    private let source: Matrix
    private let form: GramForm
    private let kernels: i4q_kernels

    public init(_ tensor: QuantizedTensor, _ source: Matrix, _ gram: Gram, _ scratch: GramLossScratch,
                _ memory: UnsafeMutableRawPointer, _ kernels: i4q_kernels) throws(Failure) {
        try gram.requireColumns(tensor.layout.k, "a Gram matrix of the tensor's k,")
        self.tensor = tensor
        self.source = source
        self.kernels = kernels
        form = GramForm(gram: gram, product: kernels.wide_product.unsafelyUnwrapped,
                        errors: memory.assumingMemoryBound(to: Float.self),
                        products: (memory + scratch.padded * 64).assumingMemoryBound(to: Double.self))
    }

    @inline(never)
    public func write(rows: Range<Int64>, to losses: UnsafeMutablePointer<Double>) throws(Failure) {
        var row = rows.lowerBound
        while row < rows.upperBound {
            let end = min(row + 16, rows.upperBound)
            try form.load(tensor, source, row..<end, kernels)
            form.add(0..<form.gram.panels)
            for index in row..<end {
                losses[Int(index)] = form.gram.rows == 0 ? 0 : form.sums[Int(index - row)] / Double(form.gram.rows)
            }
            row = end
        }
    }
}
