// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// AVX2, FMA and F16C: a vector of 16 lanes is two registers.

@inline(__always)
private func join(_ low: SIMD8<Float>, _ high: SIMD8<Float>) -> Floats { Floats(lowHalf: low, highHalf: high) }

@inline(__always)
func fusedMultiplyAdd(_ a: Floats, _ b: Floats, _ c: Floats) -> Floats {
    join(i4q_avx2_fma(a.lowHalf, b.lowHalf, c.lowHalf), i4q_avx2_fma(a.highHalf, b.highHalf, c.highHalf))
}

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
    func values(_ words: Words, nibble: UInt32) -> Floats {
        let flipped = words ^ Words(repeating: 0x8888_8888)
        let top = unsafeBitCast(flipped &<< Words(repeating: 28 &- 4 &* nibble), to: Ints.self)
        return i4q_float_from_i32(top &>> Ints(repeating: 28))
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
    func values(_ words: Words, nibble: UInt32) -> Floats {
        let index = words &>> Words(repeating: 4 &* nibble)
        return join(lookup(index.lowHalf), lookup(index.highHalf))
    }

    /// The permutation reads three bits of the index; the fourth, moved to the sign, chooses between two tables.
    @inline(__always)
    private func lookup(_ index: SIMD8<UInt32>) -> SIMD8<Float> {
        let permutation = unsafeBitCast(index, to: SIMD4<Int64>.self)
        let fourth = unsafeBitCast(index &<< SIMD8<UInt32>(repeating: 28), to: SIMD8<Float>.self)
        return i4q_avx2_select_by_sign(i4q_avx2_permute(low, permutation), i4q_avx2_permute(high, permutation), fourth)
    }
}

/// Products of bytes summed in pairs in 16 bits: four code rows (8 pairs of 2 * 15 * 127) fit.
struct DotSum {
    typealias Register = SIMD4<Int64>
    static let depth = 32
    var low: SIMD16<Int16>
    var high: SIMD16<Int16>

    @inline(__always)
    init(_ start: Ints) {
        low = SIMD16<Int16>(repeating: 0)
        high = SIMD16<Int16>(repeating: 0)
    }

    struct Codes {
        /// The low and the high nibbles of the lower and the upper eight columns.
        var lowerLow, lowerHigh, upperLow, upperHigh: Register
    }

    @inline(__always)
    static func unpack(_ packed: Words) -> Codes {
        let mask = Register(repeating: 0x0f0f_0f0f_0f0f_0f0f)
        let lower = unsafeBitCast(packed.lowHalf, to: Register.self)
        let upper = unsafeBitCast(packed.highHalf, to: Register.self)
        let four = Register(repeating: 4)
        return Codes(lowerLow: lower & mask, lowerHigh: (lower &>> four) & mask,
                     upperLow: upper & mask, upperHigh: (upper &>> four) & mask)
    }

    @inline(__always)
    mutating func add(_ codes: Codes, _ x: UnsafeRawPointer) {
        let first = unsafeBitCast(SIMD8<Int32>(repeating: x.int32(0)), to: Register.self)
        let second = unsafeBitCast(SIMD8<Int32>(repeating: x.int32(4)), to: Register.self)
        low &+= DotSum.products(codes.lowerLow, first) &+ DotSum.products(codes.lowerHigh, second)
        high &+= DotSum.products(codes.upperLow, first) &+ DotSum.products(codes.upperHigh, second)
    }

    @inline(__always)
    private static func products(_ codes: Register, _ x: Register) -> SIMD16<Int16> {
        unsafeBitCast(i4q_avx2_maddubs(codes, x), to: SIMD16<Int16>.self)
    }

    @inline(__always)
    func total(startedFrom start: Ints) -> Ints {
        let ones = unsafeBitCast(SIMD16<Int16>(repeating: 1), to: Register.self)
        let lower = i4q_avx2_madd(unsafeBitCast(low, to: Register.self), ones)
        let upper = i4q_avx2_madd(unsafeBitCast(high, to: Register.self), ones)
        return start &+ Ints(lowHalf: unsafeBitCast(lower, to: SIMD8<Int32>.self),
                             highHalf: unsafeBitCast(upper, to: SIMD8<Int32>.self))
    }
}

/// Shapes of register tiles: a vector of 16 lanes is two of the 16 registers.
enum RegisterTile {
    static let tall = TileShape(rows: 4, blocks: 1)
    static let middle = TileShape(rows: 2, blocks: 1)
    static let flat = TileShape(rows: 1, blocks: 2)

    @inline(__always)
    static func runF32<Codes: CodeReader>(_ codes: Codes.Type, _ shape: TileShape, _ p: i4q_product, row: Int,
                                          block: Int, out: UnsafeMutablePointer<Float>, outStride: Int) {
        switch (shape.rows, shape.blocks) {
        case (4, 1): RegisterProductF32<4, 1, Codes>.run(p, row: row, block: block, out: out, outStride: outStride)
        case (2, 1): RegisterProductF32<2, 1, Codes>.run(p, row: row, block: block, out: out, outStride: outStride)
        case (1, 2): RegisterProductF32<1, 2, Codes>.run(p, row: row, block: block, out: out, outStride: outStride)
        default: RegisterProductF32<1, 1, Codes>.run(p, row: row, block: block, out: out, outStride: outStride)
        }
    }

    @inline(__always)
    static func runInt8(_ shape: TileShape, _ p: i4q_product, row: Int, block: Int,
                        out: UnsafeMutablePointer<Float>, outStride: Int) {
        switch (shape.rows, shape.blocks) {
        case (4, 1): RegisterProductInt8<4, 1>.run(p, row: row, block: block, out: out, outStride: outStride)
        case (2, 1): RegisterProductInt8<2, 1>.run(p, row: row, block: block, out: out, outStride: outStride)
        case (1, 2): RegisterProductInt8<1, 2>.run(p, row: row, block: block, out: out, outStride: outStride)
        default: RegisterProductInt8<1, 1>.run(p, row: row, block: block, out: out, outStride: outStride)
        }
    }
}
