// SPDX-License-Identifier: Apache-2.0

// The order of codes in a packed lane, for codes of 1 and 2 bits (for 4: the blob's figure; for 8: two lanes, one behind the
// other). Byte i of part t holds the code of k 8 (t / 2) + c with c = 0 4 1 5 for even t and 2 6 3 7 for odd t: what a byte of
// prepared activations holds, too. So bit 4 to bit 0 of a code's place in the lane are bits 0, 2, 4, 3 and 1 of its k.

/// Codes in order of k, the first in the lowest bits -> a packed lane. `bits` is 1 or 2.
@inline(__always)
func laneOrder(_ word: UInt32, bits: Int) -> UInt32 {
    if bits == 1 { return swapped(swapped(swapped(swapped(word, 4, 0), 3, 2), 2, 0), 1, 0) }
    return swapped(swapped(word, 4, 1), 2, 1)
}

/// The inverse.
@inline(__always)
func naturalOrder(_ lane: UInt32, bits: Int) -> UInt32 {
    if bits == 1 { return swapped(swapped(swapped(swapped(lane, 1, 0), 2, 0), 3, 2), 4, 0) }
    return swapped(swapped(lane, 2, 1), 4, 1)
}

/// Exchanges the bits whose places differ in bits i and j of their numbers; i > j.
@inline(__always)
private func swapped(_ word: UInt32, _ i: UInt32, _ j: UInt32) -> UInt32 {
    let shift = (1 &<< i) &- (1 &<< j) as UInt32
    let difference = ((word &>> shift) ^ word) & (hasBit(j) & ~hasBit(i))
    return word ^ difference ^ (difference &<< shift)
}

/// The places whose number has bit `j`.
@inline(__always)
private func hasBit(_ j: UInt32) -> UInt32 {
    switch j {
    case 0: 0xaaaa_aaaa
    case 1: 0xcccc_cccc
    case 2: 0xf0f0_f0f0
    case 3: 0xff00_ff00
    default: 0xffff_0000
    }
}
