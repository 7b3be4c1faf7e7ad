// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// Ones of each nibble from a table (Mula), summed by vpdpbusd.
struct LaneBits: BitCounter {
    private var sum = Register(repeating: 0)
    @inline(__always) init() {}

    @inline(__always)
    mutating func add(_ words: Words) {
        let mask = Words(repeating: 0x0f0f_0f0f)
        let lower = unsafeBitCast(words & mask, to: Register.self)
        let upper = unsafeBitCast((words &>> Words(repeating: 4)) & mask, to: Register.self)
        let low: Int64 = 0x0302_0201_0201_0100, high: Int64 = 0x0403_0302_0302_0201
        let table = Register(low, high, low, high, low, high, low, high), single = Register(repeating: 0x0101_0101_0101_0101)
        // Nothing carries from byte to byte: no sum is above 8.
        sum = i4q_avx512_dot(sum, i4q_avx512_lookup_bytes(table, lower) &+ i4q_avx512_lookup_bytes(table, upper), single)
    }

    @inline(__always) var total: Ints { unsafeBitCast(sum, to: Ints.self) }
}
