// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A positive real number as multiplier * 2^(shift - 31) with a multiplier of 31 bits, as integers are multiplied by it.
public struct FixedPointMultiplier {
    public static var shifts: ClosedRange<Int32> { -31...30 }

    public let multiplier: Int32
    public let shift: Int32

    /// Halves up. Nil for what is negative, NaN, or 2^30 and more after rounding. What needs a shift below -31 becomes 0: sums of
    /// 32 bits would leave nothing of it.
    public init?(_ value: Double) {
        if !(value >= 0 && value <= 0x1p30) { return nil }
        let dropped = UInt64(Double.significandBitCount - 30)
        let significand = value.significandBitPattern | 1 << UInt64(Double.significandBitCount)
        let rounded = (significand &+ 1 &<< (dropped &- 1)) &>> dropped // up to 2^31, which is one bit too long
        let carry = rounded &>> 31
        let shift = Int32(truncatingIfNeeded: value.exponentBitPattern) - 1022 + Int32(truncatingIfNeeded: carry)
        if shift > FixedPointMultiplier.shifts.upperBound { return nil }
        let isTooSmall = shift < FixedPointMultiplier.shifts.lowerBound // denormals among them, whose first bit is not implied
        multiplier = isTooSmall ? 0 : Int32(truncatingIfNeeded: rounded &>> carry)
        self.shift = isTooSmall ? 0 : shift
    }

    public static func write(_ values: UnsafePointer<Double>, count: Int, _ multipliers: UnsafeMutablePointer<Int32>,
                             _ shifts: UnsafeMutablePointer<Int32>) throws(Failure) {
        for index in 0..<count where FixedPointMultiplier(values[index]) == nil {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "values", .listed(index: Int64(index), Float(values[index])),
                          expected: "numbers of at least 0 that round to less than 2^30")
        }
        for index in 0..<count {
            guard let number = FixedPointMultiplier(values[index]) else { return }
            multipliers[index] = number.multiplier
            shifts[index] = number.shift
        }
    }
}
