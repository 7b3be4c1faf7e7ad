// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Scratch of losses: errors of 16 rows, [padded][16], and sums; with a cross matrix the weights, too.
public struct GramLossScratch {
    public let bytes: UInt64
    let padded: Int

    @inline(never)
    public init(k: Int64, hasCross: Bool = false) throws(Failure) {
        try requireAtLeast(k, 1, "k")
        let padded = try CheckedSize(UInt64(k), "k").roundedUp(to: 16)
        self.padded = Int(padded.value)
        bytes = try padded.times(hasCross ? 128 : 64).plus(UInt64(GramForm.productBytes)).value
    }
}

/// What quantizing a matrix does to its outputs: d G d^T for each row's errors d, in binary64.
public struct GramLoss {
    private let tensor: QuantizedTensor
    private let source: Matrix
    private let form: GramForm
    private let kernels: i4q_kernels
    private let cross: Cross?
    private let weights: UnsafeMutablePointer<Float>

    @inline(never)
    public init(_ tensor: QuantizedTensor, _ source: Matrix, _ gram: Gram, _ cross: Cross? = nil, _ scratch: GramLossScratch,
                _ memory: UnsafeMutableRawPointer, _ kernels: i4q_kernels) throws(Failure) {
        try gram.requireColumns(tensor.layout.k, "a Gram matrix of the tensor's k,")
        self.tensor = tensor
        self.source = source
        self.kernels = kernels
        self.cross = cross
        if let cross { try cross.requireMatch(gram, "cross") }
        let products = memory + scratch.padded * 64
        form = GramForm(gram, errors: memory, products: products, kernels)
        weights = (products + GramForm.productBytes).assumingMemoryBound(to: Float.self)
    }

    @inline(never)
    public func write(rows: Range<Int64>, to losses: UnsafeMutablePointer<Double>) throws(Failure) {
        var row = rows.lowerBound
        while row < rows.upperBound {
            let end = min(row + 16, rows.upperBound)
            if cross != nil { weights.update(repeating: 0, count: form.gram.layout.padded &* 16) }
            try form.load(tensor, source, row..<end, kernels, weights: cross == nil ? nil : weights)
            form.add(0..<form.gram.panels)
            if let cross { form.add(cross, weights) }
            for index in row..<end {
                losses[Int(index)] = form.gram.rows == 0 ? 0 : form.sums[Int(index - row)] / Double(form.gram.rows)
            }
            row = end
        }
    }
}
