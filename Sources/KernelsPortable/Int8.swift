// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// A part is two values of k: nibble `part` of each half of a lane, k 2 `part` in the lower one and 2 `part` + 1 in the
// upper. Activations lie in the order k0 k4 k1 k5 k2 k6 k3 k7.

@inline(__always)
func nibbles(_ packed: Words, part: Int) -> Words {
    (packed &>> Words(repeating: 4 &* UInt32(truncatingIfNeeded: part))) & Words(repeating: 0x000f_000f)
}

/// Where k 2 `part` stands; its neighbour in k is two bytes further.
@inline(__always)
func place(part: Int) -> Int { (part & 1) &* 4 &+ part / 2 }

@inline(__always)
func activation(_ x: UnsafeRawPointer, _ place: Int) -> Int16 { Int16(x.loadUnaligned(fromByteOffset: place, as: Int8.self)) }

/// Products of 15 * 127 summed in 16 bits: 16 of them fit, which is what 32 values of k give each half of a lane.
struct LinearDot: Int8Dot {
    static var parts: Int { 4 }
    static var depth: Int { 32 }
    static var bias: Int32 { 1 }
    private var sum = Words(repeating: 0)

    @inline(__always) static func makeTable(_ p: i4q_product) {}
    @inline(__always) static func unpack(_ packed: Words, part: Int, _ table: Void) -> Words { nibbles(packed, part: part) }
    @inline(__always) init(_ start: Ints) {}

    @inline(__always)
    mutating func add(_ codes: Words, part: Int, _ x: UnsafeRawPointer) {
        let low = UInt32(UInt16(bitPattern: activation(x, place(part: part))))
        let high = UInt32(UInt16(bitPattern: activation(x, place(part: part) &+ 2)))
        sum = i4q_multiply_add_i16(sum, codes, Words(repeating: low | (high &<< 16)))
    }

    @inline(__always)
    func total(startedFrom start: Ints) -> Ints {
        let both = unsafeBitCast(sum, to: Ints.self)
        let low = (both &<< Ints(repeating: 16)) &>> Ints(repeating: 16)
        return start &+ low &+ (both &>> Ints(repeating: 16))
    }
}

/// A table's entries as floats: products and sums of bytes are exact in binary32 up to 2^24, which 1024 of 127 * 127 reach.
struct TableDot: Int8Dot {
    static var parts: Int { 4 }
    static var depth: Int { 1024 }
    static var bias: Int32 { 0 }
    private var sum = Floats(repeating: 0)

    struct Entries {
        var even = Floats(repeating: 0), odd = Floats(repeating: 0)
    }

    @inline(__always) static func makeTable(_ p: i4q_product) -> UnsafePointer<Int8> { p.int8_codebook.unsafelyUnwrapped }
    @inline(__always) init(_ start: Ints) {}

    @inline(__always)
    static func unpack(_ packed: Words, part: Int, _ table: UnsafePointer<Int8>) -> Entries {
        let codes = nibbles(packed, part: part)
        var entries = Entries()
        for lane in 0..<lanes {
            entries.even[lane] = Float(table[Int(codes[lane] & 15)])
            entries.odd[lane] = Float(table[Int(codes[lane] &>> 16)])
        }
        return entries
    }

    @inline(__always)
    mutating func add(_ entries: Entries, part: Int, _ x: UnsafeRawPointer) {
        sum += entries.even * Floats(repeating: Float(activation(x, place(part: part))))
        sum += entries.odd * Floats(repeating: Float(activation(x, place(part: part) &+ 2)))
    }

    @inline(__always)
    func total(startedFrom start: Ints) -> Ints { start &+ i4q_truncate_f32(sum) }
}

/// Codes of other widths as floats: products of 255 * 127 are exact in binary32 up to 2^24, which 517 of them reach.
struct FewDot: Int8Dot {
    static var bits: Int { 0 }
    static var parts: Int { 0 }
    static var depth: Int { 512 }
    static var bias: Int32 { 1 }
    private var sum = Floats(repeating: 0)

    struct Codes {
        var packed: Words
        var mask: UInt32
    }

    @inline(__always) static func makeTable(_ p: i4q_product) -> UInt32 { UInt32(truncatingIfNeeded: p.code_bits) }
    @inline(__always) init(_ start: Ints) {}

    @inline(__always)
    static func unpack(_ packed: Words, part: Int, _ bits: UInt32) -> Codes {
        Codes(packed: packed &>> Words(repeating: bits &* UInt32(truncatingIfNeeded: part)), mask: (1 &<< bits) &- 1)
    }

    @inline(__always)
    mutating func add(_ codes: Codes, part: Int, _ x: UnsafeRawPointer) {
        for byte in 0..<4 {
            let code = (codes.packed &>> Words(repeating: UInt32(truncatingIfNeeded: 8 &* byte))) & Words(repeating: codes.mask)
            let activation = Float((x + (4 &* part &+ byte)).loadUnaligned(as: Int8.self))
            sum += i4q_float_from_i32(unsafeBitCast(code, to: Ints.self)) * Floats(repeating: activation)
        }
    }

    @inline(__always)
    func total(startedFrom start: Ints) -> Ints { start &+ i4q_truncate_f32(sum) }
}
