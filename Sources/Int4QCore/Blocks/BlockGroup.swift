// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// The values of a block that share a scale. Layouts: docs/quantizers.md.
struct BlockGroup {
    let format: BlockFormat
    let block: UnsafeRawPointer
    /// Within the block.
    let index: Int

    // MARK: Scales

    /// As the tensor has it: value = scale * (code, less 8, or through the codebook) + offset.
    func scale(_ globalScale: Float) -> Float {
        switch format {
        case .q4_0, .q4_1, .iq4_NL: half(0)
        case .q4_K: half(0) * Float(sixBits.scale)
        case .mxfp4: BlockGroup.halfOfE8M0(byte(0))
        case .nvfp4: BlockGroup.halfOfUE4M3(byte(index)) * globalScale
        }
    }

    var offset: Float {
        switch format {
        case .q4_1: half(2)
        case .q4_K: -(half(2) * Float(sixBits.minimum))
        default: 0
        }
    }

    private func byte(_ offset: Int) -> UInt8 { block.load(fromByteOffset: offset, as: UInt8.self) }
    private func half(_ offset: Int) -> Float { Float16Bits.float(block.loadUnaligned(fromByteOffset: offset, as: UInt16.self)) }

    /// Q4_K: the first four groups' numbers are the low six bits of bytes 0..3 and 4..7; the others have their low four bits
    /// in bytes 8..11 and their high two above the first groups'.
    private var sixBits: (scale: UInt8, minimum: UInt8) {
        if index < 4 { return (byte(4 &+ index) & 63, byte(8 &+ index) & 63) }
        let low = byte(8 &+ index)
        return ((low & 15) | (byte(index) &>> 6) &<< 4, (low &>> 4) | (byte(4 &+ index) &>> 6) &<< 4)
    }

    /// 2^(code - 128): the codebook's values are doubled. 255, NaN in OCP's E8M0, is what ggml makes of it.
    static func halfOfE8M0(_ code: UInt8) -> Float {
        Float(bitPattern: code < 2 ? 0x0020_0000 &<< UInt32(code) : UInt32(code &- 1) &<< 23)
    }

    static func halfOfUE4M3(_ code: UInt8) -> Float {
        if code == 0 || code == 0x7f { return 0 }
        if code & 0x78 == 0 { return Float(code & 7) * 0x1p-10 }
        return Float(bitPattern: (UInt32(code & 0x7f) &+ 119 &* 8) &<< 20)
    }

    // MARK: Codes

    /// Where eight neighbours' codes stand: eight bytes, and the shift to their nibbles.
    private func place(_ eighth: Int) -> (offset: Int, shift: UInt64) {
        let element = 8 &* eighth
        switch format {
        case .q4_0, .iq4_NL: return (2 &+ (element & 15), element < 16 ? 0 : 4)
        case .q4_1: return (4 &+ (element & 15), element < 16 ? 0 : 4)
        case .mxfp4: return (1 &+ (element & 15), element < 16 ? 0 : 4)
        case .nvfp4: return (4 &+ 8 &* index, element < 8 ? 0 : 4)
        case .q4_K: return (16 &+ index / 2 &* 32 &+ element, index & 1 == 0 ? 0 : 4)
        }
    }

    /// Eight codes in order, low nibble first.
    func codes(_ eighth: Int) -> UInt32 {
        let (offset, shift) = place(eighth)
        let nibbles = (block.loadUnaligned(fromByteOffset: offset, as: UInt64.self) &>> shift) & 0x0f0f_0f0f_0f0f_0f0f
        let pairs = (nibbles | nibbles &>> 4) & 0x00ff_00ff_00ff_00ff
        let quads = (pairs | pairs &>> 8) & 0x0000_ffff_0000_ffff
        return UInt32(truncatingIfNeeded: quads | quads &>> 16)
    }

    /// The inverse; the low nibbles' eighth comes first and sets the high ones to zero.
    func set(codes: UInt32, _ eighth: Int) {
        let (offset, shift) = place(eighth)
        let quads = (UInt64(codes) | UInt64(codes) &<< 16) & 0x0000_ffff_0000_ffff
        let pairs = (quads | quads &<< 8) & 0x00ff_00ff_00ff_00ff
        let nibbles = ((pairs | pairs &<< 4) & 0x0f0f_0f0f_0f0f_0f0f) &<< shift
        let target = UnsafeMutableRawPointer(mutating: block) + offset
        target.storeBytes(of: shift == 0 ? nibbles : target.loadUnaligned(as: UInt64.self) | nibbles, as: UInt64.self)
    }

    /// The code whose half is this scale; nil if there is none.
    static func e8m0(_ scale: Float) -> UInt8? {
        let word = scale.bitPattern
        if word == 0x0020_0000 { return 0 }
        if word == 0x0040_0000 { return 1 }
        let exponent = word &>> 23
        return word & 0x807f_ffff == 0 && exponent >= 1 && exponent <= 254 ? UInt8(truncatingIfNeeded: exponent &+ 1) : nil
    }
}
