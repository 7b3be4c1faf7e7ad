// SPDX-License-Identifier: Apache-2.0

/// bfloat16, the upper half of a binary32, as bits; converted exactly and half to even.
public enum BFloat16Bits {
    public static func float(_ half: UInt16) -> Float { Float(bitPattern: UInt32(half) << 16) }

    public static func bits(_ float: Float) -> UInt16 {
        let word = float.bitPattern
        if word & 0x7fff_ffff > 0x7f80_0000 { return UInt16(truncatingIfNeeded: word >> 16) | 0x40 }
        let odd = (word >> 16) & 1
        return UInt16(truncatingIfNeeded: (word + 0x7fff + odd) >> 16)
    }
}
