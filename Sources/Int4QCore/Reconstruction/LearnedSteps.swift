// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

// The two parametrisations of learned rounding: what values are, and what is done with the gradient. With r = G d, d being errors
// of a row's values, the loss's slope along a value is -2 r.

// MARK: AutoRound

extension LearnedLanes {
    /// Codes are the nearest to what weights plus V are in steps.
    @_optimize(speed) @inline(never)
    func roundNearby(_ index: Int) {
        let lanes = group(index), low = Lanes(repeating: lowest), high = Lanes(repeating: highest)
        let scale = lanes[.scale], zero = lanes[.zero], offset = lanes[.offset], end = lanes[.end]
        for column in columns(index) {
            let place = column &* 16, weight = weights.lanes(place), position = steps(lanes, weight)
            let nearest = rounded(position + learned.lanes(place)) + bases.lanes(place)
            let code = i4q_clip(nearest, low, high), beyond = i4q_subtract(nearest, code)
            // Codes are whole: 1 within the range, 0 where it has been clipped.
            let inside = i4q_clip(1 - beyond * beyond, Lanes(repeating: 0), Lanes(repeating: 1))
            errors.put(i4q_subtract(weight, i4q_subtract(code, zero) * scale + offset), place)
            firsts.put(i4q_subtract(code, position * inside + end * (1 - inside)), place)
            seconds.put(inside, place)
            let bytes = i4q_narrow_u32_u8(unsafeBitCast(i4q_truncate_f32(code), to: SIMD16<UInt32>.self))
            UnsafeMutableRawPointer(codes + place).storeBytes(of: bytes, as: SIMD16<UInt8>.self)
        }
    }

    /// V goes with the sign of r * scale; slopes of the group's range are added up.
    @_optimize(speed) @inline(never)
    func stepBySign(_ lanes: GroupLanes, _ columns: Range<Int>, _ sums: UnsafePointer<Double>, _ rate: LearningRate) {
        let half = Lanes(repeating: 0.5), one = Lanes(repeating: 1), step = Lanes(repeating: rate.step), scale = lanes[.scale]
        // Zero has no sign, and every other product that counts is far above 2^-126.
        let towards = i4q_clip(scale * 0x1p126, -one, one)
        var along = Lanes(repeating: 0), clipped = Lanes(repeating: 0)
        for column in columns {
            let place = column &* 16
            let wide = UnsafeRawPointer(sums + (place &- columns.lowerBound &* 16)).loadUnaligned(as: SIMD16<Double>.self)
            addLoss(wide, errors.lanes(place))
            let slope = i4q_narrow_f64(wide), inside = seconds.lanes(place)
            let sign = i4q_clip(slope * 0x1p126, -one, one) * towards
            learned.put(i4q_clip(learned.lanes(place) + sign * step * inside, -half, half), place)
            along += slope * firsts.lanes(place)
            clipped += slope * (one - inside)
        }
        i4q_add_lanes(lanes.slopes, along)
        i4q_add_lanes(lanes.slopes + 16, clipped)
    }

    @inline(__always)
    private func addLoss(_ sums: SIMD16<Double>, _ errors: Lanes) {
        let all = UnsafeMutableRawPointer(losses)
        all.storeBytes(of: all.loadUnaligned(as: SIMD16<Double>.self) + sums * i4q_widen_f32(errors), as: SIMD16<Double>.self)
    }
}

// MARK: AdaRound

extension LearnedLanes {
    /// Values between the two codes next to a weight.
    @_optimize(speed) @inline(never)
    func roundAdaptively(_ index: Int) {
        let lanes = group(index), low = Lanes(repeating: lowest), high = Lanes(repeating: highest)
        let one = Lanes(repeating: 1), scale = lanes[.scale], zero = lanes[.zero], offset = lanes[.offset]
        for column in columns(index) {
            let place = column &* 16
            let sigmoid = i4q_divide(one, one + power2(learned.lanes(place) * Lanes(repeating: -1.44269504)))
            let share = i4q_clip(sigmoid * Lanes(repeating: 1.2) - Lanes(repeating: 0.1), Lanes(repeating: 0), one)
            let code = i4q_clip(bases.lanes(place) + share, low, high)
            shares.put(share, place)
            errors.put(i4q_subtract(weights.lanes(place), i4q_subtract(code, zero) * scale + offset), place)
        }
    }

    /// A step of Adam for V. The loss has such units that its slopes are about 1: what Adam adds to roots is small beside them, and
    /// large beside what rounding leaves of a slope that is 0.
    @_optimize(speed) @inline(never)
    func stepAdaptively(_ lanes: GroupLanes, _ columns: Range<Int>, _ sums: UnsafePointer<Double>, _ rate: LearningRate) {
        let nothing = Lanes(repeating: 0), one = Lanes(repeating: 1)
        let factor = i4q_narrow_f64(i4q_widen_f32(lanes[.scale]) * UnsafeRawPointer(units).loadUnaligned(as: SIMD16<Double>.self))
        let low = Lanes(repeating: lowest), high = Lanes(repeating: highest), large = Lanes(repeating: 0x1p126)
        for column in columns {
            let place = column &* 16, share = shares.lanes(place), code = bases.lanes(place) + share
            let beyond = i4q_subtract(code, i4q_clip(code, low, high))
            let wide = UnsafeRawPointer(sums + (place &- columns.lowerBound &* 16)).loadUnaligned(as: SIMD16<Double>.self)
            var gradient = i4q_narrow_f64(wide) * factor * (one - i4q_clip(beyond * beyond * large, nothing, one))
            if rate.pull > 0 {
                let distance = share * 2 - one, sign = i4q_clip(distance * large, -one, one)
                let size = power2(logarithm(distance * sign) * Lanes(repeating: rate.power))
                gradient = i4q_subtract(gradient, size * sign * Lanes(repeating: rate.pull))
            }
            // h's slope along V; 0 where h has been clipped.
            let sigmoid = (share + Lanes(repeating: 0.1)) * Lanes(repeating: 1 / 1.2)
            let open = i4q_clip(share * (one - share) * large, nothing, one)
            gradient *= sigmoid * (one - sigmoid) * Lanes(repeating: 1.2) * open
            let first = firsts.lanes(place) * Lanes(repeating: 0.9) + gradient * Lanes(repeating: 0.1)
            let second = seconds.lanes(place) * Lanes(repeating: 0.999) + gradient * gradient * Lanes(repeating: 0.001)
            firsts.put(first, place)
            seconds.put(second, place)
            let size = i4q_square_root(second * Lanes(repeating: rate.secondShare)) + Lanes(repeating: 0.01)
            learned.put(i4q_subtract(learned.lanes(place), i4q_divide(first, size) * Lanes(repeating: rate.step)), place)
        }
    }
}

// MARK: Powers

/// 2^y for y in -126..126, beyond which the nearer end counts; relative error 2e-7.
@_optimize(speed) @inline(never)
func power2(_ y: Lanes) -> Lanes {
    let bounded = i4q_clip(y, Lanes(repeating: -126), Lanes(repeating: 126))
    let whole = rounded(bounded), x = i4q_subtract(bounded, whole)
    // ln(2)^i / i!
    var sum = Lanes(repeating: 0.00015403530)
    sum = sum * x + Lanes(repeating: 0.0013333558)
    sum = sum * x + Lanes(repeating: 0.0096181291)
    sum = sum * x + Lanes(repeating: 0.055504109)
    sum = sum * x + Lanes(repeating: 0.24022651)
    sum = sum * x + Lanes(repeating: 0.69314718)
    sum = sum * x + Lanes(repeating: 1)
    let exponents = unsafeBitCast(i4q_truncate_f32(whole), to: SIMD16<UInt32>.self) &<< SIMD16<UInt32>(repeating: 23)
    return unsafeBitCast(unsafeBitCast(sum, to: SIMD16<UInt32>.self) &+ exponents, to: Lanes.self)
}

/// log2(x) for normal x above 0; about -127 for 0. Absolute error 2e-7 for x near 1.
@_optimize(speed) @inline(never)
func logarithm(_ x: Lanes) -> Lanes {
    typealias Integers = SIMD16<Int32>
    let bits = unsafeBitCast(x, to: Integers.self)
    // The exponent that leaves a factor of sqrt(1/2)..sqrt(2).
    let exponent = (bits &- Integers(repeating: 0x3f35_04f3)) &>> Integers(repeating: 23)
    let factor = unsafeBitCast(bits &- exponent &<< Integers(repeating: 23), to: Lanes.self)
    let t = i4q_divide(factor - 1, factor + 1), square = t * t
    // 2 / ln(2) * (t + t^3 / 3 + ...)
    var sum = Lanes(repeating: 0.32059890)
    sum = sum * square + Lanes(repeating: 0.41219858)
    sum = sum * square + Lanes(repeating: 0.57707802)
    sum = sum * square + Lanes(repeating: 0.96179669)
    sum = sum * square + Lanes(repeating: 2.8853901)
    return sum * t + i4q_float_from_i32(exponent)
}
