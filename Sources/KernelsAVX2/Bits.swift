// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// Ones of each nibble from a table (Mula), then sums of neighbours.
struct LaneBits: BitCounter {
    private var low = SIMD8<Int32>(repeating: 0)
    private var high = SIMD8<Int32>(repeating: 0)
    @inline(__always) init() {}

    @inline(__always)
    mutating func add(_ words: Words) {
        low &+= ones(words.lowHalf)
        high &+= ones(words.highHalf)
    }

    @inline(__always)
    private func ones(_ words: SIMD8<UInt32>) -> SIMD8<Int32> {
        let mask = SIMD8<UInt32>(repeating: 0x0f0f_0f0f)
        let lower = unsafeBitCast(words & mask, to: Half.self)
        let upper = unsafeBitCast((words &>> SIMD8<UInt32>(repeating: 4)) & mask, to: Half.self)
        let table = Half(0x0302_0201_0201_0100, 0x0403_0302_0302_0201, 0x0302_0201_0201_0100, 0x0403_0302_0302_0201)
        let bytes = unsafeBitCast(i4q_avx2_lookup_bytes(table, lower), to: SIMD8<UInt32>.self)
            &+ unsafeBitCast(i4q_avx2_lookup_bytes(table, upper), to: SIMD8<UInt32>.self)
        let single = Half(repeating: 0x0101_0101_0101_0101)
        let pairs = i4q_avx2_maddubs(unsafeBitCast(bytes, to: Half.self), single)
        return unsafeBitCast(i4q_avx2_madd(pairs, unsafeBitCast(SIMD16<Int16>(repeating: 1), to: Half.self)), to: SIMD8<Int32>.self)
    }

    @inline(__always) var total: Ints { Ints(lowHalf: low, highHalf: high) }
}
