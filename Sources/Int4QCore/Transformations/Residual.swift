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

    /// Calls body(floats, row, column, count) for runs of at most 256 elements that cover some columns, the first of which is a
    /// multiple of 256, of some rows.
    @_optimize(speed) @inline(never)
    func eachRun(_ rows: Range<Int>, _ columns: Range<Int>,
                 _ body: (UnsafeMutablePointer<Float>, Int, Int, Int) -> Void) throws(Failure) {
        try FloatRuns.with(source, "source", kernels) { (runs) throws(Failure) in
            for row in rows {
                var column = columns.lowerBound
                while column < columns.upperBound {
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
                    body(runs.floats, row, column, count)
                    column &+= count
                }
            }
        }
    }

    /// Errors of up to 16 rows as [columns rounded up to 16][16], lanes being rows; what is beyond is zero.
    @inline(never)
    func load(_ rows: Range<Int>, into lanes: UnsafeMutablePointer<Float>) {
        lanes.update(repeating: 0, count: ((columns &+ 15) & ~15) &* 16)
        // Values that are not finite have been found before.
        do throws(Failure) {
            try eachRun(rows, 0..<columns) { floats, row, column, count in
                let target = lanes + (column &* 16 &+ row &- rows.lowerBound)
                for index in 0..<count { target[index &* 16] = floats[index] }
            }
        } catch {}
    }

    /// Up to 256 columns of up to 128 rows as panels [16][128][16]; columns beyond the last one are zero.
    @inline(never)
    func load(_ rows: Range<Int>, _ columns: Range<Int>, panels: UnsafeMutablePointer<Float>) {
        if columns.count & 15 != 0 {
            (panels + columns.count / 16 &* chainLength &* 16).update(repeating: 0, count: chainLength &* 16)
        }
        do throws(Failure) {
            try eachRun(rows, columns) { floats, row, column, count in
                var index = 0
                while index < count {
                    let place = (column &- columns.lowerBound &+ index) / 16 &* chainLength &+ row &- rows.lowerBound
                    (panels + place &* 16).update(from: floats + index, count: min(16, count &- index))
                    index &+= 16
                }
            }
        } catch {}
    }

    /// The largest magnitude, unscaled.
    @inline(never)
    func largest(_ rows: Range<Int>) throws(Failure) -> Float {
        var largest: Float = 0
        try eachRun(rows, 0..<columns) { floats, _, _, count in
            for index in 0..<count { largest = max(largest, floats[index].magnitude) }
        }
        return largest
    }

    /// The sum of squares.
    @inline(never)
    func squares(_ rows: Range<Int>) -> Double {
        var sum = 0.0
        do throws(Failure) {
            try eachRun(rows, 0..<columns) { floats, _, _, count in
                for index in 0..<count { sum += Double(floats[index]) * Double(floats[index]) }
            }
        } catch {}
        return sum
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
