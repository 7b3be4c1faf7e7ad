// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// HQQ: a group's offset so that few weights are far from their values, by alternating between the errors that are let be, e, and
/// the offset that is best for the rest.
public struct HalfQuadratic {
    private let tensor: QuantizedTensor
    private let source: Matrix
    private let options: int4q_hqq_options
    private let kernels: i4q_kernels
    /// Errors of up to this magnitude leave nothing in e.
    private let threshold: Double

    public init(_ tensor: QuantizedTensor, _ source: Matrix, _ options: int4q_hqq_options, _ kernels: i4q_kernels) throws(Failure) {
        try requireStructSize(options.struct_size, of: int4q_hqq_options.self, "options.struct_size")
        if options.iterations < 0 || options.iterations > 1000 {
            throw .invalid("options.iterations", Int64(options.iterations), expected: "0 to 1000")
        }
        if !(options.p > 0 && options.p <= 1) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "options.p", .number(Float(options.p)), expected: "above 0 and at most 1")
        }
        if !(options.beta > 0 && options.beta.isFinite) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "options.beta", .number(Float(options.beta)), expected: "finite and above 0")
        }
        if tensor.scheme.kind != .offset || tensor.scheme.usesGgmlRounding || tensor.scheme.usesMlxRounding {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "tensor.scheme", .text("another kind or rounding"),
                          expected: "INT4Q_KIND_OFFSET and INT4Q_ROUNDING_NEAREST_EVEN")
        }
        self.tensor = tensor
        self.source = source
        self.options = options
        self.kernels = kernels
        threshold = i4q_pow(options.beta, -1 / (2 - options.p))
    }

    @inline(never)
    public func run(_ rows: Range<Int64>) throws(Failure) {
        try quantize(tensor, source, rows: rows, kernels)
        try FloatRuns.with(source, "source", kernels) { (runs) throws(Failure) in
            for row in rows {
                for group in 0..<Int(tensor.layout.groupsPerRow) { improve(runs, Int(row), group) }
            }
        }
    }

    private func improve(_ runs: FloatRuns, _ row: Int, _ group: Int) {
        let index = tensor.groupIndex(row, group), type = tensor.scheme.scaleType, size = tensor.layout.groupSize
        guard let offsets = tensor.offsets else { return }
        let columns = group * size..<min(group * size + size, source.columns)
        let scale = Double(type.load(tensor.scales, index)), start = type.load(offsets, index)
        if scale == 0 { return }
        var offset = start, best = start, least = Double.infinity, iteration: Int32 = 0
        while iteration <= options.iterations {
            let (error, next) = pass(runs, row, columns, scale, Double(offset))
            if !(error < least) { break }
            least = error
            best = offset
            offset = type.rounded(Float(next))
            if !offset.isFinite { break }
            iteration += 1
        }
        if best == start { return }
        type.store(best, offsets, index)
        encode(runs, row, columns, scale: Float(scale), offset: best)
    }

    /// The sum of |d| with an offset, and the offset that it leads to.
    @inline(never)
    private func pass(_ runs: FloatRuns, _ row: Int, _ columns: Range<Int>, _ scale: Double, _ offset: Double) -> (Double, Double) {
        var error = 0.0, sum = 0.0, column = columns.lowerBound
        let beta = options.beta, power = options.p - 1
        while column < columns.upperBound {
            let count = runs.load(row, column, count: min(FloatRuns.length, columns.upperBound - column))
            for index in 0..<count {
                let weight = Double(runs.floats[index])
                let steps = max(min((weight - offset) / scale, 15), 0)
                // 1.5 * 2^52: rounds half to even.
                let value = scale * ((steps + 6_755_399_441_055_744) - 6_755_399_441_055_744)
                let distance = weight - value - offset, magnitude = distance.magnitude
                error += magnitude
                sum += weight - value
                if magnitude <= threshold { continue }
                let kept = magnitude - i4q_pow(magnitude, power) / beta
                if kept > 0 { sum -= distance < 0 ? -kept : kept }
            }
            column += count
        }
        return (error, sum / Double(columns.count))
    }

    private func encode(_ runs: FloatRuns, _ row: Int, _ columns: Range<Int>, scale: Float, offset: Float) {
        // So that differences of the largest floats stay finite.
        let gain: Float = scale.magnitude > 0x1p120 ? 0.5 : 1
        var encoding = i4q_encoding(scale: scale * gain, offset: offset * gain, gain: gain, zero: 0, low: 0, high: 15, reciprocal: 0,
                                    ggml_bias: 0, table: nil)
        var column = columns.lowerBound
        while column < columns.upperBound {
            let count = runs.load(row, column, count: min(FloatRuns.length, columns.upperBound - column))
            kernels.encode.unsafelyUnwrapped(&encoding, runs.floats, Int64(count), tensor.codesRow(row) + column / 2)
            column += count
        }
    }
}
