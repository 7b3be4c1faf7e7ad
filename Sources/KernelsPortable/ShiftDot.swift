// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// A table of powers of two, their negatives and zeros: products are shifts and a change of sign, so that a processor without a
/// multiplier needs none. Exact, as the products are, and so the same sums. (Miyashita et al., 2016: Convolutional Neural Networks using
/// Logarithmic Data Representation.)
struct ShiftDot: Int8Dot {
    static var parts: Int { 4 }
    /// 65536 products of at most 2^7 * 2^7 fit.
    static var depth: Int { 1 << 16 }
    static var bias: Int32 { 0 }
    private var sum = Ints(repeating: 0)

    /// What an activation goes through for each code: a mask (none of it for a zero), a shift, a change of sign (all bits set).
    struct Table {
        var masks = Ints(repeating: 0), shifts = Ints(repeating: 0), signs = Ints(repeating: 0)
    }

    struct Codes {
        let pairs: Words
        let table: Table
    }

    static func canHold(_ bytes: UnsafePointer<Int8>?) -> Bool {
        guard let bytes else { return false }
        for code in 0..<lanes where bytes[code].magnitude & (bytes[code].magnitude &- 1) != 0 { return false }
        return true
    }

    @inline(never)
    static func makeTable(_ p: i4q_product) -> Table {
        let bytes = p.int8_codebook.unsafelyUnwrapped
        var table = Table()
        for code in 0..<lanes {
            var magnitude = bytes[code].magnitude
            if magnitude == 0 { continue }
            table.masks[code] = -1
            table.signs[code] = bytes[code] < 0 ? -1 : 0
            while magnitude > 1 {
                magnitude &>>= 1
                table.shifts[code] &+= 1
            }
        }
        return table
    }

    @inline(__always) init(_ start: Ints) {}

    @inline(__always)
    static func unpack(_ packed: Words, part: Int, _ table: Table) -> Codes { Codes(pairs: nibbles(packed, part: part), table: table) }

    @inline(__always)
    mutating func add(_ codes: Codes, part: Int, _ x: UnsafeRawPointer) {
        ShiftDot.add(&sum, codes, Int32(activation(x, place(part: part))), Int32(activation(x, place(part: part) &+ 2)))
    }

    /// Out of line: lanes go through it one by one, and there is one of it for all places in a product.
    @inline(never)
    private static func add(_ sum: inout Ints, _ codes: Codes, _ even: Int32, _ odd: Int32) {
        for lane in 0..<lanes {
            let pair = codes.pairs[lane]
            sum[lane] &+= shifted(even, Int(pair & 15), codes.table)
            sum[lane] &+= shifted(odd, Int(pair &>> 16), codes.table)
        }
    }

    @inline(__always)
    private static func shifted(_ x: Int32, _ code: Int, _ table: Table) -> Int32 {
        let value = (x & table.masks[code]) &<< table.shifts[code], sign = table.signs[code]
        return (value ^ sign) &- sign
    }

    @inline(__always)
    func total(startedFrom start: Ints) -> Ints { start &+ sum }
}

/// One row at a time.
enum ShiftShapes: TileShapes {
    typealias Panel = NoPanel
    typealias Tall = RegisterProductInt8<1, 1, ShiftDot>
    typealias TallEdge = RegisterProductInt8<1, 1, ShiftDot>
    typealias Middle = RegisterProductInt8<1, 1, ShiftDot>
    typealias MiddleEdge = RegisterProductInt8<1, 1, ShiftDot>
    typealias Low = RegisterProductInt8<1, 1, ShiftDot>
    typealias LowEdge = RegisterProductInt8<1, 1, ShiftDot>
    typealias Flat = RegisterProductInt8<1, 1, ShiftDot>
    typealias FlatEdge = RegisterProductInt8<1, 1, ShiftDot>
}
