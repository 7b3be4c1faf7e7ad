// SPDX-License-Identifier: Apache-2.0

/// How far a histogram reaches: bins cover magnitudes below 2^exponent. Taken from the largest magnitude alone, so that it does
/// not depend on the order in which values came.
struct BinWidth: Equatable {
    /// From -100, where the scale below is still finite, to 128.
    let exponent: Int

    static var least: Int { -100 }

    init(low: Float, high: Float) {
        if low > high { // seen nothing
            exponent = BinWidth.least
            return
        }
        let largest = max(low.bitPattern & 0x7fff_ffff, high.bitPattern & 0x7fff_ffff)
        // Values of 2^(field - 127) up to below 2^(field - 126).
        exponent = min(max(Int(largest &>> 23) &- 126, BinWidth.least), 128)
    }

    /// bins / 2^exponent: multiplying a magnitude by it is exact, or gives less than 1 as it should.
    func scale(bins: Int) -> Float {
        let power = Float(bins).bitPattern &>> 23 // the exponent field of a power of two
        return Float(bitPattern: UInt32(truncatingIfNeeded: Int(power) &- exponent) &<< 23)
    }

    func width(bins: Int) -> Double {
        Double(bitPattern: UInt64(exponent &+ 1023) &<< 52) / Double(bins)
    }
}

/// Joins each 2^doublings neighbours of either side, as if the bins had been that wide from the beginning.
@inline(never)
func widenBins(_ counts: UnsafeMutablePointer<Int64>, bins: Int, doublings: Int) {
    if doublings <= 0 { return }
    let shift = min(doublings, 17) // of at most 2^16 bins: all join the first
    for target in 0..<bins {
        let begin = min(target &<< shift, bins), end = min((target &+ 1) &<< shift, bins)
        var above: Int64 = 0, below: Int64 = 0
        for source in begin..<end {
            above &+= counts[bins &+ source]
            below &+= counts[bins &- 1 &- source]
        }
        counts[bins &+ target] = above
        counts[bins &- 1 &- target] = below
    }
}
