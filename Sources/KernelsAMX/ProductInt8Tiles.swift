// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// INT8 mode in tiles. Codes are unpacked into a panel less their zero points, as signed bytes: so the tiles' sums are the groups'
// dot products (codes of 8 bits and ASYMMETRIC: up to a multiple of the sum of x, for a difference may have nine bits), and only
// scaling is left to do for each output and group. Same bits as every other instruction set.

/// From so many rows on.
@inline(__always)
func paysInt8Tiles(_ p: i4q_product, _ t: i4q_tile) -> Bool { t.row_count >= 7 || p.prepared_line_stride != tileRowBytes }

func multiplyInt8Tiles(_ p: i4q_product, _ t: i4q_tile) {
    if p.code_bits == 4 {
        if p.kind == Kind.offset { CoverTiles<UnpackBytes<NibbleBytes>, OffsetInt8>.run(p, t) } else { CoverTiles<UnpackBytes<NibbleBytes>, PlainInt8>.run(p, t) }
    } else if p.kind == Kind.asymmetric {
        CoverTiles<UnpackBytes<PlainBytes>, ShiftedInt8>.run(p, t)
    } else if p.kind == Kind.offset {
        CoverTiles<UnpackBytes<PlainBytes>, OffsetInt8>.run(p, t)
    } else {
        CoverTiles<UnpackBytes<PlainBytes>, PlainInt8>.run(p, t)
    }
}

// MARK: Unpacking

/// Panel bytes of one value of k.
private let bytesOfK = 16

struct UnpackBytes<Bytes: WeightBytes>: GroupUnpacker {
    typealias Arithmetic = SignedBytes
    static var isCommon: Bool { Bytes.isCommon }
    private var weights: Bytes

    @inline(__always) init(_ p: i4q_product) { weights = Bytes(p) }
    @inline(__always) mutating func enter(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int) { weights.enter(p, block, group) }

    @inline(__always)
    func unpack(_ block: UnsafeRawPointer, k: Int, count: Int, _ panel: UnsafeMutableRawPointer) {
        weights.unpack(block, k: k, panel, count: count)
    }

    @inline(__always)
    func columns(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, _ scale: Floats) -> (scale: Floats, extra: Words) {
        var extra = Words(repeating: 0)
        if p.kind == Kind.offset {
            extra = bits(centredOffset(p, block, group, scale))
        } else if p.kind == Kind.asymmetric && p.code_bits == 8 {
            extra = unsafeBitCast(loadZeroPoints(block + Int(p.zeros_offset), group) &- Ints(repeating: 128), to: Words.self)
        }
        return (scale: p.kind == Kind.codebook ? scale * Floats(repeating: p.int8_codebook_step) : scale, extra: extra)
    }
}

/// What four codes become as signed bytes.
protocol WeightBytes {
    static var isCommon: Bool { get }
    init(_ p: i4q_product)
    /// Once for each group, with the block's zero points.
    @inline(__always) mutating func enter(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int)
    @inline(__always) func bytes(_ codes: Register) -> Register
    /// From k on, to the panel.
    @inline(__always) func unpack(_ block: UnsafeRawPointer, k: Int, _ panel: UnsafeMutableRawPointer, count: Int)
}

extension WeightBytes {
    /// A code row becomes two rows of a tile: its low nibbles and its high ones, as x is stored in that order.
    @inline(__always)
    func unpack(_ block: UnsafeRawPointer, k: Int, _ panel: UnsafeMutableRawPointer, count: Int) {
        let low = Register(repeating: 0x0f0f_0f0f_0f0f_0f0f), codes = block + k &* 8
        for index in 0..<count &>> 3 {
            i4q_prefetch(codes + (index &* codeRowBytes &+ prefetchDistance))
            i4q_prefetch_far(codes + (index &* codeRowBytes &+ farDistance))
            let packed = (codes + index &* codeRowBytes).loadUnaligned(as: Register.self)
            let target = panel + index &* codeRowDepth &* bytesOfK
            target.storeBytes(of: bytes(packed & low), as: Register.self)
            target.storeBytes(of: bytes((packed &>> Register(repeating: 4)) & low), toByteOffset: 64, as: Register.self)
        }
    }
}

/// Codes of 8 bits less 128, of 2 less 1, of 1 doubled less 1.
struct PlainBytes: WeightBytes {
    static var isCommon: Bool { false }
    private let bits: Int
    private let mask: Words
    private let shift: Words
    private let middle: Register

    @inline(__always)
    init(_ p: i4q_product) {
        bits = Int(p.code_bits)
        mask = Words(repeating: bits == 8 ? 0xffff_ffff : bits == 2 ? 0x0303_0303 : 0x0101_0101)
        shift = Words(repeating: bits == 1 ? 1 : 0)
        middle = Register(repeating: bits == 8 ? Int64(bitPattern: 0x8080_8080_8080_8080) : 0x0101_0101_0101_0101)
    }

    @inline(__always) func enter(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int) {}
    @inline(__always) func bytes(_ codes: Register) -> Register { i4q_avx512_subtract_bytes(codes, middle) }

    /// A part of a code row, four values of k, becomes a row of a tile.
    @inline(__always)
    func unpack(_ block: UnsafeRawPointer, k: Int, _ panel: UnsafeMutableRawPointer, count: Int) {
        for index in 0..<count &>> 2 {
            let place = (k &>> 2 &+ index) &* bits, row = place &>> 3
            let words = block.words(row &* codeRowBytes) &>> Words(repeating: UInt32(truncatingIfNeeded: place &- row &* 8))
            panel.storeBytes(of: bytes(unsafeBitCast((words & mask) &<< shift, to: Register.self)), toByteOffset: index &* 64, as: Register.self)
        }
    }
}

/// Nibbles by a table: a codebook's bytes, or codes less 8; then less what a zero point is above 8.
struct NibbleBytes: WeightBytes {
    static var isCommon: Bool { true }
    private let table: Register
    private var shift = Register(repeating: 0)

    @inline(__always)
    init(_ p: i4q_product) {
        var bytes = SIMD2<Int64>(Int64(bitPattern: 0xfffe_fdfc_fbfa_f9f8), 0x0706_0504_0302_0100)
        if p.codebook != nil { bytes = UnsafeRawPointer(p.int8_codebook.unsafelyUnwrapped).loadUnaligned(as: SIMD2<Int64>.self) }
        table = Register(bytes[0], bytes[1], bytes[0], bytes[1], bytes[0], bytes[1], bytes[0], bytes[1])
    }

    @inline(__always)
    mutating func enter(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int) {
        if p.kind != Kind.asymmetric { return }
        // In each byte of a lane; no byte borrows from the next once it is subtracted byte by byte.
        let above = loadZeroPoints(block + Int(p.zeros_offset), group) &- Ints(repeating: 8)
        let bytes = (unsafeBitCast(above, to: Words.self) & Words(repeating: 0xff)) &* Words(repeating: 0x0101_0101)
        shift = unsafeBitCast(bytes, to: Register.self)
    }

    @inline(__always) func bytes(_ codes: Register) -> Register { i4q_avx512_subtract_bytes(i4q_avx512_lookup_bytes(table, codes), shift) }
}
