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
        bytes = try padded.times(64).plus(2048 + 128).value
    }
}

/// What quantizing a matrix does to its outputs: d G d^T for each row's errors d, in binary64.
public struct GramLoss {
    private let tensor: QuantizedTensor
    private let source: Matrix
    private let gram: Gram
    private let kernels: i4q_kernels
    private let errors: UnsafeMutablePointer<Float>
    private let products: UnsafeMutablePointer<Double>
    private let sums: UnsafeMutablePointer<Double>

    public init(_ tensor: QuantizedTensor, _ source: Matrix, _ gram: Gram, _ scratch: GramLossScratch,
                _ memory: UnsafeMutableRawPointer, _ kernels: i4q_kernels) throws(Failure) {
        if gram.layout.k != tensor.layout.k {
            throw Failure(INT4Q_ERROR_MISMATCH, "gram", .integer(gram.layout.k), expected: "a Gram matrix of the tensor's k,",
                          bound: UInt64(tensor.layout.k))
        }
        self.tensor = tensor
        self.source = source
        self.gram = gram
        self.kernels = kernels
        errors = memory.assumingMemoryBound(to: Float.self)
        products = (memory + scratch.padded * 64).assumingMemoryBound(to: Double.self)
        sums = products + 256
    }

    @inline(never)
    public func write(rows: Range<Int64>, to losses: UnsafeMutablePointer<Double>) throws(Failure) {
        var row = rows.lowerBound
        while row < rows.upperBound {
            let end = min(row + 16, rows.upperBound)
            try load(row..<end)
            add()
            for index in row..<end { losses[Int(index)] = gram.rows == 0 ? 0 : sums[Int(index - row)] / Double(gram.rows) }
            row = end
        }
    }

    private func load(_ rows: Range<Int64>) throws(Failure) {
        errors.update(repeating: 0, count: gram.layout.padded * 16)
        try TensorRuns.with(tensor, source, kernels) { (runs) throws(Failure) in
            for row in rows {
                let lane = Int(row - rows.lowerBound)
                var column = 0
                while column < source.columns {
                    let count = try runs.load(Int(row), column)
                    for index in 0..<count { errors[(column + index) &* 16 &+ lane] = runs.source[index] - runs.decoded[index] }
                    column += count
                }
            }
        }
    }

    /// A panel of G at a time: twice what is above the diagonal, and the square on it.
    private func add() {
        sums.update(repeating: 0, count: 16)
        for panel in 0..<gram.layout.triangle.panels {
            products.update(repeating: 0, count: 256)
            multiply(panel, 0, panel &* panelWidth)
            for place in 0..<256 { products[place] *= 2 }
            multiply(panel, panel &* panelWidth, panelWidth)
            for place in 0..<256 { sums[place & 15] += products[place] * Double(errors[panel &* 256 &+ place]) }
        }
    }

    private func multiply(_ panel: Int, _ begin: Int, _ depth: Int) {
        var product = i4q_wide_product()
        product.matrix = UnsafePointer(gram.products + TrianglePanels.place(begin, panel &* panelWidth))
        product.vectors = UnsafePointer(errors + begin &* 16)
        product.depth = Int64(depth)
        product.out = products
        kernels.wide_product.unsafelyUnwrapped(&product)
    }
}
