// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// Products of bytes summed in pairs in 16 bits: four code rows (8 pairs of 2 * 15 * 127) fit.
struct LinearDot: Int8Dot {
    static var parts: Int { 2 }
    static var depth: Int { 32 }
    static var bias: Int32 { 1 }
    private var low = SIMD16<Int16>(repeating: 0)
    private var high = SIMD16<Int16>(repeating: 0)

    @inline(__always) static func makeTable(_ p: i4q_product) {}
    @inline(__always) static func unpack(_ packed: Words, part: Int, _ table: Void) -> CodeBytes { CodeBytes(packed, part: part) }
    @inline(__always) init(_ start: Ints) {}

    @inline(__always)
    mutating func add(_ codes: CodeBytes, part: Int, _ x: UnsafeRawPointer) {
        let activations = broadcastHalf(x, part &* 4)
        low &+= products(codes.lower, activations)
        high &+= products(codes.upper, activations)
    }

    @inline(__always)
    func total(startedFrom start: Ints) -> Ints { start &+ Ints(lowHalf: widened(low), highHalf: widened(high)) }
}

/// A table's bytes are signed, and so are activations: |entry| by the activation with the entry's sign. Two such products
/// of up to 127 * 127 fill 16 bits, so each pair is widened at once.
struct TableDot: Int8Dot {
    static var parts: Int { 2 }
    static var depth: Int { 1 << 30 }
    static var bias: Int32 { 0 }
    private var low: SIMD8<Int32>
    private var high: SIMD8<Int32>

    @inline(__always) static func makeTable(_ p: i4q_product) -> Half { tableOfBytes(p.int8_codebook) }
    @inline(__always)
    static func unpack(_ packed: Words, part: Int, _ table: Half) -> CodeBytes { CodeBytes(packed, part: part).looked(up: table) }
    @inline(__always)
    init(_ start: Ints) {
        low = start.lowHalf
        high = start.highHalf
    }

    @inline(__always)
    mutating func add(_ codes: CodeBytes, part: Int, _ x: UnsafeRawPointer) {
        let activations = broadcastHalf(x, part &* 4)
        low &+= signedProducts(codes.lower, activations)
        high &+= signedProducts(codes.upper, activations)
    }

    @inline(__always)
    func total(startedFrom start: Ints) -> Ints { Ints(lowHalf: low, highHalf: high) }
}

@inline(__always)
private func products(_ codes: Half, _ x: Half) -> SIMD16<Int16> { unsafeBitCast(i4q_avx2_maddubs(codes, x), to: SIMD16<Int16>.self) }

@inline(__always)
private func signedProducts(_ entries: Half, _ x: Half) -> SIMD8<Int32> {
    widened(products(i4q_avx2_abs_bytes(entries), i4q_avx2_sign_bytes(x, entries)))
}

/// Sums of neighbours in 32 bits.
@inline(__always)
private func widened(_ pairs: SIMD16<Int16>) -> SIMD8<Int32> {
    let ones = unsafeBitCast(SIMD16<Int16>(repeating: 1), to: Half.self)
    return unsafeBitCast(i4q_avx2_madd(unsafeBitCast(pairs, to: Half.self), ones), to: SIMD8<Int32>.self)
}

/// Bytes of 255 by bytes of 127 overflow 16 bits in pairs: they are widened first, those in even and in odd places by themselves.
struct ByteDot: Int8Dot {
    static var bits: Int { 8 }
    static var parts: Int { 1 }
    static var depth: Int { 1 << 30 }
    static var bias: Int32 { 1 }
    private var low: SIMD8<Int32>
    private var high: SIMD8<Int32>

    struct Codes {
        let evenLower, oddLower, evenUpper, oddUpper: Half
    }

    @inline(__always) static func makeTable(_ p: i4q_product) {}
    @inline(__always)
    static func unpack(_ packed: Words, part: Int, _ table: Void) -> Codes {
        let even = CodeBytes(packed & Words(repeating: 0x00ff_00ff))
        let odd = CodeBytes((packed &>> Words(repeating: 8)) & Words(repeating: 0x00ff_00ff))
        return Codes(evenLower: even.lower, oddLower: odd.lower, evenUpper: even.upper, oddUpper: odd.upper)
    }
    @inline(__always)
    init(_ start: Ints) {
        low = start.lowHalf
        high = start.highHalf
    }

    @inline(__always)
    mutating func add(_ codes: Codes, part: Int, _ x: UnsafeRawPointer) {
        let bytes = unsafeBitCast(SIMD8<Int32>(repeating: x.int32(part &* 4)), to: SIMD16<Int16>.self)
        let odd = unsafeBitCast(bytes &>> SIMD16<Int16>(repeating: 8), to: Half.self)
        let even = unsafeBitCast((bytes &<< SIMD16<Int16>(repeating: 8)) &>> SIMD16<Int16>(repeating: 8), to: Half.self)
        low &+= sums(codes.evenLower, even) &+ sums(codes.oddLower, odd)
        high &+= sums(codes.evenUpper, even) &+ sums(codes.oddUpper, odd)
    }

    @inline(__always)
    private func sums(_ codes: Half, _ x: Half) -> SIMD8<Int32> { unsafeBitCast(i4q_avx2_madd(codes, x), to: SIMD8<Int32>.self) }

    @inline(__always)
    func total(startedFrom start: Ints) -> Ints { Ints(lowHalf: low, highHalf: high) }
}

/// Codes of 1 and 2 bits: 64 pairs of products of 2 * 127 fit 16 bits.
struct FewDot: Int8Dot {
    static var bits: Int { 0 }
    static var parts: Int { 0 }
    static var depth: Int { 256 }
    static var bias: Int32 { 1 }
    private var low = SIMD16<Int16>(repeating: 0)
    private var high = SIMD16<Int16>(repeating: 0)

    @inline(__always) static func makeTable(_ p: i4q_product) -> FewBits { FewBits(p) }
    @inline(__always)
    static func unpack(_ packed: Words, part: Int, _ few: FewBits) -> CodeBytes { CodeBytes((packed &>> few.shift(part)) & few.mask) }
    @inline(__always) init(_ start: Ints) {}

    @inline(__always)
    mutating func add(_ codes: CodeBytes, part: Int, _ x: UnsafeRawPointer) {
        let activations = broadcastHalf(x, part &* 4)
        low &+= products(codes.lower, activations)
        high &+= products(codes.upper, activations)
    }

    @inline(__always)
    func total(startedFrom start: Ints) -> Ints { start &+ Ints(lowHalf: widened(low), highHalf: widened(high)) }
}
