// SPDX-License-Identifier: Apache-2.0
import Foundation
import XCTest

@testable import Int4QCore

final class BFloat16BitsTests: XCTestCase {
    /// From the definition of the format: 8 bits of exponent, 7 of fraction.
    private func value(_ bits: UInt16) -> Double {
        let sign: Double = bits & 0x8000 == 0 ? 1 : -1
        let exponent = Int(bits >> 7) & 0xff
        let fraction = Double(bits & 0x7f) / 128
        if exponent == 0xff { return fraction == 0 ? sign * .infinity : .nan }
        return exponent == 0 ? sign * fraction * 0x1p-126 : sign * scalbn(1 + fraction, exponent - 127)
    }

    /// The nearest multiple of the step that bfloat16 has at this size, in binary64, where all of this is exact.
    private func nearest(_ number: Float) -> Double {
        let exact = Double(number)
        if !exact.isFinite || exact == 0 { return exact }
        let step = scalbn(1.0, max(Int(exact.exponent), -126) - 7)
        let rounded = (exact / step).rounded(.toNearestOrEven) * step
        return rounded.magnitude < 0x1p128 ? rounded : rounded * .infinity
    }

    func testEveryPatternWidensToItsValue() {
        var all = Comparisons()
        for bits in UInt16.min...UInt16.max {
            let widened = Double(BFloat16Bits.float(bits)), expected = value(bits)
            all.expect(widened.isNaN ? expected.isNaN : widened == expected && widened.sign == expected.sign, hex(bits))
        }
        all.assertAllHeld(atLeast: 65536)
    }

    func testEveryNumberComesBackAndEveryNaNComesBackQuiet() {
        var all = Comparisons()
        for bits in UInt16.min...UInt16.max {
            let expected = value(bits).isNaN ? bits | 0x40 : bits
            all.expectEqual(BFloat16Bits.bits(BFloat16Bits.float(bits)), expected, hex(bits))
        }
        all.assertAllHeld(atLeast: 65536)
    }

    func testNaNsWhosePayloadVanishesStayQuietNaNs() {
        XCTAssertEqual(BFloat16Bits.bits(Float(bitPattern: 0x7f80_0001)), 0x7fc0)
        XCTAssertEqual(BFloat16Bits.bits(Float(bitPattern: 0xff80_ffff)), 0xffc0)
        XCTAssertEqual(BFloat16Bits.bits(Float(bitPattern: 0x7fff_ffff)), 0x7fff)
    }

    func testHalfwayPointsGoToEvenAndTheirNeighboursToTheNearer() {
        var all = Comparisons()
        for lower in UInt16(0)..<0x7f80 {
            let above = lower == 0x7f7f ? 0x1p128 : value(lower + 1)
            let halfway = Float((value(lower) + above) / 2)
            let even = lower & 1 == 0 ? lower : lower + 1
            for (number, expected) in [(halfway, even), (halfway.nextUp, lower + 1), (halfway.nextDown, lower)] {
                all.expectEqual(BFloat16Bits.bits(number), expected, show(number))
                all.expectEqual(BFloat16Bits.bits(-number), expected | 0x8000, show(-number))
            }
        }
        all.assertAllHeld(atLeast: 6 * 0x7f80)
    }

    func testRandomFloatsRoundToTheNearestMultipleOfTheStep() {
        var random = SplitMix64(state: 8)
        var all = Comparisons()
        for _ in 0..<200_000 {
            let number = random.anyFloat()
            if number.isNaN { continue }
            let actual = value(BFloat16Bits.bits(number)), expected = nearest(number)
            all.expect(actual == expected && actual.sign == expected.sign, show(number))
        }
        all.assertAllHeld(atLeast: 190_000)
    }

    func testEdges() {
        let cases: [(Float, UInt16)] = [
            (0, 0), (-0.0, 0x8000), (1, 0x3f80), (-1, 0xbf80), (.infinity, 0x7f80), (-.infinity, 0xff80),
            (.greatestFiniteMagnitude, 0x7f80), (0x1.fep127, 0x7f7f), (0x1.fefffep127, 0x7f7f), (0x1.ffp127, 0x7f80),
            (.leastNonzeroMagnitude, 0), (0x1p-134, 0), (Float(0x1p-134).nextUp, 1), (0x1p-133, 1),
        ]
        for (number, expected) in cases { XCTAssertEqual(BFloat16Bits.bits(number), expected, show(number)) }
    }
}
