// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Raises each column's maximum to its largest magnitude.
@inline(never)
public func raise(_ maxima: UnsafeMutablePointer<Float>, _ source: Matrix, rows: Range<Int64>, _ kernels: i4q_kernels) throws(Failure) {
    try FloatRuns.with(source, "source", kernels) { (runs) throws(Failure) in
        for row in rows {
            var column = 0
            while column < source.columns {
                let count = runs.load(Int(row), column)
                _ = try runs.range(count, Int(row), column)
                for index in 0..<count { maxima[column &+ index] = max(maxima[column &+ index], runs.floats[index].magnitude) }
                column += count
            }
        }
    }
}

/// SmoothQuant's factors.
public struct SmoothFactors {
    private let x: UnsafePointer<Float>
    private let weights: UnsafePointer<Float>
    private let alpha: Double

    public init(x: UnsafePointer<Float>, weights: UnsafePointer<Float>, alpha: Double) throws(Failure) {
        if !(alpha >= 0 && alpha <= 1) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "alpha", .number(Float(alpha)), expected: "0 to 1")
        }
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

    private func factor(_ x: Float, _ weight: Float) -> Double {
        if x == 0 || weight == 0 { return 1 }
        return max(i4q_pow(Double(x), alpha) / i4q_pow(Double(weight), 1 - alpha), 1e-5)
    }

    private func maximum(_ maxima: UnsafePointer<Float>, _ index: Int, _ name: StaticString) throws(Failure) -> Float {
        let value = maxima[index]
        if value >= 0 && value.isFinite { return value }
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, name, .listed(index: Int64(index), value), expected: "finite numbers, none below 0")
    }
}

/// A matrix with each column times, or divided by, its factor.
public struct ColumnScaling {
    let factors: UnsafePointer<Float>
    let divides: Bool

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
        try FloatRuns.with(source, "source", kernels) { (runs) throws(Failure) in
            for row in rows {
                let target = destination.mutableRow(Int(targetRow &+ row &- rows.lowerBound))
                var column = 0
                while column < source.columns {
                    let count = runs.load(Int(row), column), floats = runs.floats, factors = self.factors + column
                    if divides {
                        for index in 0..<count { floats[index] /= factors[index] }
                    } else {
                        for index in 0..<count { floats[index] *= factors[index] }
                    }
                    kernels.store.unsafelyUnwrapped(floats, Int64(count), Int64(destination.type.raw),
                                                    target + column &* destination.type.size)
                    column += count
                }
            }
        }
    }
}
