// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Sums over two matrices in binary64, row by row.
public struct Comparison {
    private var errorSquares = 0.0
    private var referenceSquares = 0.0
    private var candidateSquares = 0.0
    private var products = 0.0
    private var largest = 0.0
    private var largestRow: Int64 = 0
    private var largestColumn: Int64 = 0
    private var count: Double

    @_optimize(speed)
    public init(_ reference: Matrix, _ candidate: Matrix, rows: Int64) throws(Failure) {
        count = Double(rows) * Double(reference.columns)
        for row in 0..<rows {
            for column in 0..<reference.columns {
                let expected = reference.type.loadInline(reference.row(Int(row)), column)
                let actual = candidate.type.loadInline(candidate.row(Int(row)), column)
                if !expected.isFinite { throw notFinite("reference", row, column, expected) }
                if !actual.isFinite { throw notFinite("candidate", row, column, actual) }
                add(Double(expected), Double(actual), row, Int64(column))
            }
        }
    }

    private mutating func add(_ expected: Double, _ actual: Double, _ row: Int64, _ column: Int64) {
        let error = actual - expected
        errorSquares += error * error
        referenceSquares += expected * expected
        candidateSquares += actual * actual
        products += expected * actual
        if error.magnitude > largest {
            largest = error.magnitude
            largestRow = row
            largestColumn = column
        }
    }

    private func notFinite(_ name: Text, _ row: Int64, _ column: Int, _ value: Float) -> Failure {
        Failure(INT4Q_ERROR_NOT_FINITE, name, .element(row: row, column: Int64(column), value), expected: "finite values")
    }

    public func write(to metrics: UnsafeMutablePointer<int4q_metrics>) {
        metrics.pointee.mse = errorSquares / count
        metrics.pointee.sqnr_db = signalToNoise
        metrics.pointee.cosine = cosine
        metrics.pointee.max_abs_error = largest
        metrics.pointee.max_error_row = largestRow
        metrics.pointee.max_error_column = largestColumn
    }

    private var signalToNoise: Double {
        if errorSquares == 0 { return .infinity }
        return referenceSquares == 0 ? -.infinity : 10 * i4q_log10(referenceSquares / errorSquares)
    }

    private var cosine: Double {
        if referenceSquares == 0 && candidateSquares == 0 { return 1 }
        if referenceSquares == 0 || candidateSquares == 0 { return 0 }
        return products / (referenceSquares.squareRoot() * candidateSquares.squareRoot())
    }
}
