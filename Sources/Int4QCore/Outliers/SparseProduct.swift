// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// y += x S^T for a few columns of y. Each sum is binary64 in the order of the columns, whatever is computed beside it.
public struct SparseProduct {
    let sparse: SparseMatrix
    let x: Matrix
    let y: Matrix

    public init(_ sparse: SparseMatrix, x: Matrix, y: Matrix) {
        self.sparse = sparse
        self.x = x
        self.y = y
    }

    @inline(never)
    public func add(m: Int64, rows: Range<Int64>) {
        if rows.isEmpty || sparse.elements(of: rows).isEmpty { return }
        let isFloat = x.type.size == 4
        var row = 0
        while row < Int(m) {
            if isFloat && Int(m) - row >= 4 {
                addFour(row, rows)
                row += 4
            } else {
                addOne(row, rows)
                row += 1
            }
        }
    }

    @inline(never)
    private func addOne(_ row: Int, _ rows: Range<Int64>) {
        let source = x.row(row)
        for column in Int(rows.lowerBound)..<Int(rows.upperBound) {
            let elements = sparse.elements(of: column)
            if elements.isEmpty { continue }
            var sum = 0.0
            for index in elements {
                let product = Double(x.type.load(source, Int(sparse.columns[index]))) * Double(sparse.values[index])
                sum += product
            }
            store(sum, row, column)
        }
    }

    /// Four rows of floats that share the reading of indices.
    @inline(never)
    private func addFour(_ row: Int, _ rows: Range<Int64>) {
        let x0 = floats(row), x1 = floats(row + 1), x2 = floats(row + 2), x3 = floats(row + 3)
        for column in Int(rows.lowerBound)..<Int(rows.upperBound) {
            let elements = sparse.elements(of: column)
            if elements.isEmpty { continue }
            var sum0 = 0.0, sum1 = 0.0, sum2 = 0.0, sum3 = 0.0
            for index in elements {
                let place = Int(sparse.columns[index]), value = Double(sparse.values[index])
                let p0 = Double(x0[place]) * value, p1 = Double(x1[place]) * value
                let p2 = Double(x2[place]) * value, p3 = Double(x3[place]) * value
                sum0 += p0
                sum1 += p1
                sum2 += p2
                sum3 += p3
            }
            store(sum0, row, column)
            store(sum1, row + 1, column)
            store(sum2, row + 2, column)
            store(sum3, row + 3, column)
        }
    }

    private func floats(_ row: Int) -> UnsafePointer<Float> { x.row(row).assumingMemoryBound(to: Float.self) }

    @inline(__always)
    private func store(_ sum: Double, _ row: Int, _ column: Int) {
        let place = y.mutableRow(row)
        if y.type.size == 4 {
            let value = place + column &* 4
            value.storeBytes(of: Float(Double(value.loadUnaligned(as: Float.self)) + sum), as: Float.self)
            return
        }
        y.type.store(Float(Double(y.type.load(place, column)) + sum), place, column)
    }
}

extension SparseMatrix {
    func elements(of rows: Range<Int64>) -> Range<Int> {
        Int(rowOffsets[Int(rows.lowerBound)])..<Int(rowOffsets[Int(rows.upperBound)])
    }
}
