// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Any processor. On x86-64 that is SSE2, which has neither a fused multiply-add nor a product of bytes; results must
// still have the same bits as those of processors that do.

/// Whether code that few products run is to be short rather than fast.
@inline(__always)
var prefersShortCode: Bool { true }

/// Whether few rows ask ahead for what short blocks interrupt (RegisterProduct.swift).
@inline(__always)
var asksAheadInShortBlocks: Bool { false }

#if arch(x86_64)
/// a * b + c with one rounding. The product is exact in binary64. The sum is rounded there to odd (truncated, with the
/// last bit set if anything was lost), after which rounding to binary32 is the only rounding: binary64 has more than
/// twice binary32's digits plus two (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
/// (Not inlined: it is three hundred instructions, beside which a call is nothing, and most of a product is made of it.)
@inline(never)
func fusedMultiplyAdd(_ a: Floats, _ b: Floats, _ c: Floats) -> Floats {
    let product = i4q_widen_f32(a) * i4q_widen_f32(b)
    let addend = i4q_widen_f32(c)
    let sum = product + addend
    let back = sum - product
    let error = (product - (sum - back)) + (addend - back)
    return i4q_narrow_f64(roundToOdd(sum, error))
}

@inline(__always)
private func roundToOdd(_ sum: SIMD16<Double>, _ error: SIMD16<Double>) -> SIMD16<Double> {
    typealias Bits = SIMD16<Int64>
    let zero = SIMD16<Double>(repeating: 0)
    let word = unsafeBitCast(sum, to: Bits.self)
    // All ones where something was lost upwards or downwards; NaN (sum not finite) counts as nothing lost.
    let above = unsafeBitCast(error .> zero, to: Bits.self)
    let below = unsafeBitCast(error .< zero, to: Bits.self)
    let even = (word & Bits(repeating: 1)) &- Bits(repeating: 1)
    let negative = word &>> Bits(repeating: 63)
    // Away from zero is +1, towards it -1, whatever the sign.
    let away = (above & ~negative) | (below & negative)
    let towards = (above & negative) | (below & ~negative)
    return unsafeBitCast(word &- (away & even) &+ (towards & even), to: SIMD16<Double>.self)
}
#else
@inline(__always)
func fusedMultiplyAdd(_ a: Floats, _ b: Floats, _ c: Floats) -> Floats { c.addingProduct(a, b) }
#endif

/// The same out of line, where its length counts for more than its speed.
@inline(never)
func compactMultiplyAdd(_ a: Floats, _ b: Floats, _ c: Floats) -> Floats { fusedMultiplyAdd(a, b, c) }

/// binary16 to binary32, exactly. A subnormal is scaled up as one of binary32's own.
@inline(__always)
func widenHalves(_ halves: Halves) -> Floats {
    let word = i4q_widen_u16(halves)
    let sign = (word & Words(repeating: 0x8000)) &<< Words(repeating: 16)
    let magnitude = (word & Words(repeating: 0x7fff)) &<< Words(repeating: 13)
    let scaled = bits(floats(fromBits: magnitude) * Floats(repeating: 0x1p112))
    let special = magnitude .>= Words(repeating: 0x7c00 << 13)
    let notFinite = magnitude | Words(repeating: 0x7f80_0000)
    return floats(fromBits: scaled.replacing(with: notFinite, where: special) | sign)
}

/// binary32 to binary16, half to even; NaN keeps the top of its payload and is made quiet, as F16C does.
@inline(__always)
func narrowToHalves(_ values: Floats) -> Halves {
    let word = bits(values)
    let magnitude = word & Words(repeating: 0x7fff_ffff)
    let odd = (magnitude &>> Words(repeating: 13)) & Words(repeating: 1)
    let normal = (magnitude &+ Words(repeating: 0xc800_0fff) &+ odd) &>> Words(repeating: 13)
    // The sum with 0.5 has binary16's smallest step as its unit in the last place.
    let subnormal = bits(floats(fromBits: magnitude) + Floats(repeating: 0.5)) &- Words(repeating: 0x3f00_0000)
    let nan = ((magnitude &>> Words(repeating: 13)) & Words(repeating: 0x3ff)) | Words(repeating: 0x7e00)
    let finite = normal.replacing(with: subnormal, where: magnitude .< Words(repeating: 0x3880_0000))
    let bounded = finite.replacing(with: Words(repeating: 0x7c00), where: magnitude .>= Words(repeating: 0x4780_0000))
    let result = bounded.replacing(with: nan, where: magnitude .> Words(repeating: 0x7f80_0000))
    return i4q_narrow_u32(result | ((word &>> Words(repeating: 16)) & Words(repeating: 0x8000)))
}

struct LinearCodes: CodeReader {
    @inline(__always) init(codebook: UnsafePointer<Float>?) {}

    @inline(__always)
    func values(_ words: Words, pair: UInt32) -> (even: Floats, odd: Floats) { (value(words, 4 &* pair), value(words, 4 &* pair &+ 16)) }

    @inline(__always)
    private func value(_ words: Words, _ shift: UInt32) -> Floats {
        let code = (words &>> Words(repeating: shift)) & Words(repeating: 15)
        return i4q_float_from_i32(unsafeBitCast(code, to: Ints.self) &- Ints(repeating: 8))
    }
}

struct TableCodes: CodeReader {
    private let table: UnsafePointer<Float>
    @inline(__always) init(codebook: UnsafePointer<Float>?) { table = codebook.unsafelyUnwrapped }

    @inline(__always)
    func values(_ words: Words, pair: UInt32) -> (even: Floats, odd: Floats) { (value(words, 4 &* pair), value(words, 4 &* pair &+ 16)) }

    @inline(__always)
    private func value(_ words: Words, _ shift: UInt32) -> Floats {
        let code = (words &>> Words(repeating: shift)) & Words(repeating: 15)
        var result = Floats(repeating: 0)
        for lane in 0..<lanes { result[lane] = table[Int(code[lane])] }
        return result
    }
}

/// Codebooks of rows (RowTile.swift): tables as they stand in a block.
enum RowLookup {
    @inline(__always) static func prepare(_ tables: UnsafeRawPointer, _ room: UnsafeMutableRawPointer) {}

    /// One code row.
    @inline(__always)
    static func decode(_ packed: UnsafeRawPointer, _ tables: UnsafeRawPointer, _ room: UnsafeRawPointer,
                       into values: UnsafeMutableRawPointer, stride: Int) {
        i4q_decode_lanes(packed, tables, values, Int64(stride))
    }
}
