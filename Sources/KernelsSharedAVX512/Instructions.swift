// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// AVX-512 F, BW, VL and DQ: a vector of 16 lanes is one register.

typealias Register = SIMD8<Int64>

/// Whether code that few products run is to be short rather than fast.
@inline(__always)
var prefersShortCode: Bool { false }

/// Whether few rows ask ahead for what short blocks interrupt (RegisterProduct.swift).
@inline(__always)
var asksAheadInShortBlocks: Bool { true }

@inline(__always)
func fusedMultiplyAdd(_ a: Floats, _ b: Floats, _ c: Floats) -> Floats { i4q_avx512_fma(a, b, c) }

/// Where its length would count, if it had any.
@inline(__always)
func compactMultiplyAdd(_ a: Floats, _ b: Floats, _ c: Floats) -> Floats { fusedMultiplyAdd(a, b, c) }

@inline(__always)
func widenHalves(_ halves: Halves) -> Floats {
    i4q_avx512_widen_half(unsafeBitCast(halves, to: SIMD4<Int64>.self))
}

@inline(__always)
func narrowToHalves(_ values: Floats) -> Halves {
    unsafeBitCast(i4q_avx512_narrow_half(values), to: Halves.self)
}

/// One permutation of 16-bit words reads two codes of each lane as bfloat16, whose 16 values -8..7 are exact; a float is
/// a bfloat16 with zeros below. The permutation reads five bits of each index, so the table holds its values twice
/// and no mask is needed.
struct LinearCodes: CodeReader {
    private let codes: BFloatCodes
    @inline(__always)
    init(codebook: UnsafePointer<Float>?) { codes = BFloatCodes(codebook: nil) }

    @inline(__always)
    func values(_ words: Words, pair: UInt32) -> (even: Floats, odd: Floats) {
        let both = unsafeBitCast(codes.bfloats(words, pair: pair), to: Words.self)
        return (floats(fromBits: both &<< Words(repeating: 16)), floats(fromBits: both & Words(repeating: 0xffff_0000)))
    }
}

/// What codes stand for but for the scale: a codebook's values, or codes less 8.
@inline(__always)
func codeValues(_ codebook: UnsafePointer<Float>?) -> Floats {
    codebook.map { UnsafeRawPointer($0).floats(0) } ?? Floats(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7)
}

/// Codes as bfloat16: linear ones, or a caller's codebook, rounded. Two neighbours in k of each packed lane at a time, the even one in
/// the low half.
struct BFloatCodes {
    private let table: Register

    @inline(__always)
    init(codebook: UnsafePointer<Float>?) {
        let values = codeValues(codebook)
        self.init(values, values)
    }

    /// 32 values, of which an index reads five bits.
    @inline(__always)
    init(_ low: Floats, _ high: Floats) {
        table = unsafeBitCast(SIMD32<UInt16>(lowHalf: narrowToBFloats(low), highHalf: narrowToBFloats(high)), to: Register.self)
    }

    @inline(__always)
    func bfloats(_ words: Words, pair: UInt32) -> Register { bfloats(unsafeBitCast(words &>> Words(repeating: 4 &* pair), to: Register.self)) }

    @inline(__always)
    func bfloats(_ index: Register) -> Register { i4q_avx512_permute_halves(index, table) }
}

/// Any table of floats; the permutation reads the low four bits of each index.
struct TableCodes: CodeReader {
    private let table: Floats
    @inline(__always)
    init(codebook: UnsafePointer<Float>?) { table = UnsafeRawPointer(codebook.unsafelyUnwrapped).floats(0) }

    @inline(__always)
    func values(_ words: Words, pair: UInt32) -> (even: Floats, odd: Floats) {
        (lookup(words &>> Words(repeating: 4 &* pair)), lookup(words &>> Words(repeating: 4 &* pair &+ 16)))
    }

    @inline(__always)
    private func lookup(_ index: Words) -> Floats { i4q_avx512_permute(unsafeBitCast(index, to: Register.self), table) }
}

/// Codebooks of rows (RowTile.swift): each row's table in a register's order, for permutations.
enum RowLookup {
    @inline(__always)
    static func prepare(_ tables: UnsafeRawPointer, _ room: UnsafeMutableRawPointer) { i4q_transpose_f32x16(tables, 64, room) }

    /// One code row.
    @inline(__always)
    static func decode(_ packed: UnsafeRawPointer, _ tables: UnsafeRawPointer, _ room: UnsafeRawPointer,
                       into values: UnsafeMutableRawPointer, stride: Int) {
        i4q_avx512_decode_lanes(packed, room, values, Int64(stride))
    }
}
