// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import XCTest

@testable import Int4QCore

/// Codes of 1, 2, 4 and 8 bits: which kind has which, sizes, order within bytes, lanes of a blob.
final class CodeWidthTests: XCTestCase {
    private func width(_ bits: Int) throws -> CodeWidth {
        let kind = bits == 1 ? INT4Q_KIND_BINARY : bits == 2 ? INT4Q_KIND_TERNARY : INT4Q_KIND_SYMMETRIC
        return try Scheme(rawScheme(kind, bits: bits)).width
    }

    func testZeroStandsForTheKindsOwn() throws {
        for (kind, bits) in [(INT4Q_KIND_SYMMETRIC, 4), (INT4Q_KIND_ASYMMETRIC, 4), (INT4Q_KIND_OFFSET, 4), (INT4Q_KIND_CODEBOOK, 4),
                             (INT4Q_KIND_BINARY, 1), (INT4Q_KIND_TERNARY, 2)] {
            XCTAssertEqual(try Scheme(rawScheme(kind)).width.bits, bits)
            XCTAssertEqual(try Scheme(rawScheme(kind, bits: bits)).width.bits, bits)
            XCTAssertEqual(try Scheme(rawScheme(kind, bits: bits)).wideBits, 0, "blobs say only what is not the kind's own")
            for other in [-1, 1, 2, 3, 4, 5, 6, 7, 8, 16] where other != bits {
                let raw = rawScheme(kind, bits: other)
                if other == 8 && bits == 4 && kind != INT4Q_KIND_CODEBOOK {
                    XCTAssertEqual(try Scheme(raw).width.bits, 8)
                    XCTAssertEqual(try Scheme(raw).wideBits, 8)
                } else {
                    assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.code_bits") { try Scheme(raw) }
                }
            }
        }
    }

    func testSizes() throws {
        for bits in [1, 2, 4, 8] {
            let width = try width(bits)
            XCTAssertEqual(Int(width.largest), (1 << bits) - 1)
            XCTAssertEqual(Int(width.middle), 1 << (bits - 1))
            XCTAssertEqual(width.wordCodes * bits, 32)
            for count in 1...100 {
                XCTAssertEqual(width.bytes(count), (count * bits + 7) / 8)
                XCTAssertEqual(width.bytes(Int64(count)), UInt64((count * bits + 7) / 8))
            }
            XCTAssertEqual(width.bytes(0), 0)
        }
    }

    func testPackedCodesAreReadBackAndFollowEachOtherFromTheLowestBits() throws {
        var random = SplitMix64(state: 5)
        var all = Comparisons()
        for bits in [1, 2, 4, 8] {
            let width = try width(bits)
            for count in 1...67 {
                let codes = (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) & UInt8(truncatingIfNeeded: width.largest) }
                var packed = codes + [UInt8](repeating: 0xa5, count: 4)
                width.pack(&packed, count: count)
                var wanted = [UInt8](repeating: 0, count: (count * bits + 7) / 8)
                for (k, code) in codes.enumerated() { wanted[k * bits / 8] |= code << UInt8(k * bits % 8) }
                all.expect(Array(packed[0..<wanted.count]) == wanted, "\(count) of \(bits) bits")
                all.expect(packed[count...].allSatisfy { $0 == 0xa5 }, "\(count) of \(bits) bits: behind them")
                for k in 0..<count { all.expect(width.code(packed, k) == Int32(codes[k]), "\(k) of \(bits) bits") }
            }
        }
        all.assertAllHeld(atLeast: 4 * 67 * 30)
    }

    func testRepeatedCodesFillAByte() throws {
        for (bits, code, byte): (Int, UInt8, UInt8) in [(1, 1, 0xff), (1, 0, 0), (2, 1, 0x55), (2, 2, 0xaa), (4, 8, 0x88), (8, 0x81, 0x81)] {
            XCTAssertEqual(try width(bits).repeated(code), byte)
        }
    }

    /// Eight neighbours of 8 bits: k 0 4 1 5 in a lane, k 2 6 3 7 in the one behind it.
    func testBytesInLanes() throws {
        let width = try width(8), memory = AlignedMemory(256), places = [0: 0, 4: 1, 1: 2, 5: 3, 2: 64, 6: 65, 3: 66, 7: 67]
        for (index, word): (Int, UInt32) in [(0, 0x0403_0201), (1, 0x0807_0605), (2, 0x1413_1211), (3, 0x1817_1615)] {
            width.put(word, index, lane: memory.base)
        }
        for half in 0..<2 {
            for (k, place) in places {
                XCTAssertEqual(memory.bytes[half * 128 + place], UInt8(k + 1 + 16 * half), "k \(k + 8 * half)")
            }
        }
        for (index, word): (Int, UInt32) in [(0, 0x0403_0201), (1, 0x0807_0605), (2, 0x1413_1211), (3, 0x1817_1615)] {
            XCTAssertEqual(width.word(index, lane: memory.base), word)
        }
    }

    func testWordsInLanesComeBack() throws {
        var random = SplitMix64(state: 7)
        var all = Comparisons()
        for bits in [1, 2, 4, 8] {
            let width = try width(bits), memory = AlignedMemory(64 * 8)
            let words = (0..<8).map { _ in UInt32(truncatingIfNeeded: random.next()) }
            for (index, word) in words.enumerated() { width.put(word, index, lane: memory.base) }
            for (index, word) in words.enumerated() { all.expectEqual(width.word(index, lane: memory.base), word, "\(bits) bits") }
        }
        all.assertAllHeld(atLeast: 32)
    }
}
