// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// d G d^T in binary64 for the errors d of 16 rows, or for as many rows of a group and the group's square of G.
struct GramForm {
    let gram: Gram
    let product: @convention(c) (UnsafePointer<i4q_wide_product>?) -> Void
    /// [columns rounded up to 16][16]: lanes are rows.
    let errors: UnsafeMutablePointer<Float>
    /// 256 for products, then 16 sums.
    let products: UnsafeMutablePointer<Double>
    var sums: UnsafeMutablePointer<Double> { products + 256 }

    init(_ gram: Gram, errors: UnsafeMutableRawPointer, products: UnsafeMutableRawPointer, _ kernels: i4q_kernels) {
        self.gram = gram
        product = kernels.wide_product.unsafelyUnwrapped
        self.errors = errors.assumingMemoryBound(to: Float.self)
        self.products = products.assumingMemoryBound(to: Double.self)
    }

    /// What it needs besides errors.
    static var productBytes: Int { 2048 + 128 }

    /// Takes errors from rows of a tensor and of what it stands for; the weights too, if they have a place. Lanes beyond the last
    /// row, and columns up to the next multiple of 16, become zero.
    @inline(never)
    @_optimize(speed)
    func load(_ tensor: QuantizedTensor, _ source: Matrix, _ rows: Range<Int64>, _ kernels: i4q_kernels,
              weights: UnsafeMutablePointer<Float>? = nil) throws(Failure) {
        errors.update(repeating: 0, count: ((source.columns &+ 15) & ~15) &* 16)
        try TensorRuns.with(tensor, source, kernels) { (runs) throws(Failure) in
            for row in rows {
                let lane = Int(row - rows.lowerBound)
                var column = 0
                while column < source.columns {
                    let count = try runs.load(Int(row), column)
                    for index in 0..<count {
                        let place = (column &+ index) &* 16 &+ lane
                        errors[place] = runs.source[index] - runs.decoded[index]
                        if let weights { weights[place] = runs.source[index] }
                    }
                    column += count
                }
            }
        }
    }

    /// Sums for errors that begin with the first panel's. A panel at a time: twice what is above the diagonal, and the square on
    /// it.
    @inline(never)
    func add(_ panels: Range<Int>) {
        let first = panels.lowerBound
        sums.update(repeating: 0, count: 16)
        for panel in panels {
            products.update(repeating: 0, count: 256)
            multiply(panel, first, rows: first..<panel)
            for place in 0..<256 { products[place] *= 2 }
            multiply(panel, first, rows: panel..<panel &+ 1)
            for place in 0..<256 { sums[place & 15] += products[place] * Double(errors[(panel &- first) &* 256 &+ place]) }
        }
    }

    /// Adds 2 (w D) d to the sums for all columns of weights w, [padded][16].
    @inline(never)
    func add(_ cross: Cross, _ weights: UnsafePointer<Float>) {
        var operands = i4q_wide_product()
        operands.vectors = weights
        operands.depth = Int64(cross.layout.padded)
        operands.out = products
        for panel in 0..<cross.layout.panels {
            products.update(repeating: 0, count: 256)
            operands.matrix = UnsafePointer(cross.panel(panel, row: 0))
            product(&operands)
            for place in 0..<256 { sums[place & 15] += 2 * products[place] * Double(errors[panel &* 256 &+ place]) }
        }
    }

    private func multiply(_ panel: Int, _ first: Int, rows: Range<Int>) {
        var operands = i4q_wide_product()
        operands.matrix = UnsafePointer(gram.products + TrianglePanels.place(rows.lowerBound &* panelWidth, panel &* panelWidth))
        operands.vectors = UnsafePointer(errors + (rows.lowerBound &- first) &* 256)
        operands.depth = Int64(rows.count &* panelWidth)
        operands.out = products
        product(&operands)
    }
}

extension Gram {
    func requireColumns(_ k: Int64, _ expected: Text) throws(Failure) {
        if layout.k != k { throw Failure(INT4Q_ERROR_MISMATCH, "gram", .integer(layout.k), expected: expected, bound: UInt64(k)) }
    }

    /// What makes a mean of a sum over the rows that were seen.
    var share: Double { rows == 0 ? 0 : 1 / Double(rows) }
    var panels: Int { layout.triangle.panels }
}
