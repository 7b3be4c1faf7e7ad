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

    @inline(never)
    public init(_ tensor: QuantizedTensor, _ source: Matrix, _ options: int4q_hqq_options,
                _ kernels: i4q_kernels) throws(Failure) {
        try requireStructSize(options.struct_size, of: int4q_hqq_options.self, "options.struct_size")
        if options.iterations < 0 || options.iterations > 1000 {
            throw .invalid("options.iterations", Int64(options.iterations), expected: "0 to 1000")
        }
        if !(options.p > 0 && options.p <= 1) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "options.p", .number(Float(options.p)),
                          expected: "above 0 and at most 1")
        }
        if !(options.beta > 0 && options.beta.isFinite) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "options.beta", .number(Float(options.beta)),
                          expected: "finite and above 0")
        }
        if tensor.scheme.kind != .offset || tensor.scheme.hasGivenScales || tensor.scheme.usesGgmlRounding || tensor.scheme.usesMlxRounding {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "tensor.scheme", .text("another kind or rounding"),
                          expected: "INT4Q_KIND_OFFSET, INT4Q_ROUNDING_NEAREST_EVEN and no given scales")
        }
        self.tensor = tensor
        self.source = source
        self.options = options
        self.kernels = kernels
        threshold = i4q_pow(options.beta, -1 / (2 - options.p))
    }

    @inline(never)
    public func run(_ rows: Range<Int64>) throws(Failure) {
        try QuantizingMemory.use { (memory) throws(Failure) in
            let quantizer = RowQuantizer(TensorSink(tensor: tensor), source, from: Int(rows.lowerBound), kernels, memory)
            for row in rows {
                for group in 0..<Int(tensor.layout.groupsPerRow) {
                    var parameters = try quantizer.parameters(Int(row), group)
                    improve(&parameters, quantizer, Int(row), quantizer.columns(group))
                    quantizer.put(parameters, Int(row), group)
                }
            }
        }
    }

    @inline(never)
    private func improve(_ parameters: inout GroupParameters, _ quantizer: RowQuantizer<TensorSink>, _ row: Int,
                         _ columns: Range<Int>) {
        if parameters.scale == 0 { return }
        var offset = parameters.offset, least = Double.infinity, iteration: Int32 = 0
        while iteration <= options.iterations && offset.isFinite {
            let (error, next) = pass(quantizer, row, columns, Double(parameters.scale), Double(offset))
            if !(error < least) { break }
            least = error
            parameters.offset = offset
            offset = tensor.scheme.scaleType.rounded(Float(next))
            iteration += 1
        }
        let gain = parameters.encoding?.gain ?? 1
        parameters.encoding?.offset = parameters.offset * gain
    }

    /// The sum of |d| with an offset, and the offset that it leads to.
    @inline(never)
    private func pass(_ quantizer: RowQuantizer<TensorSink>, _ row: Int, _ columns: Range<Int>, _ scale: Double,
                      _ offset: Double) -> (Double, Double) {
        var error = 0.0, sum = 0.0, column = columns.lowerBound
        let beta = options.beta, power = options.p - 1, highest = Double(tensor.scheme.width.largest)
        while column < columns.upperBound {
            let count = min(RowQuantizer<TensorSink>.chunk, columns.upperBound - column)
            quantizer.load(row, column, count)
            for index in 0..<count {
                let weight = Double(quantizer.floats[index])
                let steps = max(min((weight - offset) / scale, highest), 0)
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
}
