// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A caller's matrix in compressed rows whose descriptor was checked; its indices are, for the rows that a call reads.
public struct SparseMatrix {
    public let n: Int64
    public let k: Int64
    let capacity: Int64
    let rowOffsets: UnsafeMutablePointer<Int64>
    /// Both present if there is room for elements.
    private let columnsOrNil: UnsafeMutablePointer<Int32>?
    private let valuesOrNil: UnsafeMutablePointer<Float>?

    var columns: UnsafeMutablePointer<Int32> { columnsOrNil.unsafelyUnwrapped }
    var values: UnsafeMutablePointer<Float> { valuesOrNil.unsafelyUnwrapped }

    public init(_ raw: int4q_sparse) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_sparse.self, "sparse.struct_size")
        try requireZero(raw.reserved, "sparse.reserved")
        try requireAtLeast(raw.n, 1, "sparse.n")
        try requireAtLeast(raw.k, 1, "sparse.k")
        if raw.k > Int64(Int32.max) {
            throw .invalid("sparse.k", raw.k, expected: "at most", bound: UInt64(Int32.max))
        }
        try requireAtLeast(raw.capacity, 0, "sparse.capacity")
        _ = try CheckedSize(UInt64(raw.n), "sparse.n").plus(1).times(8)
        _ = try CheckedSize(UInt64(raw.capacity), "sparse.capacity").times(4)
        n = raw.n
        k = raw.k
        capacity = raw.capacity
        rowOffsets = try require(raw.row_offsets, "sparse.row_offsets")
        columnsOrNil = raw.capacity == 0 ? nil : try require(raw.columns, "sparse.columns")
        valuesOrNil = raw.capacity == 0 ? nil : try require(raw.values, "sparse.values")
    }

    func elements(of row: Int) -> Range<Int> { Int(rowOffsets[row])..<Int(rowOffsets[row + 1]) }

    @inline(never)
    public func requireOffsets(rows: Range<Int64>) throws(Failure) {
        if rows.isEmpty { return }
        var before: Int64 = 0
        for row in Int(rows.lowerBound)...Int(rows.upperBound) {
            let offset = rowOffsets[row]
            if offset < before || offset > capacity {
                throw Failure(INT4Q_ERROR_CORRUPT, "sparse.row_offsets", .integer(offset),
                              expected: "offsets that ascend from 0 or more to at most", bound: UInt64(capacity))
            }
            before = offset
        }
    }

    @inline(never)
    public func requireIndices(rows: Range<Int64>) throws(Failure) {
        try requireOffsets(rows: rows)
        for row in rows {
            var before: Int32 = -1
            for index in elements(of: Int(row)) {
                let column = columns[index]
                if column <= before || Int64(column) >= k {
                    throw Failure(INT4Q_ERROR_CORRUPT, "sparse.columns",
                                  .element(row: row, column: Int64(index) - rowOffsets[Int(row)], Float(column)),
                                  expected: "columns that ascend from 0 or more to below", bound: UInt64(k))
                }
                before = column
            }
        }
    }
}

/// Running sums of counts; they may be in the same memory.
@inline(never)
public func writeOffsets(_ counts: UnsafePointer<Int64>, n: Int64, _ offsets: UnsafeMutablePointer<Int64>) throws(Failure) -> Int64 {
    var total: Int64 = 0
    for row in 0..<Int(n) {
        let count = counts[row]
        if count < 0 { throw .invalid("row_counts", count, expected: "at least", bound: 0) }
        offsets[row] = total
        let (sum, overflow) = total.addingReportingOverflow(count)
        if overflow {
            throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, "row_counts", .integer(count), expected: "counts whose sum fits in 63 bits")
        }
        total = sum
    }
    offsets[Int(n)] = total
    return total
}
