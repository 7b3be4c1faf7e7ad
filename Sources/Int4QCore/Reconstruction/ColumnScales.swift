// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

extension Matrix {
    /// Calls body(runs, row, column, count) for each run of some rows. A value that is not finite ends it, if they are checked.
    /// The work is the body's and the kernels'; optimized, this is a copy for each body.
    @_optimize(none) @inline(never)
    func eachRun(_ rows: Range<Int64>, _ kernels: i4q_kernels, isChecked: Bool,
                 _ body: (FloatRuns, Int, Int, Int) -> Void) throws(Failure) {
        try FloatRuns.with(self, "source", kernels) { (runs) throws(Failure) in
            for row in rows {
                var column = 0
                while column < columns {
                    let count = runs.load(Int(row), column)
                    if isChecked { _ = try runs.range(count, Int(row), column) }
                    body(runs, Int(row), column, count)
                    column += count
                }
            }
        }
    }
}

/// Raises the maxima of columns, or of `size` neighbours each, to the largest magnitude. Each row may have its own, `stride` apart
/// from the first row's on.
@inline(never)
public func raise(_ maxima: UnsafeMutablePointer<Float>, _ source: Matrix, rows: Range<Int64>, size: Int = 1, stride: Int = 0,
                  _ kernels: i4q_kernels) throws(Failure) {
    try source.eachRun(rows, kernels, isChecked: true) { runs, row, column, count in
        let own = maxima + (row &- Int(rows.lowerBound)) &* stride
        for index in 0..<count {
            let place = (column &+ index) / size
            own[place] = max(own[place], runs.floats[index].magnitude)
        }
    }
}

/// SmoothQuant's factors.
public struct SmoothFactors {
    private let x: UnsafePointer<Float>
    private let weights: UnsafePointer<Float>
    private let alpha: Double

    @inline(never)
    public init(x: UnsafePointer<Float>, weights: UnsafePointer<Float>, alpha: Double) throws(Failure) {
        try requireShare(alpha, "alpha")
        self.x = x
        self.weights = weights
        self.alpha = alpha
    }

    @inline(never)
    public func write(to factors: UnsafeMutablePointer<Float>, count: Int) throws(Failure) {
        for index in 0..<count {
            let x = try maximum(x, index, "x_maxima"), weight = try maximum(weights, index, "weight_maxima")
            if Float(factor(x, weight)).isFinite { continue }
            throw Failure(INT4Q_ERROR_NOT_FINITE, "x_maxima", .listed(index: Int64(index), x),
                          expected: "maxima whose factors binary32 can hold")
        }
        for index in 0..<count { factors[index] = Float(factor(x[index], weights[index])) }
    }

    @inline(never)
    private func factor(_ x: Float, _ weight: Float) -> Double {
        if x == 0 || weight == 0 { return 1 }
        return max(i4q_pow(Double(x), alpha) / i4q_pow(Double(weight), 1 - alpha), 1e-5)
    }

    private func maximum(_ maxima: UnsafePointer<Float>, _ index: Int, _ name: Text) throws(Failure) -> Float {
        let value = maxima[index]
        if value >= 0 && value.isFinite { return value }
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, name, .listed(index: Int64(index), value),
                      expected: "finite numbers, none below 0")
    }
}

/// A matrix with each column times, or divided by, its factor.
public struct ColumnScaling {
    let factors: UnsafePointer<Float>
    let divides: Bool

    @inline(never)
    public init(_ factors: UnsafePointer<Float>, count: Int, operation: Int32) throws(Failure) {
        divides = operation == int32(INT4Q_COLUMNS_DIVIDE)
        if !divides && operation != int32(INT4Q_COLUMNS_MULTIPLY) {
            throw .invalid("operation", Int64(operation), expected: "INT4Q_COLUMNS_MULTIPLY or INT4Q_COLUMNS_DIVIDE")
        }
        self.factors = factors
        for index in 0..<count where !(factors[index] > 0 && factors[index].isFinite) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "factors", .listed(index: Int64(index), factors[index]),
                          expected: "finite numbers above 0")
        }
    }

    init(multiplyingBy factors: UnsafePointer<Float>) {
        self.factors = factors
        divides = false
    }

    /// Both may be the same matrix: a run has been read before it is written.
    @inline(never)
    public func apply(_ source: Matrix, to destination: Matrix, rows: Range<Int64>, from targetRow: Int64,
                      _ kernels: i4q_kernels) throws(Failure) {
        let store = kernels.store.unsafelyUnwrapped
        try source.eachRun(rows, kernels, isChecked: false) { runs, row, column, count in
            let target = destination.mutableRow(row &- Int(rows.lowerBound &- targetRow))
            for index in 0..<count {
                let factor = factors[column &+ index]
                runs.floats[index] = divides ? runs.floats[index] / factor : runs.floats[index] * factor
            }
            store(runs.floats, Int64(count), Int64(destination.type.raw), target + column &* destination.type.size)
        }
    }
}
