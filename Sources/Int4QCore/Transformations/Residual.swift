// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Weights less what a quantized tensor stands for, or the weights themselves; times a power of two.
struct Residual {
    let tensor: QuantizedTensor?
    let source: Matrix
    let rows: Int
    let kernels: i4q_kernels
    var scale: Float = 1

    var columns: Int { source.columns }

    /// Where elements go: nowhere, to [columns rounded up to 16][16] with a lane for each row, or to panels [16][128][16].
    private enum Form { case none, lanes, panels }

    /// Largest magnitude and sum of squares.
    private struct Sizes {
        var largest: Float = 0
        var squares = 0.0
    }

    /// Reads some rows of some columns, the first of which is a multiple of 256. One function for all: what takes the time is much
    /// the same.
    @inline(never)
    private func read(_ rows: Range<Int>, _ columns: Range<Int>, to target: UnsafeMutablePointer<Float>?,
                      _ form: Form) throws(Failure) -> Sizes {
        var sizes = Sizes()
        try FloatRuns.with(source, "source", kernels) { (runs) throws(Failure) in
            for row in rows {
                var column = columns.lowerBound
                while column < columns.upperBound {
                    let count = try load(runs, row, column)
                    let floats = runs.floats, first = column &- columns.lowerBound, lane = row &- rows.lowerBound
                    switch (form, target) {
                    case (.lanes, .some(let lanes)):
                        for index in 0..<count { lanes[(first &+ index) &* 16 &+ lane] = floats[index] }
                    case (.panels, .some(let panels)):
                        var index = 0
                        while index < count {
                            let place = (first &+ index) / 16 &* chainLength &+ lane
                            (panels + place &* 16).update(from: floats + index, count: min(16, count &- index))
                            index &+= 16
                        }
                    default:
                        for index in 0..<count {
                            sizes.largest = max(sizes.largest, floats[index].magnitude)
                            sizes.squares += Double(floats[index]) * Double(floats[index])
                        }
                    }
                    column &+= count
                }
            }
        }
        return sizes
    }

    /// A run of at most 256 elements; how many.
    @inline(never)
    private func load(_ runs: FloatRuns, _ row: Int, _ column: Int) throws(Failure) -> Int {
        let count: Int
        if let tensor {
            let pair = TensorRuns(tensor: tensor, runs: runs, kernels: kernels)
            count = try pair.load(row, column)
            for index in 0..<count { runs.floats[index] = (runs.floats[index] - pair.decoded[index]) * scale }
        } else {
            count = runs.load(row, column)
            _ = try runs.range(count, row, column)
            for index in 0..<count { runs.floats[index] *= scale }
        }
        return count
    }

    /// The largest magnitude. Fails for values that are not finite; what follows is for rows that have passed.
    func largest(_ rows: Range<Int>) throws(Failure) -> Float { try read(rows, 0..<columns, to: nil, .none).largest }

    func squares(_ rows: Range<Int>) -> Double {
        do throws(Failure) { return try read(rows, 0..<columns, to: nil, .none).squares } catch { return 0 }
    }

    /// Errors of up to 16 rows as lanes; what is beyond is zero.
    @inline(never)
    func load(_ rows: Range<Int>, into lanes: UnsafeMutablePointer<Float>) {
        lanes.update(repeating: 0, count: ((columns &+ 15) & ~15) &* 16)
        do throws(Failure) { _ = try read(rows, 0..<columns, to: lanes, .lanes) } catch {}
    }

    /// Up to 256 columns of up to 128 rows as panels; columns beyond the last one are zero.
    @inline(never)
    func load(_ rows: Range<Int>, _ columns: Range<Int>, panels: UnsafeMutablePointer<Float>) {
        if columns.count & 15 != 0 {
            (panels + columns.count / 16 &* chainLength &* 16).update(repeating: 0, count: chainLength &* 16)
        }
        do throws(Failure) { _ = try read(rows, columns, to: panels, .panels) } catch {}
    }
}

extension Gram {
    /// target[panel][columns][16 lanes] = G * source, of 16 columns of G, in binary64 rounded to binary32. Rows of `source` and
    /// `target`: this matrix's padded columns. `memory`: 2048 (chunk) and panels * 256 doubles.
    @inline(never)
    func multiply(panel: Int, _ source: UnsafePointer<Float>, _ target: UnsafeMutablePointer<Float>, lanePanels: Int, scale: Double,
                  _ memory: UnsafeMutablePointer<Double>, _ kernels: i4q_kernels) {
        let chunk = memory, out = memory + 2048, stride = layout.padded &* 16
        out.update(repeating: 0, count: lanePanels &* 256)
        func add(_ matrix: UnsafePointer<Double>, from row: Int, depth: Int) {
            var operands = i4q_wide_product()
            operands.matrix = matrix
            operands.depth = Int64(depth)
            for index in 0..<lanePanels {
                operands.vectors = source + (index &* stride &+ row &* 16)
                operands.out = out + index &* 256
                kernels.wide_product.unsafelyUnwrapped(&operands)
            }
        }
        // Down to the diagonal the panel itself, beyond it rows of later panels, turned.
        add(products + TrianglePanels.offset(panel), from: 0, depth: (panel &+ 1) &* 16)
        var first = panel &+ 1
        while first < panels {
            let end = min(first &+ 8, panels)
            for other in first..<end {
                let square = products + TrianglePanels.place(panel &* 16, other &* 16)
                for row in 0..<16 {
                    for column in 0..<16 { chunk[((other &- first) &* 16 &+ column) &* 16 &+ row] = square[row &* 16 &+ column] }
                }
            }
            add(chunk, from: first &* 16, depth: (end &- first) &* 16)
            first = end
        }
        for index in 0..<lanePanels {
            for place in 0..<256 { target[index &* stride &+ panel &* 256 &+ place] = Float(out[index &* 256 &+ place] * scale) }
        }
    }
}
