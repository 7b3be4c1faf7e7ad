// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// vpdpbusd on eight columns at a time: unsigned codes by signed activations, straight into int32.
struct DotSum {
    private var low: Half
    private var high: Half

    @inline(__always)
    init(_ start: Ints) {
        low = unsafeBitCast(start.lowHalf, to: Half.self)
        high = unsafeBitCast(start.highHalf, to: Half.self)
    }

    @inline(__always)
    mutating func add(_ codes: CodeBytes, part: Int, _ x: UnsafeRawPointer) {
        let activations = broadcastHalf(x, part &* 4)
        low = i4q_avxvnni_dot(low, codes.lower, activations)
        high = i4q_avxvnni_dot(high, codes.upper, activations)
    }

    @inline(__always)
    var total: Ints { Ints(lowHalf: unsafeBitCast(low, to: SIMD8<Int32>.self), highHalf: unsafeBitCast(high, to: SIMD8<Int32>.self)) }
}

struct LinearDot: Int8Dot {
    static var parts: Int { 2 }
    static var depth: Int { 1 << 30 }
    static var bias: Int32 { 1 }
    private var sum: DotSum

    @inline(__always) static func makeTable(_ p: i4q_product) {}
    @inline(__always) static func unpack(_ packed: Words, part: Int, _ table: Void) -> CodeBytes { CodeBytes(packed, part: part) }
    @inline(__always) init(_ start: Ints) { sum = DotSum(start) }
    @inline(__always) mutating func add(_ codes: CodeBytes, part: Int, _ x: UnsafeRawPointer) { sum.add(codes, part: part, x) }
    @inline(__always) func total(startedFrom start: Ints) -> Ints { sum.total }
}

/// A table of signed bytes, made unsigned by adding 128.
struct TableDot: Int8Dot {
    static var parts: Int { 2 }
    static var depth: Int { 1 << 30 }
    static var bias: Int32 { 128 }
    private var sum: DotSum

    @inline(__always)
    static func makeTable(_ p: i4q_product) -> Half {
        tableOfBytes(p.int8_codebook) ^ Half(repeating: Int64(bitPattern: 0x8080_8080_8080_8080))
    }
    @inline(__always)
    static func unpack(_ packed: Words, part: Int, _ table: Half) -> CodeBytes { CodeBytes(packed, part: part).looked(up: table) }
    @inline(__always) init(_ start: Ints) { sum = DotSum(start) }
    @inline(__always) mutating func add(_ codes: CodeBytes, part: Int, _ x: UnsafeRawPointer) { sum.add(codes, part: part, x) }
    @inline(__always) func total(startedFrom start: Ints) -> Ints { sum.total }
}

/// Bytes as they are.
struct ByteDot: Int8Dot {
    static var bits: Int { 8 }
    static var parts: Int { 1 }
    static var depth: Int { 1 << 30 }
    static var bias: Int32 { 1 }
    private var sum: DotSum

    @inline(__always) static func makeTable(_ p: i4q_product) {}
    @inline(__always) static func unpack(_ packed: Words, part: Int, _ table: Void) -> CodeBytes { CodeBytes(packed) }
    @inline(__always) init(_ start: Ints) { sum = DotSum(start) }
    @inline(__always) mutating func add(_ codes: CodeBytes, part: Int, _ x: UnsafeRawPointer) { sum.add(codes, part: part, x) }
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
    static func unpack(_ packed: Words, part: Int, _ few: FewBits) -> CodeBytes { CodeBytes((packed &>> few.shift(part)) & few.mask) }
    @inline(__always) init(_ start: Ints) { sum = DotSum(start) }
    @inline(__always) mutating func add(_ codes: CodeBytes, part: Int, _ x: UnsafeRawPointer) { sum.add(codes, part: part, x) }
    @inline(__always) func total(startedFrom start: Ints) -> Ints { sum.total }
}
