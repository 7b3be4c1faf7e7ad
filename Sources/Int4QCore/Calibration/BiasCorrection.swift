// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// What rounding and clipping did to each row's mean and spread.
@inline(never)
public func measureBias(_ tensor: QuantizedTensor, _ source: Matrix, _ shifts: UnsafeMutablePointer<Double>,
                        _ ratios: UnsafeMutablePointer<Double>, rows: Range<Int64>, _ kernels: i4q_kernels) throws(Failure) {
    try TensorRuns.with(tensor, source, kernels) { (runs) throws(Failure) in
        for row in rows {
            let means = try runs.sums(Int(row), 0, 0) { value, mean in value - mean }
            let k = Double(tensor.layout.k)
            let mean = means.source / k, decodedMean = means.decoded / k
            let squares = try runs.sums(Int(row), mean, decodedMean) { value, mean in (value - mean) * (value - mean) }
            let isUsable = squares.source > 0 && squares.decoded > 0
            let ratio = isUsable ? (squares.source / squares.decoded).squareRoot() : 1
            ratios[Int(row)] = ratio
            shifts[Int(row)] = mean / ratio - decodedMean
        }
    }
}

extension TensorRuns {
    /// Sums over a row of a term of each value and its mean.
    @inline(__always)
    fileprivate func sums(_ row: Int, _ mean: Double, _ decodedMean: Double,
                          _ term: (Double, Double) -> Double) throws(Failure) -> (source: Double, decoded: Double) {
        var sums = (source: 0.0, decoded: 0.0)
        var column = 0
        while column < runs.source.columns {
            let count = try load(row, column)
            for index in 0..<count {
                sums.source += term(Double(source[index]), mean)
                sums.decoded += term(Double(decoded[index]), decodedMean)
            }
            column += count
        }
        return sums
    }
}

/// Scales and offsets that include a measured correction.
public struct BiasCorrection {
    private let tensor: QuantizedTensor
    private let shifts: UnsafePointer<Double>?
    private let ratios: UnsafePointer<Double>

    public init(_ tensor: QuantizedTensor, shifts: UnsafePointer<Double>?, ratios: UnsafePointer<Double>?) throws(Failure) {
        if tensor.scheme.hasUnitScale {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "tensor.scheme.scale_rule", .text("INT4Q_SCALE_ONE"),
                          expected: "scales that can be corrected")
        }
        if tensor.scheme.kind == .offset {
            self.shifts = try require(shifts, "shifts")
        } else if shifts != nil {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "shifts", .text("a pointer"), expected: "NULL unless the kind is OFFSET")
        } else {
            self.shifts = nil
        }
        self.tensor = tensor
        self.ratios = try require(ratios, "ratios")
    }

    @inline(never)
    public func apply(rows: Range<Int64>) throws(Failure) {
        for row in rows {
            try requireUsable(Int(row))
            try correct(Int(row), writes: false)
            try correct(Int(row), writes: true)
        }
    }

    private func requireUsable(_ row: Int) throws(Failure) {
        if !(ratios[row] > 0 && ratios[row].isFinite) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "ratios", .listed(index: Int64(row), Float(ratios[row])),
                          expected: "finite numbers above 0")
        }
        if let shifts, !shifts[row].isFinite {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "shifts", .listed(index: Int64(row), Float(shifts[row])),
                          expected: "finite numbers")
        }
    }

    /// The row's groups, first all looked at, then all written.
    private func correct(_ row: Int, writes: Bool) throws(Failure) {
        for group in 0..<Int(tensor.layout.groupsPerRow) {
            try correct(tensor.scales, row, group, shift: 0, writes: writes, "tensor.scales")
            if let offsets = tensor.offsets, let shifts {
                try correct(offsets, row, group, shift: shifts[row], writes: writes, "tensor.offsets")
            }
        }
    }

    @inline(never)
    private func correct(_ values: UnsafeMutableRawPointer, _ row: Int, _ group: Int, shift: Double, writes: Bool,
                         _ name: Text) throws(Failure) {
        let type = tensor.scheme.scaleType, index = tensor.groupIndex(row, group)
        let value = (Double(type.load(values, index)) + shift) * ratios[row]
        let rounded = type.rounded(Float(value))
        if !rounded.isFinite {
            throw Failure(INT4Q_ERROR_NOT_FINITE, name, .element(row: Int64(row), column: Int64(group), Float(value)),
                          expected: "values that their type can hold")
        }
        if writes { type.store(rounded, values, index) }
    }
}

/// What a layer's outputs are off by on average.
@inline(never)
public func writeOutputBias(_ tensor: QuantizedTensor, _ source: Matrix, means: UnsafePointer<Double>,
                            _ corrections: UnsafeMutablePointer<Double>, rows: Range<Int64>,
                            _ kernels: i4q_kernels) throws(Failure) {
    for column in 0..<source.columns where !means[column].isFinite {
        throw Failure(INT4Q_ERROR_NOT_FINITE, "x_means", .listed(index: Int64(column), Float(means[column])),
                      expected: "finite numbers")
    }
    try TensorRuns.with(tensor, source, kernels) { (runs) throws(Failure) in
        for row in rows {
            var sum = 0.0
            var column = 0
            while column < source.columns {
                let count = try runs.load(Int(row), column)
                for index in 0..<count {
                    let error = Double(runs.source[index]) - Double(runs.decoded[index])
                    sum += error * means[column + index]
                }
                column += count
            }
            corrections[Int(row)] = sum
        }
    }
}
