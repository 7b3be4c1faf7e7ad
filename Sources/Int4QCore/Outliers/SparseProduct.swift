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

    public func add(m: Int64, rows: Range<Int64>) {
        if rows.isEmpty || sparse.elements(of: rows).isEmpty { return }
        switch x.type.raw {
        case int4q_type(INT4Q_TYPE_F32): add(m, rows) { $0.loadUnaligned(fromByteOffset: $1 &* 4, as: Float.self) }
        case int4q_type(INT4Q_TYPE_F16):
            add(m, rows) { Float16Bits.float($0.loadUnaligned(fromByteOffset: $1 &* 2, as: UInt16.self)) }
        default: add(m, rows) { BFloat16Bits.float($0.loadUnaligned(fromByteOffset: $1 &* 2, as: UInt16.self)) }
        }
    }

    @inline(__always)
    private func add(_ m: Int64, _ rows: Range<Int64>, _ element: (UnsafeRawPointer, Int) -> Float) {
        var row = 0
        while row < Int(m) {
            if Int(m) - row >= 4 {
                addFour(row, rows, element)
                row += 4
            } else {
                addOne(row, rows, element)
                row += 1
            }
        }
    }

    @inline(__always)
    private func addOne(_ row: Int, _ rows: Range<Int64>, _ element: (UnsafeRawPointer, Int) -> Float) {
        let source = x.row(row)
        for column in Int(rows.lowerBound)..<Int(rows.upperBound) {
            let elements = sparse.elements(of: column)
            if elements.isEmpty { continue }
            var sum = 0.0
            for index in elements {
                let product = Double(element(source, Int(sparse.columns[index]))) * Double(sparse.values[index])
                sum += product
            }
            store(sum, row, column)
        }
    }

    /// Four rows that share the reading of indices.
    @inline(__always)
    private func addFour(_ row: Int, _ rows: Range<Int64>, _ element: (UnsafeRawPointer, Int) -> Float) {
        let x0 = x.row(row), x1 = x.row(row + 1), x2 = x.row(row + 2), x3 = x.row(row + 3)
        for column in Int(rows.lowerBound)..<Int(rows.upperBound) {
            let elements = sparse.elements(of: column)
            if elements.isEmpty { continue }
            var sum0 = 0.0, sum1 = 0.0, sum2 = 0.0, sum3 = 0.0
            for index in elements {
                let place = Int(sparse.columns[index]), value = Double(sparse.values[index])
                let p0 = Double(element(x0, place)) * value, p1 = Double(element(x1, place)) * value
                let p2 = Double(element(x2, place)) * value, p3 = Double(element(x3, place)) * value
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

    @inline(__always)
    private func store(_ sum: Double, _ row: Int, _ column: Int) {
        let place = y.mutableRow(row)
        y.type.store(Float(Double(y.type.load(place, column)) + sum), place, column)
    }
}

extension SparseMatrix {
    func elements(of rows: Range<Int64>) -> Range<Int> {
        Int(rowOffsets[Int(rows.lowerBound)])..<Int(rowOffsets[Int(rows.upperBound)])
    }
}
