// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// Ones of each lane by sums of neighbours: pairs, fours, bytes.
struct LaneBits: BitCounter {
    private var sum = Ints(repeating: 0)
    @inline(__always) init() {}

    @inline(__always)
    mutating func add(_ words: Words) {
        let pairs = words &- ((words &>> Words(repeating: 1)) & Words(repeating: 0x5555_5555))
        let fours = (pairs & Words(repeating: 0x3333_3333)) &+ ((pairs &>> Words(repeating: 2)) & Words(repeating: 0x3333_3333))
        let bytes = (fours &+ (fours &>> Words(repeating: 4))) & Words(repeating: 0x0f0f_0f0f)
        let halves = bytes &+ (bytes &>> Words(repeating: 8))
        sum &+= unsafeBitCast((halves &+ (halves &>> Words(repeating: 16))) & Words(repeating: 63), to: Ints.self)
    }

    @inline(__always) var total: Ints { sum }
}
