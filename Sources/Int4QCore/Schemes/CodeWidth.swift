// SPDX-License-Identifier: Apache-2.0

/// How many bits a code has: 1, 2, 4 or 8. Codes follow one another in a row's bytes, the first in the lowest bits.
public struct CodeWidth {
    public let bits: Int

    /// Of bits 0, 1, 2, 3: shifts instead of multiplications and divisions.
    private var shift: Int { bits == 1 ? 3 : bits == 2 ? 2 : bits == 4 ? 1 : 0 }

    public var isNibble: Bool { bits == 4 }
    /// The largest code that fits.
    var largest: Int32 { (1 &<< Int32(truncatingIfNeeded: bits)) &- 1 }
    /// The code of zero where codes are counted from the middle: 8 or 128.
    var middle: Int32 { 1 &<< Int32(truncatingIfNeeded: bits &- 1) }
    /// Codes in 32 bits.
    var wordCodes: Int { 4 &<< shift }

    /// Bytes of `count` codes.
    public func bytes(_ count: Int) -> Int { (count &+ (1 &<< shift) &- 1) &>> shift }
    public func bytes(_ count: Int64) -> UInt64 { UInt64((count - 1) >> Int64(shift)) + 1 }

    /// Code `index` of a row.
    func code(_ codes: UnsafePointer<UInt8>, _ index: Int) -> Int32 {
        let place = (index & ((1 &<< shift) &- 1)) &* bits
        return Int32(codes[index &>> shift] &>> UInt8(truncatingIfNeeded: place)) & largest
    }

    /// Turns `count` codes, one in a byte, into packed ones in the same place.
    func pack(_ codes: UnsafeMutablePointer<UInt8>, count: Int) {
        if bits == 8 { return }
        let perByte = 1 &<< shift
        for byte in 0..<bytes(count) {
            var packed: UInt8 = 0
            let first = byte &* perByte
            for index in first..<min(first &+ perByte, count) {
                packed |= codes[index] &<< UInt8(truncatingIfNeeded: (index &- first) &* bits)
            }
            codes[byte] = packed
        }
    }

    /// A byte full of a code.
    func repeated(_ code: UInt8) -> UInt8 {
        switch bits {
        case 1: code &* 0xff
        case 2: code &* 0x55
        case 4: code &* 0x11
        default: code
        }
    }
}
