// SPDX-License-Identifier: Apache-2.0
import XCTest

@testable import Int4QCore

final class ChecksumTests: XCTestCase {
    private func library(_ bytes: [UInt8]) -> UInt64 {
        bytes.withUnsafeBytes { buffer in
            // An empty array's base address may be nil; the function wants one.
            var nothing: UInt8 = 0
            return withUnsafeBytes(of: &nothing) { checksum(buffer.baseAddress ?? $0.baseAddress!, count: bytes.count) }
        }
    }

    func testPublishedVectors() {
        let vectors: [(String, UInt64)] = [
            ("", 0xef46_db37_51d8_e999), ("a", 0xd24e_c4f1_a98c_6e5b), ("abc", 0x44bc_2cf5_ad77_0999),
            ("Nobody inspects the spammish repetition", 0xfbce_a83c_8a37_8bf1),
        ]
        for (text, expected) in vectors { XCTAssertEqual(library(Array(text.utf8)), expected, text) }
    }

    /// The sanity check of xxHash's own command line tool.
    func testVectorsOfTheReferenceProgram() {
        var state: UInt64 = 2_654_435_761
        let buffer = (0..<222).map { _ -> UInt8 in
            defer { state &*= 11_400_714_785_074_694_797 }
            return UInt8(state >> 56)
        }
        let vectors: [(Int, UInt64)] = [
            (1, 0xe934_a84a_db05_2768), (4, 0x9136_a0dc_a574_57ee), (14, 0x8282_dcc4_994e_35c8), (222, 0xb641_ae8c_b691_c174),
        ]
        for (length, expected) in vectors { XCTAssertEqual(library(Array(buffer.prefix(length))), expected, "\(length) bytes") }
    }

    func testEveryLengthAgreesWithTheSpecification() {
        var random = SplitMix64(state: 64)
        let bytes = (0..<100).map { _ in UInt8(truncatingIfNeeded: random.next()) }
        XCTAssertEqual(Specification.hash([]), 0xef46_db37_51d8_e999)
        for length in 0...100 {
            let prefix = Array(bytes.prefix(length))
            XCTAssertEqual(library(prefix), Specification.hash(prefix), "\(length) bytes")
        }
    }

    func testUnalignedBytesHaveTheSameChecksum() {
        let bytes = [UInt8](0..<100)
        for shift in 1..<8 {
            let moved = [UInt8](repeating: 0xff, count: shift) + bytes
            let hash = moved.withUnsafeBytes { checksum($0.baseAddress! + shift, count: bytes.count) }
            XCTAssertEqual(hash, Specification.hash(bytes))
        }
    }
}

/// xxhash_spec.md step by step on arrays of bytes; seed 0.
private enum Specification {
    static let primes: [UInt64] = [
        11_400_714_785_074_694_791, 14_029_467_366_897_019_727, 1_609_587_929_392_839_161,
        9_650_029_242_287_828_579, 2_870_177_450_012_600_261,
    ]

    static func hash(_ input: [UInt8]) -> UInt64 {
        var rest = input[...]
        var accumulator = converge(&rest)
        accumulator &+= UInt64(input.count)
        while rest.count >= 8 {
            accumulator ^= mix(0, takeNumber(8, &rest))
            accumulator = left(accumulator, 27) &* primes[0] &+ primes[3]
        }
        if rest.count >= 4 {
            accumulator ^= takeNumber(4, &rest) &* primes[0]
            accumulator = left(accumulator, 23) &* primes[1] &+ primes[2]
        }
        for byte in rest { accumulator = left(accumulator ^ UInt64(byte) &* primes[4], 11) &* primes[0] }
        return avalanche(accumulator)
    }

    /// Steps 1 to 3: stripes of 32 bytes into four accumulators, and these into one.
    private static func converge(_ rest: inout ArraySlice<UInt8>) -> UInt64 {
        guard rest.count >= 32 else { return primes[4] }
        var accumulators = [primes[0] &+ primes[1], primes[1], 0, UInt64(0) &- primes[0]]
        while rest.count >= 32 { accumulators = accumulators.map { mix($0, takeNumber(8, &rest)) } }
        let sum = zip(accumulators, [1, 7, 12, 18]).map { left($0, $1) }.reduce(0, &+)
        return accumulators.reduce(sum) { ($0 ^ mix(0, $1)) &* primes[0] &+ primes[3] }
    }

    private static func mix(_ accumulator: UInt64, _ lane: UInt64) -> UInt64 {
        left(accumulator &+ lane &* primes[1], 31) &* primes[0]
    }

    private static func avalanche(_ start: UInt64) -> UInt64 {
        var value = start
        value = (value ^ (value >> 33)) &* primes[1]
        value = (value ^ (value >> 29)) &* primes[2]
        return value ^ (value >> 32)
    }

    private static func left(_ value: UInt64, _ count: Int) -> UInt64 { (value << count) | (value >> (64 - count)) }

    private static func takeNumber(_ count: Int, _ rest: inout ArraySlice<UInt8>) -> UInt64 {
        defer { rest = rest.dropFirst(count) }
        return rest.prefix(count).reversed().reduce(0) { $0 * 256 + UInt64($1) }
    }
}
