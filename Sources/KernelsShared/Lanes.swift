// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// The vocabulary of all kernels. A column block is 16 columns wide, so every vector here has 16 lanes, one per column;
// the compiler cuts it into as many registers as the instruction set needs. What an instruction set does in its own
// way stands in its Instructions.swift: fusedMultiplyAdd, widenHalves, narrowToHalves, LinearCodes, TableCodes,
// DotSum and RegisterTile.
typealias Floats = SIMD16<Float>
typealias Ints = SIMD16<Int32>
typealias Words = SIMD16<UInt32>
typealias Halves = SIMD16<UInt16>

/// Columns in a column block, and lanes in every vector.
let lanes = 16
/// Bytes of a block's codes for eight consecutive k: one 32-bit lane per column.
let codeRowBytes = 64
/// Values of k in one such row.
let codeRowDepth = 8

/// Element types, as `int4q_type` in the public header.
enum ElementType {
    static let f32: Int64 = 1
    static let f16: Int64 = 2
    static let bf16: Int64 = 3
}

/// Scheme kinds, as `INT4Q_KIND_*` in the public header.
enum Kind {
    static let symmetric: Int64 = 1
    static let asymmetric: Int64 = 2
    static let offset: Int64 = 3
    static let codebook: Int64 = 4
    static let binary: Int64 = 5
    static let ternary: Int64 = 6
    /// Of the kernels alone.
    static let twin = Int64(I4Q_KIND_TWIN)
}

extension UnsafeRawPointer {
    @inline(__always) func floats(_ byteOffset: Int) -> Floats { (self + byteOffset).loadUnaligned(as: Floats.self) }
    @inline(__always) func words(_ byteOffset: Int) -> Words { (self + byteOffset).loadUnaligned(as: Words.self) }
    @inline(__always) func float(_ byteOffset: Int) -> Float { (self + byteOffset).loadUnaligned(as: Float.self) }
    @inline(__always) func int32(_ byteOffset: Int) -> Int32 { (self + byteOffset).loadUnaligned(as: Int32.self) }
}

@inline(__always) func bits(_ floats: Floats) -> Words { unsafeBitCast(floats, to: Words.self) }
@inline(__always) func floats(fromBits words: Words) -> Floats { unsafeBitCast(words, to: Floats.self) }

/// 16 scales or offsets of one group, widened to binary32.
@inline(__always)
func loadColumnValues(_ pointer: UnsafeRawPointer, _ index: Int, type: Int64) -> Floats {
    if type == ElementType.f32 { return pointer.floats(index &* 64) }
    let halves = (pointer + index &* 32).loadUnaligned(as: Halves.self)
    return type == ElementType.f16 ? widenHalves(halves) : widenBFloats(halves)
}

@inline(__always)
func widenBFloats(_ halves: Halves) -> Floats {
    floats(fromBits: i4q_widen_u16(halves) &<< Words(repeating: 16))
}

/// Rounds half to even; NaN stays NaN (made quiet).
@inline(__always)
func narrowToBFloats(_ values: Floats) -> Halves {
    let word = bits(values)
    let odd = (word &>> Words(repeating: 16)) & Words(repeating: 1)
    let rounded = (word &+ Words(repeating: 0x7fff) &+ odd) &>> Words(repeating: 16)
    let quiet = (word &>> Words(repeating: 16)) | Words(repeating: 0x40)
    let isNaN = (word & Words(repeating: 0x7fff_ffff)) .> Words(repeating: 0x7f80_0000)
    return i4q_narrow_u32(rounded.replacing(with: quiet, where: isNaN))
}

/// Rounds half to even to an integer; |value| below 2^22.
@inline(__always)
func roundToIntegers(_ values: Floats) -> Ints {
    let magic = Floats(repeating: 12_582_912) // 1.5 * 2^23: the sum's unit in the last place is 1
    return unsafeBitCast(values + magic, to: Ints.self) &- Ints(repeating: 0x4b40_0000)
}

/// 16 x 16 elements of 32 bits, rows `stride` bytes apart. Out of line: it is much code, and there are several callers.
@inline(never)
func transposeSquare(_ source: UnsafeRawPointer, _ stride: Int, into target: UnsafeMutableRawPointer) {
    i4q_transpose_f32x16(source, Int64(stride), target)
}
