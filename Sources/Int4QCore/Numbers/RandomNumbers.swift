// SPDX-License-Identifier: Apache-2.0

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): the same numbers on every machine.
struct RandomNumbers {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z &>> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z &>> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z &>> 31)
    }

    /// 0..<bound, all as likely: the upper half of next() * bound, and another try where the lower half is one that some results
    /// have more often than others (Lemire, "Fast random integer generation in an interval", 2019).
    mutating func next(below bound: UInt64) -> UInt64 {
        while true {
            let (high, low) = next().multipliedFullWidth(by: bound)
            if low >= bound || low >= (0 &- bound) % bound { return high }
        }
    }

    /// In 0..<1, a multiple of 2^-53.
    mutating func fraction() -> Double { Double(next() &>> 11) * 0x1p-53 }
}
