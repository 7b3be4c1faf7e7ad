// SPDX-License-Identifier: Apache-2.0
import XCTest

@testable import Int4QCore

/// Against Swift's own Float16, and at halfway points against the definition of half to even.
final class Float16BitsTests: XCTestCase {
    func testEveryPatternWidensToItsValue() {
        var all = Comparisons()
        for bits in UInt16.min...UInt16.max {
            let widened = Float16Bits.float(bits)
            all.expectSame(widened, Float(Float16(bitPattern: bits)), hex(bits))
            all.expect(widened.sign == Float16(bitPattern: bits).sign, "sign of \(hex(bits))")
        }
        all.assertAllHeld(atLeast: 2 * 65536)
    }

    func testEveryNumberComesBackFromFloat() {
        var all = Comparisons()
        for bits in UInt16.min...UInt16.max where !Float16(bitPattern: bits).isNaN {
            all.expectEqual(Float16Bits.bits(Float16Bits.float(bits)), bits, hex(bits))
        }
        all.assertAllHeld(atLeast: 65536 - 2 * 1023)
    }

    func testEveryNaNComesBackQuietWithItsPayload() {
        var all = Comparisons()
        for bits in UInt16.min...UInt16.max where bits & 0x7fff > 0x7c00 {
            all.expectEqual(Float16Bits.bits(Float16Bits.float(bits)), bits | 0x0200, hex(bits))
        }
        all.assertAllHeld(atLeast: 2 * 1023)
    }

    func testFloatNaNsBecomeQuietNaNsOfTheSameSign() {
        var all = Comparisons()
        // The last three have payloads that vanish in 10 bits.
        for word: UInt32 in [0x7fc0_0000, 0x7fff_ffff, 0x7fa0_0000, 0x7f80_0001, 0x7f80_1fff, 0x7fc0_1fff] {
            for sign: UInt32 in [0, 0x8000_0000] {
                let half = Float16Bits.bits(Float(bitPattern: word | sign))
                all.expectEqual(half & 0x7e00, 0x7e00, hex(word | sign))
                all.expectEqual(half >> 15, UInt16(sign >> 31), "sign of \(hex(word | sign))")
            }
        }
        all.assertAllHeld(atLeast: 24)
    }

    func testHalfwayPointsGoToEvenAndTheirNeighboursToTheNearer() {
        var all = Comparisons()
        for lower in UInt16(0)..<0x7c00 {
            // Beyond the largest number the next step would be 65536, which stands for infinity.
            let below = Double(Float16(bitPattern: lower))
            let above = lower == 0x7bff ? 65536 : Double(Float16(bitPattern: lower + 1))
            let halfway = Float((below + above) / 2)
            let even = lower & 1 == 0 ? lower : lower + 1
            for (value, expected) in [(halfway, even), (halfway.nextUp, lower + 1), (halfway.nextDown, lower)] {
                all.expectEqual(Float16Bits.bits(value), expected, "\(value)")
                all.expectEqual(Float16Bits.bits(-value), expected | 0x8000, "\(-value)")
            }
        }
        all.assertAllHeld(atLeast: 6 * 0x7c00)
    }

    func testRandomFloatsRoundAsSwiftDoes() {
        var random = SplitMix64(state: 16)
        var all = Comparisons()
        for index in 0..<200_000 {
            // Every other one where binary16 has numbers; most bit patterns are beyond it.
            let value = index & 1 == 0 ? random.anyFloat() : random.float(exponents: -27...16)
            if value.isNaN { continue }
            all.expectEqual(Float16Bits.bits(value), Float16(value).bitPattern, show(value))
        }
        all.assertAllHeld(atLeast: 190_000)
    }

    func testEdges() {
        let cases: [(Float, UInt16)] = [
            (0, 0), (-0.0, 0x8000), (1, 0x3c00), (-2, 0xc000),
            (65504, 0x7bff), (65519.996, 0x7bff), (65520, 0x7c00), (.greatestFiniteMagnitude, 0x7c00),
            (.infinity, 0x7c00), (-.infinity, 0xfc00),
            (0x1p-14, 0x0400), (0x1p-24, 0x0001), (0x1p-25, 0x0000), (Float(0x1p-25).nextUp, 0x0001),
            (0x1.8p-24, 0x0002), (.leastNonzeroMagnitude, 0), (-.leastNormalMagnitude, 0x8000),
            // Rounds up from the largest subnormal to the smallest normal number.
            (0x1.ffep-15, 0x0400),
        ]
        for (value, expected) in cases { XCTAssertEqual(Float16Bits.bits(value), expected, show(value)) }
    }
}
