// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// How far a product's results may be from exact arithmetic: a running error analysis (Wilkinson; Higham, "Accuracy and
/// Stability of Numerical Algorithms", 3.3). The sums are followed in binary64; each operation in binary32 adds at most
/// u (|its exact result| + the error so far), u = 2^-24. Rounding activations adds what their type or step loses, times
/// the weight.
///
/// Worst case: all of it added up. Probable: roundings as independent bounded variables of mean zero, by Hoeffding's
/// inequality beyond 7.6 times the root of the sum of their squares with probability below 10^-12; and what is certain, not
/// random (values clipped or flushed, rounded codebooks and weights) as it is.
public struct ErrorBound {
    public enum Kind { case worstCase, probable }

    static let unit = 0x1p-24
    static let deviations = 7.6
    /// Of binary32, for operations whose result is subnormal.
    static let smallestHalf = 0x1p-150
    /// For binary64's own roundings, and for products of roundings.
    static let slack = 1 + 0x1p-10

    let product: Product
    let blob: Blob
    let x: Matrix
    let kind: Kind
    /// Of INT8 mode's integers for a codebook.
    let levels: Double

    public init(_ product: Product, _ args: int4q_matmul_args, _ kind: Kind) throws(Failure) {
        let plan = product.plan
        self.product = product
        self.kind = kind
        blob = try Blob(args.blob, bytes: args.blob_bytes)
        levels = product.integerCodebook(blob.base).map { Double($0.levels) } ?? 0
        x = try Matrix(args.x, try ElementType(int4q_type(truncatingIfNeeded: plan.xType), "plan.x_type"), rows: plan.m,
                       columns: plan.k, stride: args.ldx, .init("args.x", stride: "args.ldx"))
    }

    public func write(to bounds: UnsafeMutablePointer<Double>, stride: Int) {
        StackMemory<20>.use { memory in // 256 floats, and bytes
            let floats = memory.assumingMemoryBound(to: Float.self)
            for row in 0..<Int(product.plan.m) {
                for column in 0..<Int(product.plan.n) {
                    bounds[row * stride + column] = bound(row, column, floats)
                }
            }
        }
    }

    private func bound(_ row: Int, _ column: Int, _ floats: UnsafeMutablePointer<Float>) -> Double {
        let source = BlobRow(blob, Int64(column))
        var state = RunningError()
        for group in 0..<Int(blob.layout.groupCount) {
            let parameters = ColumnGroup(source, group, product, levels)
            guard !parameters.overflows, let step = step(row, group) else { return .infinity }
            add(group, row, parameters, step, floats, to: &state)
        }
        return rounded(state)
    }

    /// The step of a group's activations in INT8 mode, 0 in others; nil if the row is not finite there.
    private func step(_ row: Int, _ group: Int) -> ActivationStep? {
        let range = columns(group)
        var largest: Float = 0
        for column in range {
            let value = x.type.load(x.row(row), column)
            if !value.isFinite || (isBFloat && value.magnitude >= 0x1.ffp127) { return nil }
            largest = max(largest, value.magnitude)
        }
        if product.plan.mode != Int64(INT4Q_MODE_INT8) { return ActivationStep(step: 0, limit: .infinity) }
        if let given = product.steps {
            let step = Double(given[product.plan.groupSizeField == Int64(INT4Q_GROUP_PER_ROW) ? 0 : group])
            return ActivationStep(step: step, limit: 127 * step)
        }
        return largest < 0x1p-100 ? ActivationStep(step: 0, limit: 0) : ActivationStep(step: Double(largest) / 127, limit: .infinity)
    }

    private func columns(_ group: Int) -> Range<Int> {
        let begin = group * Int(blob.layout.groupSize)
        return begin..<min(begin + Int(blob.layout.groupSize), Int(blob.layout.k))
    }

    // MARK: One group

    private func add(_ group: Int, _ row: Int, _ w: ColumnGroup, _ step: ActivationStep, _ floats: UnsafeMutablePointer<Float>,
                     to state: inout RunningError) {
        var dot = RunningError()
        var sum = LaneSums()
        var magnitude = 0.0
        let codes = UnsafeMutableRawPointer(floats + ColumnGroup.longest).assumingMemoryBound(to: UInt8.self)
        var begin = columns(group).lowerBound
        let end = columns(group).upperBound
        while begin < end {
            let count = min(ColumnGroup.longest, end - begin)
            w.decode(begin, count, floats, codes)
            for index in 0..<count {
                let value = Double(x.type.load(x.row(row), begin + index))
                let code = Double(floats[index])
                dot.total += value * code
                magnitude += value.magnitude
                followRoundings(&dot, &sum, value, code, w)
                let weight = (w.scale * code + w.centre).magnitude
                // By what is multiplied: of a codebook in INT8 mode that may be another weight altogether.
                let error = w.error(at: Int(codes[index]), code)
                state.add(rounding(value, step) * (weight + error.magnitude))
                state.addCertain(cutOff(value, step) * weight + flushed(value, w))
                state.addSigned(value * error)
                if roundsWeights { followTiles(value * (w.scale * code + w.centre), begin + index, w, &state) }
            }
            begin += count
        }
        finish(dot, sum.folded(), magnitude, Double(end - columns(group).lowerBound), w, step, &state)
    }

    /// The group's dot product and sum as they are added up. BF16 mode's instructions differ in their order within a few k;
    /// what is said of them here holds for all.
    private func followRoundings(_ dot: inout RunningError, _ sum: inout LaneSums, _ value: Double, _ code: Double, _ w: ColumnGroup) {
        if roundsWeights { return sum.skip(value) }
        switch product.plan.mode {
        case Int64(INT4Q_MODE_F32): dot.round(dot.total)
        case Int64(INT4Q_MODE_BF16): dot.round(2 * dot.total.magnitude + 18 * (value * code).magnitude)
        default: sum.skip(value); return
        }
        if w.hasSums { sum.add(value) } else { sum.skip(value) }
    }

    /// AMX: products join one total over all of k, 32 at a time. Before that the even and the odd ones have sums of their own,
    /// with up to 16 roundings and one where they join, and up to all magnitudes together.
    private func followTiles(_ term: Double, _ column: Int, _ w: ColumnGroup, _ state: inout RunningError) {
        state.add(18 * ErrorBound.unit * term.magnitude)
        state.tiles.total += term
        state.tiles.magnitude += term.magnitude
        let weight = w.scale.magnitude * w.largestCode + w.centre.magnitude
        state.peak = max(state.peak, max(weight, state.tiles.magnitude) * (1 + 0x1p-6))
        if column % 32 != 31 && column + 1 != Int(blob.layout.k) { return }
        state.round(state.tiles.total)
        state.tiles.magnitude = 0
    }

    private var roundsWeights: Bool { isBFloat && product.roundsWeights }
    private var isBFloat: Bool { product.plan.mode == Int64(INT4Q_MODE_BF16) }
    private var hasBFloatProducts: Bool { isBFloat && product.kernels.bf16_element_bytes == 2 }

    /// What rounding an activation loses.
    private func rounding(_ value: Double, _ step: ActivationStep) -> Double {
        switch product.plan.mode {
        case Int64(INT4Q_MODE_F32): 0
        case Int64(INT4Q_MODE_BF16): value.magnitude * 0x1p-8 + 0x1p-133
        default: step.step * (0.5 + 127 * 3.1 * ErrorBound.unit)
        }
    }

    /// What is lost of an activation that its step cannot reach.
    private func cutOff(_ value: Double, _ step: ActivationStep) -> Double {
        if product.plan.mode != Int64(INT4Q_MODE_INT8) { return 0 }
        return step.step == 0 ? value.magnitude : max(value.magnitude - step.limit, 0)
    }

    /// Operands, products and sums below 2^-126 in instructions that flush them; in INT8 mode a codebook's step that is
    /// subnormal.
    private func flushed(_ value: Double, _ w: ColumnGroup) -> Double {
        if hasBFloatProducts {
            let operands = w.scale.magnitude * (w.largestCode + value.magnitude + 4) * 0x1p-126
            return product.roundsWeights ? operands + (value.magnitude + 4) * 0x1p-126 : operands
        }
        return w.levels != 0 ? (value.magnitude * w.scale.magnitude * 128 + 128) * 0x1p-149 : 0
    }

    /// The operations that follow a group's dot product of x and codes (centred, or a codebook's values).
    private func finish(_ dot: RunningError, _ sum: RunningError, _ magnitude: Double, _ length: Double, _ w: ColumnGroup,
                        _ step: ActivationStep, _ state: inout RunningError) {
        let scaled = w.scale * dot.total, centred = w.centre * sum.total
        if product.plan.mode == Int64(INT4Q_MODE_INT8) {
            // float(dot), scale * step (and for OFFSET two more), each rounded: all factors of the share's parts.
            let parts = scaled.magnitude + centred.magnitude + length * step.step * (w.scale.magnitude * w.largestCode + w.centre.magnitude)
            state.add(4 * ErrorBound.unit * parts + 4 * 127 * max(127, w.largestCode) * length * ErrorBound.smallestHalf)
        } else {
            state.add(dot, times: w.scale)
            state.add(sum, times: w.centre)
            // The centre, and what joins the sum's share to the dot product.
            if w.centre != 0 { state.add(2 * ErrorBound.unit * (scaled.magnitude + centred.magnitude + w.centre.magnitude * sum.worst)) }
        }
        // Pairs of maxima: more than three arguments would be an array on the heap.
        state.peak = max(state.peak, max(scaled.magnitude, centred.magnitude), (dot.total + w.shift * sum.total).magnitude)
        let factor = w.levels != 0 ? w.largestValue / w.levels : 1
        state.peak = max(state.peak, max(w.centre.magnitude, w.scale.magnitude * factor),
                         max(w.scale.magnitude * factor * step.step, w.centre.magnitude * step.step))
        if w.hasSums { state.peak = max(state.peak, sum.peak) }
        state.total += scaled
        if w.centre != 0 { state.round(state.total) }
        state.total += centred
        state.round(state.total)
    }

    private func rounded(_ state: RunningError) -> Double {
        let random = ErrorBound.deviations * state.squares.squareRoot()
        let probable = min(random + state.certain + state.signed.magnitude, state.worst)
        let sums = kind == .worstCase ? state.worst : probable
        let before = sums * ErrorBound.slack + state.total.magnitude * 0x1p-44
        let type = product.plan.yType
        let result: Double = switch type {
        case Int64(INT4Q_TYPE_F16): before + 0x1p-11 * (state.total.magnitude + before) + 0x1p-25
        case Int64(INT4Q_TYPE_BF16): before + 0x1p-8 * (state.total.magnitude + before) + 0x1p-134
        default: before
        }
        let largest: Double = switch type {
        case Int64(INT4Q_TYPE_F16): 65504
        case Int64(INT4Q_TYPE_BF16): 0x1.fep127
        default: Double(Float.greatestFiniteMagnitude)
        }
        // Beyond a type's range results are infinite: of the result, or of a sum on the way.
        let onTheWay = state.peak + state.worst * ErrorBound.slack
        return state.total.magnitude + result > largest || onTheWay > Double(Float.greatestFiniteMagnitude) ? .infinity : result
    }
}

extension ErrorBound.Kind {
    public init(_ raw: Int32) throws(Failure) {
        switch Int(raw) {
        case Int(INT4Q_BOUND_WORST_CASE): self = .worstCase
        case Int(INT4Q_BOUND_PROBABLE): self = .probable
        default: throw .invalid("bound", Int64(raw), expected: "one of INT4Q_BOUND_*")
        }
    }
}

extension Product {
    public func requirePlain() throws(Failure) {
        if plan.hasEpilogue || plan.expertCount > 0 || plan.partFlags != 0 || plan.mode == Int64(INT4Q_MODE_BINARY) {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "plan",
                          .text("a plan in BINARY mode, or with activation, gate, bias, residual, experts or parts"),
                          expected: "a plain product")
        }
    }

    /// bounds[m][n] of binary64.
    public func requireBounds(_ pointer: UnsafeMutablePointer<Double>?, stride: Int64) throws(Failure) -> UnsafeMutablePointer<Double> {
        let bounds = try require(pointer, "bounds")
        try requireAtLeast(stride, plan.n, "ldb")
        let bytes = try CheckedSize(UInt64(stride), "ldb").times(UInt64(plan.m - 1)).plus(UInt64(plan.n)).times(8)
        if UInt64(UInt(bitPattern: bounds)).addingReportingOverflow(bytes.value).overflow {
            throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, "ldb", .integer(stride), expected: "a matrix that ends within the address space")
        }
        return bounds
    }
}

/// Errors so far, all added up and as a sum of squares.
private struct RunningError {
    var total = 0.0
    var worst = 0.0
    var squares = 0.0
    /// What is not random: added up by magnitude, and with its sign.
    var certain = 0.0
    var signed = 0.0
    /// The largest intermediate result.
    var peak = 0.0
    /// Of sums over all of k: so far, and the magnitudes of what has not joined it.
    var tiles = (total: 0.0, magnitude: 0.0)

    mutating func add(_ bound: Double) {
        worst += bound
        squares += bound * bound
    }

    mutating func addCertain(_ error: Double) {
        worst += error
        certain += error
    }

    mutating func addSigned(_ error: Double) {
        worst += error.magnitude
        signed += error
    }

    mutating func add(_ other: RunningError, times factor: Double) {
        worst += other.worst * factor.magnitude
        squares += other.squares * factor * factor
        peak = max(peak, other.peak)
    }

    /// An operation whose exact result would be `value`, but for the errors so far.
    mutating func round(_ value: Double) {
        peak = max(peak, value.magnitude)
        add(ErrorBound.unit * (value.magnitude + worst) + ErrorBound.smallestHalf)
    }
}

/// The sum of a group's x in its order: 16 partial sums, then folded.
private struct LaneSums {
    private var partial = InlineArray<16, Double>(repeating: 0)
    private var error = RunningError()
    private var lane = 0

    mutating func add(_ value: Double) {
        skip(value)
        error.round(partial[(lane + 15) & 15])
    }

    /// Where its roundings do not count.
    mutating func skip(_ value: Double) {
        partial[lane] += value
        lane = (lane + 1) & 15
    }

    func folded() -> RunningError {
        var sums = partial
        var result = error
        var width = 8
        while width > 0 {
            for index in 0..<width {
                sums[index] += sums[index + width]
                result.round(sums[index])
            }
            width /= 2
        }
        result.total = sums[0]
        return result
    }
}

private struct ActivationStep {
    var step: Double
    /// Beyond it values are clipped.
    var limit: Double
}

/// A group of one column of weights: w = scale * v + centre with v = code - 8 (of 8 bits 128; or the zero point), a codebook's value, or what
/// codes of 1 and 2 bits stand for.
private struct ColumnGroup {
    static let longest = 256

    let row: BlobRow
    let scale: Double
    let centre: Double
    /// What codes are counted from: 8, or 128; 1 for codes of 1 and 2 bits; a zero point, where kernels take it from the codes.
    let middle: Double
    /// 8 - zero point: the centre without the scale.
    let shift: Double
    /// Of the codebook; 0 for other kinds.
    let largestValue: Double
    let largestCode: Double
    /// That INT8 mode makes of the largest value; 0 for other kinds and modes.
    let levels: Double
    /// Whether the kernels sum x.
    let hasSums: Bool
    private let rounding: Rounding
    /// Whether something that is rounded to bfloat16 may be beyond the largest one.
    var overflows: Bool {
        switch rounding {
        case .codebookToBFloats: largestValue >= 0x1.ffp127
        case .weightsToBFloats: scale.magnitude * largestCode + centre.magnitude >= 0x1.ffp127
        default: false
        }
    }

    private enum Rounding { case none, codebookToBytes, codebookToBFloats, weightsToBFloats }

    init(_ row: BlobRow, _ group: Int, _ product: Product, _ levels: Double) {
        self.row = row
        self.levels = levels
        let scheme = row.blob.scheme
        scale = Double(scheme.scaleType.load(row.scales, row.parameterIndex(group)))
        var largest: Float = 0
        let usual = scheme.isFew ? 1 : Double(scheme.width.middle)
        let hasBFloats = product.plan.mode == Int64(INT4Q_MODE_BF16) && product.kernels.bf16_element_bytes == 2
        let subtracts = hasBFloats && product.subtractsZeroPoints && scheme.kind == .asymmetric
        var zero = usual
        switch scheme.kind {
        case .symmetric, .binary, .ternary: centre = 0
        case .asymmetric:
            zero = Double(row.zeroPoint(group))
            centre = subtracts ? 0 : scale * (usual - zero)
        case .offset: centre = usual * scale + Double(scheme.scaleType.load(row.zeros, row.parameterIndex(group)))
        case .codebook:
            centre = 0
            for index in 0..<16 { largest = max(largest, row.codebookValue(index).magnitude) }
        }
        middle = subtracts ? zero : usual
        shift = middle - zero
        largestValue = Double(largest)
        largestCode = largest != 0 ? largestValue : subtracts ? max(zero, 15 - zero) : middle
        hasSums = (scheme.kind == .asymmetric && !subtracts) || scheme.kind == .offset
        if levels != 0 {
            rounding = .codebookToBytes
        } else if hasBFloats && product.roundsWeights {
            rounding = .weightsToBFloats
        } else {
            rounding = hasBFloats && scheme.kind == .codebook ? .codebookToBFloats : .none
        }
    }

    /// How far the weight that is multiplied is from the one that is meant.
    func error(at code: Int, _ value: Double) -> Double {
        switch rounding {
        case .none: return 0
        case .codebookToBytes:
            let level = (Double(row.codebookValue(code)) * levels / largestValue).rounded(.toNearestOrEven)
            return scale * (level * largestValue / levels - value)
        case .codebookToBFloats: return scale * (rounded(value) - value)
        case .weightsToBFloats: return rounded(scale * value + centre) - (scale * value + centre)
        }
    }

    private func rounded(_ value: Double) -> Double { Double(BFloat16Bits.float(BFloat16Bits.bits(Float(value)))) }

    /// v and the codes of `count` columns from `begin`, a multiple of eight.
    func decode(_ begin: Int, _ count: Int, _ floats: UnsafeMutablePointer<Float>, _ codes: UnsafeMutablePointer<UInt8>) {
        let scheme = row.blob.scheme
        let step: Float = scheme.kind == .binary ? 2 : 1
        for index in 0..<count {
            let code = row.code(begin + index)
            codes[index] = UInt8(truncatingIfNeeded: code)
            floats[index] = scheme.kind == .codebook ? row.codebookValue(code) : step * Float(code) - Float(middle)
        }
    }
}
