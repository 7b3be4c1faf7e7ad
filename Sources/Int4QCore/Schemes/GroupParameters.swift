// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// What a group stores beside its codes, and how its codes are chosen. Definitions and sources: docs/quantizers.md.
struct GroupParameters {
    /// As stored, rounded to the scale's type.
    var scale: Float
    var offset: Float = 0
    var zeroPoint: UInt8 = 0
    /// How values become codes; nil if every value gets `onlyCode`.
    var encoding: i4q_encoding?
    var onlyCode: UInt8 = 0
}

/// A group's range, and where needed its first element of largest magnitude or of smallest value.
struct GroupRange {
    var min: Float
    var max: Float
    var signedLargest: Float = 0
    var firstSmallest: Float = 0
    /// BINARY and TERNARY alone.
    var meanMagnitude: Float = 0

    var largestMagnitude: Float { Swift.max(max.magnitude, min.magnitude) }
    var isConstant: Bool { min == max }
}

/// What the caller put into a tensor for a group.
struct GivenParameters {
    let scale: Float
    let zeroPoint: UInt8
    let offset: Float
}

extension GroupRange {
    /// Of a run of values.
    init(_ part: i4q_group_range, _ values: UnsafePointer<Float>, _ count: Int) {
        self.init(min: part.min, max: part.max)
        let largest = largestMagnitude
        signedLargest = max == largest ? largest : -largest
        firstSmallest = min
        if max != -min && min != 0 { return }
        // Both signs, or zeros of both signs: the first one counts.
        var isSigned = false, isSmallest = false
        for index in 0..<count {
            let value = values[index]
            if !isSigned && value.magnitude == largest && max == -min {
                signedLargest = value
                isSigned = true
            }
            if !isSmallest && min == 0 && value == 0 {
                firstSmallest = value
                isSmallest = true
            }
        }
    }
}

extension Scheme {
    @inline(never)
    func parameters(for range: GroupRange, table: UnsafePointer<i4q_code_table>?) -> GroupParameters {
        switch kind {
        case .symmetric: usesGgmlRounding ? ggmlSymmetric(range) : symmetric(range)
        case .asymmetric: asymmetric(range)
        case .offset: usesGgmlRounding ? ggmlOffset(range) : usesMlxRounding ? mlxOffset(range) : floatOffset(range)
        case .codebook: codebook(range, table.unsafelyUnwrapped)
        case .binary: binary(scaleType.rounded(range.meanMagnitude), table.unsafelyUnwrapped)
        case .ternary: ternary(scaleType.rounded(scaleRule == Int(INT4Q_SCALE_AMAX_7) ? range.largestMagnitude : range.meanMagnitude))
        }
    }

    /// Codes for parameters that are not to be chosen.
    func parameters(_ given: GivenParameters, _ range: GroupRange, table: UnsafePointer<i4q_code_table>?) -> GroupParameters {
        let zero: Int32 = kind == .symmetric ? width.middle : kind == .asymmetric ? Int32(given.zeroPoint) : 0
        switch kind {
        case .binary: return binary(given.scale, table.unsafelyUnwrapped)
        case .ternary: return ternary(given.scale)
        case .symmetric, .asymmetric, .offset, .codebook:
            if given.scale == 0 { return zeroGroup(UInt8(truncatingIfNeeded: zero)) }
        }
        var parameters = linear(given.scale, zero: zero, low: isRestricted ? 1 : 0)
        if kind == .codebook { parameters.encoding?.table = table }
        if kind == .offset { parameters.subtract(given.offset, halved: !(range.max - given.offset).isFinite || !(range.min - given.offset).isFinite) }
        return parameters
    }

    private func binary(_ scale: Float, _ table: UnsafePointer<i4q_code_table>) -> GroupParameters {
        var parameters = linear(1, zero: 0, low: 0)
        parameters.scale = scale
        parameters.encoding?.table = table
        return parameters
    }

    private func ternary(_ scale: Float) -> GroupParameters {
        if scale == 0 { return zeroGroup(1) }
        var parameters = linear(scale, zero: 1, low: 0)
        parameters.encoding?.high = 2
        return parameters
    }

    /// 7 or 127.
    private var half: Float { Float(width.middle - 1) }

    private func symmetric(_ range: GroupRange) -> GroupParameters {
        let middle = width.middle, low: Int32 = isRestricted ? 1 : 0
        let isSigned = scaleRule == Int(INT4Q_SCALE_SIGNED_MAX_8), isPower = scaleRule == Int(INT4Q_SCALE_POWER_OF_TWO)
        if range.isConstant && !isSigned && !isPower && range.min != 0 {
            // amax / 7 seldom gives the value back; the value itself as the scale does.
            let scale = scaleType.rounded(range.min.magnitude)
            return scale == 0 ? zeroGroup(UInt8(middle)) : only(UInt8(range.min > 0 ? middle + 1 : middle - 1), scale)
        }
        let exact: Float = if isSigned { range.signedLargest / -Float(middle) }
            else if scaleRule == Int(INT4Q_SCALE_AMAX_7_5) { range.largestMagnitude / (half + 0.5) }
            else { range.largestMagnitude / half }
        let scale = scaleType.rounded(isPower ? powerOfTwo(notBelow: exact) : exact)
        return scale == 0 ? zeroGroup(UInt8(middle)) : linear(scale, zero: middle, low: low)
    }

    private func powerOfTwo(notBelow value: Float) -> Float {
        if value == 0 { return 0 }
        if value < Float.leastNormalMagnitude { // whose bits are a multiple of the least number
            var bits: UInt32 = 1
            while bits < value.bitPattern { bits &<<= 1 }
            return Float(bitPattern: bits)
        }
        let power = Float(bitPattern: value.bitPattern & 0x7f80_0000)
        return power < value ? power * 2 : power
    }

    private func asymmetric(_ range: GroupRange) -> GroupParameters {
        if range.isConstant && range.min != 0 {
            let scale = scaleType.rounded(range.min.magnitude)
            if scale == 0 { return zeroGroup(0) }
            return range.min > 0 ? only(1, scale) : GroupParameters(scale: scale, zeroPoint: 1, onlyCode: 0)
        }
        let low = min(range.min, 0), high = max(range.max, 0)
        let scale = scaleType.rounded(step(low, high))
        if scale == 0 { return zeroGroup(0) }
        let zero = min(max((-low / scale).rounded(.toNearestOrEven), 0), Float(width.largest))
        var parameters = linear(scale, zero: Int32(zero), low: 0)
        parameters.zeroPoint = UInt8(zero)
        return parameters
    }

    private func floatOffset(_ range: GroupRange) -> GroupParameters {
        let offset = scaleType.rounded(range.min) + 0 // a zero without a sign
        let scale = scaleType.rounded(step(range.min, range.max))
        var parameters = scale == 0 ? zeroGroup(0) : linear(scale, zero: 0, low: 0)
        parameters.subtract(offset, halved: !(range.max - range.min).isFinite)
        return parameters
    }

    private func codebook(_ range: GroupRange, _ table: UnsafePointer<i4q_code_table>) -> GroupParameters {
        let scale = hasUnitScale ? 1 : scaleType.rounded(range.largestMagnitude / table.pointee.divisor)
        if scale == 0 { return zeroGroup(0) }
        var parameters = linear(scale, zero: 0, low: 0)
        parameters.encoding?.table = table
        return parameters
    }

    /// ggml quantize_row_q4_0_ref: codes come from the scale before it is rounded, and half goes up. Zeros of either
    /// sign give it a scale of -0.
    private func ggmlSymmetric(_ range: GroupRange) -> GroupParameters {
        let largest = range.signedLargest == 0 ? 0 : range.signedLargest
        return ggml(largest / -8, offset: 0, bias: 8.5)
    }

    /// ggml quantize_row_q4_1_ref.
    private func ggmlOffset(_ range: GroupRange) -> GroupParameters {
        var parameters = ggml((range.max - range.firstSmallest) / 15, offset: range.firstSmallest, bias: 0.5)
        parameters.offset = scaleType.rounded(range.firstSmallest)
        return parameters
    }

    private func ggml(_ exact: Float, offset: Float, bias: Float) -> GroupParameters {
        let reciprocal = exact != 0 ? 1 / exact : 0
        let encoding = i4q_encoding(scale: exact, offset: offset, gain: 1, zero: 0, low: 0, high: 15, reciprocal: reciprocal,
                                    ggml_bias: bias, table: nil, makes_bytes: 0)
        return GroupParameters(scale: scaleType.rounded(exact), encoding: encoding)
    }

    /// MLX's affine quantize: the offset is the end of larger magnitude, and the step divides it, so that zero is a code's value.
    /// Codes come from the scale before it is rounded.
    private func mlxOffset(_ range: GroupRange) -> GroupParameters {
        let startsLow = range.min.magnitude > range.max.magnitude
        let edge = startsLow ? range.min : range.max
        let width = max((range.max - range.min) / 15, 1e-7)
        var scale = startsLow ? width : -width, offset: Float = 0
        let steps = (edge / scale).rounded(.toNearestOrEven)
        if steps != 0 {
            scale = edge / steps
            offset = edge
        }
        var parameters = linear(scale, zero: 0, low: 0)
        parameters.encoding?.offset = offset
        parameters.scale = scaleType.rounded(scale)
        parameters.offset = scaleType.rounded(offset)
        return parameters
    }

    private func linear(_ scale: Float, zero: Int32, low: Int32) -> GroupParameters {
        GroupParameters(scale: scale, encoding: i4q_encoding(scale: scale, offset: 0, gain: 1, zero: zero, low: low,
                                                             high: width.largest, reciprocal: 0, ggml_bias: 0, table: nil,
                                                             makes_bytes: 0))
    }

    private func only(_ code: UInt8, _ scale: Float) -> GroupParameters { GroupParameters(scale: scale, onlyCode: code) }

    private func zeroGroup(_ code: UInt8) -> GroupParameters { GroupParameters(scale: 0, onlyCode: code) }

    /// (high - low) / 15 (of 8 bits 255), also where the difference alone would overflow.
    private func step(_ low: Float, _ high: Float) -> Float {
        let difference = high - low
        return difference.isFinite ? difference / Float(width.largest) : Float((Double(high) - Double(low)) / Double(width.largest))
    }
}

extension GroupParameters {
    /// Codes count from an offset; halved where the difference would overflow.
    fileprivate mutating func subtract(_ offset: Float, halved: Bool) {
        let gain: Float = halved ? 0.5 : 1
        encoding?.gain = gain
        encoding?.scale = scale * gain
        encoding?.offset = offset * gain
        self.offset = offset
    }
}

/// BINARY's codes: 1 for all that is above the largest negative number, so for zeros of either sign.
func makeSignTable(at memory: UnsafeMutableRawPointer) -> UnsafePointer<i4q_code_table> {
    let table = memory.bindMemory(to: i4q_code_table.self, capacity: 1)
    table.initialize(to: i4q_code_table())
    let limits = memory.assumingMemoryBound(to: Float.self), steps = (memory + 64).assumingMemoryBound(to: Int32.self)
    for index in 0..<16 { limits[index] = .infinity }
    limits[0] = -Float.leastNonzeroMagnitude
    steps[0] = 1
    return UnsafePointer(table)
}
