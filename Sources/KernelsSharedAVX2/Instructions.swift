// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// AVX2, FMA and F16C: a vector of 16 lanes is two registers.

@inline(__always)
private func join(_ low: SIMD8<Float>, _ high: SIMD8<Float>) -> Floats { Floats(lowHalf: low, highHalf: high) }

/// Whether code that few products run is to be short rather than fast.
@inline(__always)
var prefersShortCode: Bool { false }

/// Whether few rows ask ahead for what short blocks interrupt (RegisterProduct.swift).
@inline(__always)
var asksAheadInShortBlocks: Bool { true }

@inline(__always)
func fusedMultiplyAdd(_ a: Floats, _ b: Floats, _ c: Floats) -> Floats {
    join(i4q_avx2_fma(a.lowHalf, b.lowHalf, c.lowHalf), i4q_avx2_fma(a.highHalf, b.highHalf, c.highHalf))
}

/// Where its length would count, if it had any.
@inline(__always)
func compactMultiplyAdd(_ a: Floats, _ b: Floats, _ c: Floats) -> Floats { fusedMultiplyAdd(a, b, c) }

@inline(__always)
func widenHalves(_ halves: Halves) -> Floats {
    join(i4q_avx2_widen_half(unsafeBitCast(halves.lowHalf, to: SIMD2<Int64>.self)),
         i4q_avx2_widen_half(unsafeBitCast(halves.highHalf, to: SIMD2<Int64>.self)))
}

@inline(__always)
func narrowToHalves(_ values: Floats) -> Halves {
    Halves(lowHalf: unsafeBitCast(i4q_avx2_narrow_half(values.lowHalf), to: SIMD8<UInt16>.self),
           highHalf: unsafeBitCast(i4q_avx2_narrow_half(values.highHalf), to: SIMD8<UInt16>.self))
}

struct LinearCodes: CodeReader {
    @inline(__always) init(codebook: UnsafePointer<Float>?) {}

    /// The nibble is moved to the top, its highest bit flipped (q - 8 in two's complement), and shifted down signed.
    @inline(__always)
    func values(_ words: Words, pair: UInt32) -> (even: Floats, odd: Floats) {
        let flipped = words ^ Words(repeating: 0x8888_8888)
        return (value(flipped, 28 &- 4 &* pair), value(flipped, 12 &- 4 &* pair))
    }

    @inline(__always)
    private func value(_ flipped: Words, _ shift: UInt32) -> Floats {
        i4q_float_from_i32(unsafeBitCast(flipped &<< Words(repeating: shift), to: Ints.self) &>> Ints(repeating: 28))
    }
}

struct TableCodes: CodeReader {
    let low: SIMD8<Float>
    let high: SIMD8<Float>

    @inline(__always)
    init(codebook: UnsafePointer<Float>?) {
        let table = UnsafeRawPointer(codebook.unsafelyUnwrapped)
        low = table.loadUnaligned(as: SIMD8<Float>.self)
        high = (table + 32).loadUnaligned(as: SIMD8<Float>.self)
    }

    @inline(__always)
    func values(_ words: Words, pair: UInt32) -> (even: Floats, odd: Floats) {
        let even = words &>> Words(repeating: 4 &* pair), odd = words &>> Words(repeating: 4 &* pair &+ 16)
        return (join(lookup(even.lowHalf), lookup(even.highHalf)), join(lookup(odd.lowHalf), lookup(odd.highHalf)))
    }

    /// The permutation reads three bits of the index; the fourth, moved to the sign, chooses between two tables.
    @inline(__always)
    private func lookup(_ index: SIMD8<UInt32>) -> SIMD8<Float> {
        let permutation = unsafeBitCast(index, to: SIMD4<Int64>.self)
        let fourth = unsafeBitCast(index &<< SIMD8<UInt32>(repeating: 28), to: SIMD8<Float>.self)
        return i4q_avx2_select_by_sign(i4q_avx2_permute(low, permutation), i4q_avx2_permute(high, permutation), fourth)
    }
}

/// Codebooks of rows (RowTile.swift): each row's table in a register's order, for permutations.
enum RowLookup {
    @inline(__always)
    static func prepare(_ tables: UnsafeRawPointer, _ room: UnsafeMutableRawPointer) { i4q_transpose_f32x16(tables, 64, room) }

    /// One code row.
    @inline(__always)
    static func decode(_ packed: UnsafeRawPointer, _ tables: UnsafeRawPointer, _ room: UnsafeRawPointer,
                       into values: UnsafeMutableRawPointer, stride: Int) {
        i4q_avx2_decode_lanes(packed, room, values, Int64(stride))
    }
}

typealias Half = SIMD4<Int64>

/// Four bytes a lane, of the lower and of the upper eight columns: k 0, 4, 1, 5 (part 0) or k 2, 6, 3, 7 (part 1).
struct CodeBytes {
    var lower, upper: Half

    /// Bytes as they are.
    @inline(__always)
    init(_ packed: Words) {
        lower = unsafeBitCast(packed.lowHalf, to: Half.self)
        upper = unsafeBitCast(packed.highHalf, to: Half.self)
    }

    @inline(__always)
    init(_ packed: Words, part: Int) {
        let mask = Half(repeating: 0x0f0f_0f0f_0f0f_0f0f), four = Half(repeating: 4)
        let low = unsafeBitCast(packed.lowHalf, to: Half.self)
        let high = unsafeBitCast(packed.highHalf, to: Half.self)
        lower = (part == 0 ? low : low &>> four) & mask
        upper = (part == 0 ? high : high &>> four) & mask
    }

    /// Each code replaced by its entry in a table of 16 bytes.
    @inline(__always)
    func looked(up table: Half) -> CodeBytes {
        var result = self
        result.lower = i4q_avx2_lookup_bytes(table, lower)
        result.upper = i4q_avx2_lookup_bytes(table, upper)
        return result
    }
}

@inline(__always)
func broadcastHalf(_ x: UnsafeRawPointer, _ offset: Int) -> Half { unsafeBitCast(SIMD8<Int32>(repeating: x.int32(offset)), to: Half.self) }

/// A table of 16 bytes in both halves of a register.
@inline(__always)
func tableOfBytes(_ bytes: UnsafePointer<Int8>?) -> Half {
    let table = UnsafeRawPointer(bytes.unsafelyUnwrapped).loadUnaligned(as: SIMD2<Int64>.self)
    return Half(lowHalf: table, highHalf: table)
}
