// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Squared errors and squares per group and per row, for those that a caller wants.
public struct ErrorReport {
    let groupErrors: UnsafeMutablePointer<Double>?
    let groupSquares: UnsafeMutablePointer<Double>?
    let rowErrors: UnsafeMutablePointer<Double>?
    let rowSquares: UnsafeMutablePointer<Double>?

    public init(groupErrors: UnsafeMutablePointer<Double>?, groupSquares: UnsafeMutablePointer<Double>?,
                rowErrors: UnsafeMutablePointer<Double>?, rowSquares: UnsafeMutablePointer<Double>?) throws(Failure) {
        func checked(_ pointer: UnsafeMutablePointer<Double>?,
                     _ name: Text) throws(Failure) -> UnsafeMutablePointer<Double>? {
            pointer == nil ? nil : try require(pointer, name)
        }
        if groupErrors == nil && groupSquares == nil && rowErrors == nil { _ = try require(rowSquares, "row_squares") }
        self.groupErrors = try checked(groupErrors, "group_errors")
        self.groupSquares = try checked(groupSquares, "group_squares")
        self.rowErrors = try checked(rowErrors, "row_errors")
        self.rowSquares = try checked(rowSquares, "row_squares")
    }

    @inline(never)
    public func write(_ tensor: QuantizedTensor, _ source: Matrix, rows: Range<Int64>, _ kernels: i4q_kernels) throws(Failure) {
        try TensorRuns.with(tensor, source, kernels) { (runs) throws(Failure) in
            for row in rows { try write(Int(row), runs) }
        }
    }

    private func write(_ row: Int, _ runs: TensorRuns) throws(Failure) {
        let layout = runs.tensor.layout
        var errors = 0.0, squares = 0.0
        for group in 0..<Int(layout.groupsPerRow) {
            let sums = try self.sums(row, group, runs)
            errors += sums.error
            squares += sums.square
            groupErrors?[runs.tensor.groupIndex(row, group)] = sums.error
            groupSquares?[runs.tensor.groupIndex(row, group)] = sums.square
        }
        rowErrors?[row] = errors
        rowSquares?[row] = squares
    }

    @inline(never)
    private func sums(_ row: Int, _ group: Int, _ runs: TensorRuns) throws(Failure) -> (error: Double, square: Double) {
        let layout = runs.tensor.layout
        let end = min((group + 1) * layout.groupSize, Int(layout.k))
        var error = 0.0, square = 0.0
        var column = group * layout.groupSize
        while column < end {
            let count = try runs.load(row, column)
            for index in 0..<count {
                let value = Double(runs.source[index]), distance = value - Double(runs.decoded[index])
                error += distance * distance
                square += value * value
            }
            column += count
        }
        return (error, square)
    }
}
