// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// vpdpbusd: unsigned codes by signed activations, four at a time, straight into int32.
struct DotSum {
    private var sum: Register
    @inline(__always) init(_ start: Ints) { sum = unsafeBitCast(start, to: Register.self) }

    @inline(__always)
    mutating func add(_ codes: Register, part: Int, _ x: UnsafeRawPointer) {
        sum = i4q_avx512_dot(sum, codes, unsafeBitCast(Ints(repeating: x.int32(part &* 4)), to: Register.self))
    }

    @inline(__always) var total: Ints { unsafeBitCast(sum, to: Ints.self) }
}

/// Four bytes a lane: k 0, 4, 1, 5 (part 0) or k 2, 6, 3, 7 (part 1).
@inline(__always)
private func nibbles(_ packed: Words, part: Int) -> Register {
    let word = unsafeBitCast(packed, to: Register.self)
    return (part == 0 ? word : word &>> Register(repeating: 4)) & Register(repeating: 0x0f0f_0f0f_0f0f_0f0f)
}

struct LinearDot: Int8Dot {
    static var parts: Int { 2 }
    static var depth: Int { 1 << 30 }
    static var bias: Int32 { 1 }
    private var sum: DotSum

    @inline(__always) static func makeTable(_ p: i4q_product) {}
    @inline(__always) static func unpack(_ packed: Words, part: Int, _ table: Void) -> Register { nibbles(packed, part: part) }
    @inline(__always) init(_ start: Ints) { sum = DotSum(start) }
    @inline(__always) mutating func add(_ codes: Register, part: Int, _ x: UnsafeRawPointer) { sum.add(codes, part: part, x) }
    @inline(__always) func total(startedFrom start: Ints) -> Ints { sum.total }
}

/// A table of signed bytes, made unsigned by adding 128.
struct TableDot: Int8Dot {
    static var parts: Int { 2 }
    static var depth: Int { 1 << 30 }
    static var bias: Int32 { 128 }
    private var sum: DotSum

    @inline(__always)
    static func makeTable(_ p: i4q_product) -> Register {
        let table = UnsafeRawPointer(p.int8_codebook.unsafelyUnwrapped).loadUnaligned(as: SIMD2<Int64>.self)
        let flipped = table ^ SIMD2<Int64>(repeating: Int64(bitPattern: 0x8080_8080_8080_8080))
        return Register(flipped[0], flipped[1], flipped[0], flipped[1], flipped[0], flipped[1], flipped[0], flipped[1])
    }

    @inline(__always)
    static func unpack(_ packed: Words, part: Int, _ table: Register) -> Register {
        i4q_avx512_lookup_bytes(table, nibbles(packed, part: part))
    }

    @inline(__always) init(_ start: Ints) { sum = DotSum(start) }
    @inline(__always) mutating func add(_ codes: Register, part: Int, _ x: UnsafeRawPointer) { sum.add(codes, part: part, x) }
    @inline(__always) func total(startedFrom start: Ints) -> Ints { sum.total }
}

struct ByteDot: Int8Dot {
    static var bits: Int { 8 }
    static var parts: Int { 1 }
    static var depth: Int { 1 << 30 }
    static var bias: Int32 { 1 }
    private var sum: DotSum

    @inline(__always) static func makeTable(_ p: i4q_product) {}
    @inline(__always) static func unpack(_ packed: Words, part: Int, _ table: Void) -> Register { unsafeBitCast(packed, to: Register.self) }
    @inline(__always) init(_ start: Ints) { sum = DotSum(start) }
    @inline(__always) mutating func add(_ codes: Register, part: Int, _ x: UnsafeRawPointer) { sum.add(codes, part: part, x) }
    @inline(__always) func total(startedFrom start: Ints) -> Ints { sum.total }
}

/// Four bytes a lane, each with one code of 1 or 2 bits.
struct FewDot: Int8Dot {
    static var bits: Int { 0 }
    static var parts: Int { 0 }
    static var depth: Int { 1 << 30 }
    static var bias: Int32 { 1 }
    private var sum: DotSum

    @inline(__always) static func makeTable(_ p: i4q_product) -> FewBits { FewBits(p) }
    @inline(__always)
    static func unpack(_ packed: Words, part: Int, _ few: FewBits) -> Register {
        unsafeBitCast((packed &>> few.shift(part)) & few.mask, to: Register.self)
    }
    @inline(__always) init(_ start: Ints) { sum = DotSum(start) }
    @inline(__always) mutating func add(_ codes: Register, part: Int, _ x: UnsafeRawPointer) { sum.add(codes, part: part, x) }
    @inline(__always) func total(startedFrom start: Ints) -> Ints { sum.total }
}
