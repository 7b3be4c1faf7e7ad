// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// ACIQ's mean squared error of a quantizer of 2^bits levels over mean - clip ... mean + clip, for a distribution of scale 1, and
/// where it is least: what is clipped plus step^2 / 12 for what is rounded.
public struct AnalyticClipping {
    private let isLaplace: Bool
    /// Of the rounding error: 1 / (3 * 4^bits).
    private let rounding: Double

    private static var rootOfTwoOverPi: Double { 0.7978845608028654 }
    private static var rootOfHalf: Double { 0.7071067811865476 }

    public init(distribution: Int32, bits: Int32) throws(Failure) {
        isLaplace = Int(distribution) == Int(INT4Q_DISTRIBUTION_LAPLACE)
        if !isLaplace && Int(distribution) != Int(INT4Q_DISTRIBUTION_GAUSS) {
            throw .invalid("distribution", Int64(distribution), expected: "INT4Q_DISTRIBUTION_LAPLACE or INT4Q_DISTRIBUTION_GAUSS")
        }
        if bits < 1 || bits > 16 { throw .invalid("bits", Int64(bits), expected: "1 to 16") }
        rounding = 1 / (3 * Double(UInt64(1) << UInt64(2 * bits)))
    }

    /// For a distribution of any scale.
    @inline(never)
    public func write(scale: Double, _ clip: UnsafeMutablePointer<Double>?, _ mse: UnsafeMutablePointer<Double>?) {
        let best = bestClip()
        clip?.pointee = scale * best
        mse?.pointee = scale * scale * meanSquaredError(best)
    }

    private func meanSquaredError(_ clip: Double) -> Double {
        let rounded = clip * clip * rounding
        if isLaplace { return 2 * i4q_exp(-clip) + rounded }
        let tail = (1 + clip * clip) * i4q_erfc(clip * AnalyticClipping.rootOfHalf)
        return tail - AnalyticClipping.rootOfTwoOverPi * clip * i4q_exp(-clip * clip / 2) + rounded
    }

    /// Half of the error's derivative, which grows with the clip.
    private func slope(_ clip: Double) -> Double {
        if isLaplace { return clip * rounding - i4q_exp(-clip) }
        let linear = clip * (i4q_erfc(clip * AnalyticClipping.rootOfHalf) + rounding)
        return linear - AnalyticClipping.rootOfTwoOverPi * i4q_exp(-clip * clip / 2)
    }

    /// Bisection, down to two neighbouring numbers.
    private func bestClip() -> Double {
        var below = 0.0, above = 64.0
        while true {
            let middle = (below + above) / 2
            if middle <= below || middle >= above { return middle }
            if slope(middle) < 0 { below = middle } else { above = middle }
        }
    }
}

/// ACIQ's bits per channel: 2^bits in proportion to clip^(2/3), as nearly as whole bits allow.
public struct BitShares {
    private let clips: UnsafePointer<Double>
    private let count: Int
    private let lowest: Int32
    private let highest: Int32

    @inline(never)
    public init(_ clips: UnsafePointer<Double>, count: Int64, lowest: Int32, highest: Int32, total: Int64) throws(Failure) {
        if lowest < 0 || lowest > 16 { throw .invalid("lowest", Int64(lowest), expected: "0 to 16") }
        if highest < lowest || highest > 16 {
            throw .invalid("highest", Int64(highest), expected: "16 at most, and at least", bound: UInt64(lowest))
        }
        let least = try CheckedSize(UInt64(count), "count").times(16).value / 16 * UInt64(lowest)
        try requireAtLeast(total, Int64(least), "total")
        for index in 0..<Int(count) where !(clips[index] >= 0 && clips[index].isFinite) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "clips", .listed(index: Int64(index), Float(clips[index])),
                          expected: "finite numbers of at least 0")
        }
        self.clips = clips
        self.count = Int(count)
        self.lowest = lowest
        self.highest = highest
    }

    /// Two neighbouring shifts are searched, between which the sum of bits goes beyond the total.
    @inline(never)
    public func share(total: Int64, _ bits: UnsafeMutablePointer<Int32>) {
        var enough = -2000.0, tooMuch = 2000.0 // logarithms are within 2/3 of 1075
        if sum(tooMuch) <= total { enough = tooMuch }
        while enough < tooMuch {
            let middle = (enough + tooMuch) / 2
            if middle <= enough || middle >= tooMuch { break }
            if sum(middle) <= total { enough = middle } else { tooMuch = middle }
        }
        var left = total - sum(enough)
        for index in 0..<count {
            var own = self.bits(index, enough)
            if left > 0 && self.bits(index, tooMuch) > own {
                own += 1
                left -= 1
            }
            bits[index] = own
        }
    }

    private func sum(_ shift: Double) -> Int64 {
        var sum: Int64 = 0
        for index in 0..<count { sum += Int64(bits(index, shift)) }
        return sum
    }

    private func bits(_ index: Int, _ shift: Double) -> Int32 {
        if clips[index] == 0 { return lowest }
        let wanted = i4q_log(clips[index]) * (2.0 / 3 / 0.6931471805599453) + shift
        if wanted + 0.5 >= Double(highest) { return highest }
        if wanted + 0.5 < Double(lowest) + 1 { return lowest }
        return Int32(wanted + 0.5) // not negative: as floor
    }
}
