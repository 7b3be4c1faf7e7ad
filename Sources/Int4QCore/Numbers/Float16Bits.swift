// SPDX-License-Identifier: Apache-2.0

/// IEEE binary16 as bits, converted exactly and half to even by integer arithmetic (Swift's Float16 would call a library
/// routine at the x86-64 baseline). One value at a time; rows go through the kernels.
public enum Float16Bits {
    public static func float(_ half: UInt16) -> Float {
        let sign = UInt32(half & 0x8000) << 16
        let exponent = UInt32(half >> 10) & 0x1f
        let fraction = UInt32(half & 0x3ff)
        if exponent == 0x1f { return Float(bitPattern: sign | 0x7f80_0000 | fraction << 13) }
        if exponent == 0 {
            let magnitude = Float(fraction) * 0x1p-24
            return Float(bitPattern: magnitude.bitPattern | sign)
        }
        return Float(bitPattern: sign | (exponent + 112) << 23 | fraction << 13)
    }

    public static func bits(_ float: Float) -> UInt16 {
        let word = float.bitPattern
        let sign = UInt16(truncatingIfNeeded: word >> 16) & 0x8000
        let magnitude = word & 0x7fff_ffff
        if magnitude > 0x7f80_0000 { return sign | 0x7e00 | UInt16(truncatingIfNeeded: magnitude >> 13) & 0x3ff }
        if magnitude >= 0x4780_0000 { return sign | 0x7c00 }
        if magnitude < 0x3300_0000 { return sign } // below half of the smallest subnormal
        let exponent = Int32(magnitude >> 23) - 112
        var fraction = magnitude & 0x7f_ffff
        var shift: UInt32 = 13
        var base = UInt32(max(exponent, 0)) << 10
        if exponent <= 0 {
            fraction |= 0x80_0000
            shift = UInt32(14 - exponent)
            base = 0
        }
        return sign | UInt16(truncatingIfNeeded: base + roundedShift(fraction, shift))
    }

    /// fraction / 2^shift, half to even; a carry out of the fraction runs into the exponent, as it should.
    private static func roundedShift(_ fraction: UInt32, _ shift: UInt32) -> UInt32 {
        let kept = fraction >> shift
        let lost = fraction & (1 << shift - 1)
        let half = UInt32(1) << (shift - 1)
        return lost > half || (lost == half && kept & 1 == 1) ? kept + 1 : kept
    }
}
