// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// Where the two 4-bit integers of a byte come from: one byte in memory each, packed in one of several orders.
public struct NibbleOrder {
    private let order: Int32
    /// Elements that share a run of bytes: 2, or the caller's block of split halves.
    private let block: Int
    private let isSigned: Bool

    public init(_ order: Int32, block: Int32, flags: UInt32) throws(Failure) {
        if order < int32(INT4Q_NIBBLES_LOW_FIRST) || order > int32(INT4Q_NIBBLES_SPLIT_HALF) {
            throw .invalid("order", Int64(order), expected: "one of INT4Q_NIBBLES_*_FIRST or INT4Q_NIBBLES_SPLIT_HALF")
        }
        let isSplit = order == int32(INT4Q_NIBBLES_SPLIT_HALF)
        if isSplit && (block < 2 || block > 65536 || block & 1 == 1) {
            throw .invalid("block", Int64(block), expected: "an even number in 2..65536")
        }
        if !isSplit && block != 0 { throw .invalid("block", Int64(block), expected: "0 with this order") }
        if flags & ~UInt32(INT4Q_NIBBLES_SIGNED) != 0 {
            throw .invalid("flags", Int64(flags), expected: "INT4Q_NIBBLES_SIGNED or 0")
        }
        self.order = order
        self.block = isSplit ? Int(block) : 2
        isSigned = flags != 0
    }

    /// Bytes for `count` elements, at least 1.
    public func bytes(count: Int64) -> UInt64 { UInt64((count - 1) / Int64(block) + 1) * UInt64(block / 2) }

    /// In every order but HIGH_FIRST the first element is in the low half.
    private var firstShift: UInt8 { order == int32(INT4Q_NIBBLES_HIGH_FIRST) ? 4 : 0 }

    public func requireInRange(_ values: UnsafePointer<UInt8>, count: Int) throws(Failure) {
        let offset: UInt8 = isSigned ? 8 : 0
        for index in 0..<count where values[index] &+ offset > 15 {
            let value = isSigned ? Int64(Int8(bitPattern: values[index])) : Int64(values[index])
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "values", .entry(index: Int64(index), value),
                          expected: isSigned ? "values in -8..7" : "values in 0..15")
        }
    }

    /// `values` are in range.
    public func pack(_ values: UnsafePointer<UInt8>, count: Int, into bytes: UnsafeMutablePointer<UInt8>) {
        let half = block / 2, first = firstShift, second = 4 - firstShift
        // A block of two by itself would be a loop over single bytes.
        var begin = half == 1 ? count & ~1 : 0
        for index in 0..<begin / 2 {
            bytes[index] = (values[2 * index] & 15) << first | (values[2 * index + 1] & 15) << second
        }
        while begin < count {
            let target = bytes + begin / 2
            let full = min(max(count - begin - half, 0), half)
            for index in 0..<full {
                target[index] = (values[begin + index] & 15) << first | (values[begin + half + index] & 15) << second
            }
            for index in full..<half {
                target[index] = begin + index < count ? (values[begin + index] & 15) << first : 0
            }
            begin += block
        }
    }

    public func unpack(_ bytes: UnsafePointer<UInt8>, count: Int, into values: UnsafeMutablePointer<UInt8>) {
        // Flipping and taking away the 8 extends the sign: 8..15 become -8..-1.
        let half = block / 2, first = firstShift, second = 4 - firstShift, flip: UInt8 = isSigned ? 8 : 0
        var begin = half == 1 ? count & ~1 : 0
        for index in 0..<begin / 2 {
            values[2 * index] = ((bytes[index] >> first & 15) ^ flip) &- flip
            values[2 * index + 1] = ((bytes[index] >> second & 15) ^ flip) &- flip
        }
        while begin < count {
            let source = bytes + begin / 2
            for index in 0..<min(half, count - begin) {
                values[begin + index] = ((source[index] >> first & 15) ^ flip) &- flip
            }
            for index in 0..<min(max(count - begin - half, 0), half) {
                values[begin + half + index] = ((source[index] >> second & 15) ^ flip) &- flip
            }
            begin += block
        }
    }
}
