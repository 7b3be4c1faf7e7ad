// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// AVX-512 F, BW, VL, DQ and VNNI: a vector of 16 lanes is one register.

private typealias Register = SIMD8<Int64>

@inline(__always)
func fusedMultiplyAdd(_ a: Floats, _ b: Floats, _ c: Floats) -> Floats { i4q_avx512_fma(a, b, c) }

@inline(__always)
func widenHalves(_ halves: Halves) -> Floats {
    i4q_avx512_widen_half(unsafeBitCast(halves, to: SIMD4<Int64>.self))
}

@inline(__always)
func narrowToHalves(_ values: Floats) -> Halves {
    unsafeBitCast(i4q_avx512_narrow_half(values), to: Halves.self)
}

/// One permutation reads any 16-entry table, so linear codes are a table too: -8..7.
struct LinearCodes: CodeReader {
    let table: Floats
    @inline(__always)
    init(codebook: UnsafePointer<Float>?) {
        table = Floats(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7)
    }
    @inline(__always)
    func values(_ words: Words, nibble: UInt32) -> Floats { lookup(table, words, nibble) }
}

struct TableCodes: CodeReader {
    let table: Floats
    @inline(__always)
    init(codebook: UnsafePointer<Float>?) { table = UnsafeRawPointer(codebook.unsafelyUnwrapped).floats(0) }
    @inline(__always)
    func values(_ words: Words, nibble: UInt32) -> Floats { lookup(table, words, nibble) }
}

/// The permutation reads the low four bits of each index, so no mask is needed.
@inline(__always)
private func lookup(_ table: Floats, _ words: Words, _ nibble: UInt32) -> Floats {
    i4q_avx512_permute(unsafeBitCast(words &>> Words(repeating: 4 &* nibble), to: Register.self), table)
}

/// vpdpbusd: unsigned codes by signed activations, four at a time, straight into int32.
struct DotSum {
    static let depth = 1 << 30
    private var sum: Register

    @inline(__always) init(_ start: Ints) { sum = unsafeBitCast(start, to: Register.self) }

    struct Codes {
        var low, high: SIMD8<Int64>
    }

    @inline(__always)
    static func unpack(_ packed: Words) -> Codes {
        let word = unsafeBitCast(packed, to: Register.self)
        let mask = Register(repeating: 0x0f0f_0f0f_0f0f_0f0f)
        return Codes(low: word & mask, high: (word &>> Register(repeating: 4)) & mask)
    }

    @inline(__always)
    mutating func add(_ codes: Codes, _ x: UnsafeRawPointer) {
        let first = unsafeBitCast(Ints(repeating: x.int32(0)), to: Register.self)
        let second = unsafeBitCast(Ints(repeating: x.int32(4)), to: Register.self)
        sum = i4q_avx512_dot(i4q_avx512_dot(sum, codes.low, first), codes.high, second)
    }

    @inline(__always)
    func total(startedFrom start: Ints) -> Ints { unsafeBitCast(sum, to: Ints.self) }
}

/// Shapes of register tiles: 32 registers of 16 lanes; four blocks abreast are four streams from memory.
enum RegisterTile {
    static let tall = TileShape(rows: 8, blocks: 2)
    static let middle = TileShape(rows: 4, blocks: 2)
    static let flat = TileShape(rows: 1, blocks: 4)

    @inline(__always)
    static func runF32<Codes: CodeReader>(_ codes: Codes.Type, _ shape: TileShape, _ p: i4q_product, row: Int,
                                          block: Int, out: UnsafeMutablePointer<Float>, outStride: Int) {
        switch (shape.rows, shape.blocks) {
        case (8, 2): RegisterProductF32<8, 2, Codes>.run(p, row: row, block: block, out: out, outStride: outStride)
        case (8, 1): RegisterProductF32<8, 1, Codes>.run(p, row: row, block: block, out: out, outStride: outStride)
        case (4, 2): RegisterProductF32<4, 2, Codes>.run(p, row: row, block: block, out: out, outStride: outStride)
        case (4, 1): RegisterProductF32<4, 1, Codes>.run(p, row: row, block: block, out: out, outStride: outStride)
        case (1, 4): RegisterProductF32<1, 4, Codes>.run(p, row: row, block: block, out: out, outStride: outStride)
        default: RegisterProductF32<1, 1, Codes>.run(p, row: row, block: block, out: out, outStride: outStride)
        }
    }

    @inline(__always)
    static func runInt8(_ shape: TileShape, _ p: i4q_product, row: Int, block: Int,
                        out: UnsafeMutablePointer<Float>, outStride: Int) {
        switch (shape.rows, shape.blocks) {
        case (8, 2): RegisterProductInt8<8, 2>.run(p, row: row, block: block, out: out, outStride: outStride)
        case (8, 1): RegisterProductInt8<8, 1>.run(p, row: row, block: block, out: out, outStride: outStride)
        case (4, 2): RegisterProductInt8<4, 2>.run(p, row: row, block: block, out: out, outStride: outStride)
        case (4, 1): RegisterProductInt8<4, 1>.run(p, row: row, block: block, out: out, outStride: outStride)
        case (1, 4): RegisterProductInt8<1, 4>.run(p, row: row, block: block, out: out, outStride: outStride)
        default: RegisterProductInt8<1, 1>.run(p, row: row, block: block, out: out, outStride: outStride)
        }
    }
}
