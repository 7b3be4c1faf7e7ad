// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

@inline(never)
public func countOutliers(_ fit: OutlierFit, _ source: Matrix, _ counts: UnsafeMutablePointer<Int64>, rows: Range<Int64>,
                          _ kernels: i4q_kernels) throws(Failure) {
    try FloatRuns.with(source, "source", kernels) { (runs) throws(Failure) in
        for row in rows {
            var total: Int64 = 0
            var column = 0
            while column < source.columns {
                let count = runs.load(Int(row), column)
                let range = try runs.range(count, Int(row), column)
                if fit.isOutlier(range.min) || fit.isOutlier(range.max) { total += fit.count(in: runs.floats, count) }
                column += count
            }
            counts[Int(row)] = total
        }
    }
}

extension OutlierFit {
    fileprivate func count(in floats: UnsafePointer<Float>, _ count: Int) -> Int64 {
        var total: Int64 = 0
        var index = next(in: floats, 0, count)
        while index < count {
            total += 1
            index = next(in: floats, index + 1, count)
        }
        return total
    }

    /// The first outlier from an index on, or `count`.
    fileprivate func next(in floats: UnsafePointer<Float>, _ from: Int, _ count: Int) -> Int {
        Int(i4q_next_outside(floats, Int64(from), Int64(count), lowest, highest))
    }
}

public struct OutlierSplitter {
    let fit: OutlierFit
    let sparse: SparseMatrix
    let dense: Matrix

    public init(_ fit: OutlierFit, _ sparse: SparseMatrix, dense: Matrix) {
        self.fit = fit
        self.sparse = sparse
        self.dense = dense
    }

    @inline(never)
    public func split(_ source: Matrix, rows: Range<Int64>, _ kernels: i4q_kernels) throws(Failure) {
        try FloatRuns.with(source, "source", kernels) { (runs) throws(Failure) in
            for row in rows { try split(Int(row), runs, kernels) }
        }
    }

    private func split(_ row: Int, _ runs: FloatRuns, _ kernels: i4q_kernels) throws(Failure) {
        let elements = sparse.elements(of: row)
        var next = elements.lowerBound
        var column = 0
        while column < runs.source.columns {
            let count = runs.load(row, column)
            let range = try runs.range(count, row, column)
            if fit.isOutlier(range.min) || fit.isOutlier(range.max) {
                next = try takeOutliers(runs.floats, count, row, column, next, elements.upperBound)
            }
            kernels.store.unsafelyUnwrapped(runs.floats, Int64(count), Int64(dense.type.raw),
                                            dense.mutableRow(row) + column * dense.type.size)
            column += count
        }
        if next != elements.upperBound { throw mismatch(elements, row) }
    }

    /// Moves a run's outliers to the sparse part from `next` on; where the next ones go.
    private func takeOutliers(_ floats: UnsafeMutablePointer<Float>, _ count: Int, _ row: Int, _ column: Int, _ begin: Int,
                              _ end: Int) throws(Failure) -> Int {
        var next = begin
        var index = fit.next(in: floats, 0, count)
        while index < count {
            if next == end { throw mismatch(sparse.elements(of: row), row) }
            sparse.columns[next] = Int32(truncatingIfNeeded: column + index)
            sparse.values[next] = floats[index]
            floats[index] = fit.filler
            next += 1
            index = fit.next(in: floats, index + 1, count)
        }
        return next
    }

    private func mismatch(_ elements: Range<Int>, _ row: Int) -> Failure {
        Failure(INT4Q_ERROR_MISMATCH, "sparse.row_offsets", .integer(Int64(elements.count)),
                expected: "the number of outliers in row", bound: UInt64(row))
    }
}

/// Sparse values that make up for what the dense part's tensor gives in their places.
@inline(never)
public func correct(_ sparse: SparseMatrix, _ tensor: QuantizedTensor, _ source: Matrix, rows: Range<Int64>,
                    _ kernels: i4q_kernels) throws(Failure) {
    for row in rows {
        for index in sparse.elements(of: Int(row)) {
            let column = Int(sparse.columns[index])
            let weight = source.type.load(source.row(Int(row)), column)
            let value = Float(Double(weight) - Double(tensor.value(Int(row), column, kernels)))
            if !value.isFinite {
                throw Failure(INT4Q_ERROR_NOT_FINITE, "source", .element(row: row, column: Int64(column), weight),
                              expected: "a finite distance from the dequantized weight")
            }
            sparse.values[index] = value
        }
    }
}

extension QuantizedTensor {
    /// One element, as dequantizing gives it.
    fileprivate func value(_ row: Int, _ column: Int, _ kernels: i4q_kernels) -> Float {
        let index = groupIndex(row, column / layout.groupSize)
        var decoding = scheme.decoding(scale: scheme.scaleType.load(scales, index), zeroPoint: zeroPoints?[index] ?? 0,
                                       offset: offsets.map { scheme.scaleType.load($0, index) } ?? 0, codebook: codebook(row))
        var code = UInt8(truncatingIfNeeded: scheme.width.code(codesRow(row), column))
        var value: Float = 0
        kernels.decode.unsafelyUnwrapped(&decoding, &code, 1, &value)
        return value
    }
}
