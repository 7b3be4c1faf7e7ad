// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

struct LaneBits: BitCounter {
    private var sum = Ints(repeating: 0)
    @inline(__always) init() {}

    @inline(__always)
    mutating func add(_ words: Words) {
        sum &+= unsafeBitCast(i4q_avx512_popcount(unsafeBitCast(words, to: Register.self)), to: Ints.self)
    }

    @inline(__always) var total: Ints { sum }
}
