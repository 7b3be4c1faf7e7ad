// SPDX-License-Identifier: Apache-2.0
import Foundation
import XCTest

@testable import Int4QCore

/// The powers and logarithms of AdaRound's steps, which the C header does not show.
final class LearnedStepsTests: XCTestCase {
    func testPowersOfTwo() {
        for step in -20_000...20_000 {
            let y = Float(step) * 0.0061
            let found = Double(power2(Lanes(repeating: y))[step & 15]), exact = exp2(Double(y))
            XCTAssertEqual(found / exact, 1, accuracy: 4e-7, "\(y)")
        }
        for (y, bound) in [(Float(1000), Float(126)), (.infinity, 126), (-1000, -126), (-.infinity, -126), (.nan, -126)] {
            XCTAssertEqual(power2(Lanes(repeating: y))[3], power2(Lanes(repeating: bound))[3])
        }
    }

    func testLogarithms() {
        var x = Float.leastNormalMagnitude
        while x < 1e38 {
            let found = Double(logarithm(Lanes(repeating: x))[7]), exact = log2(Double(x))
            XCTAssertEqual(found, exact, accuracy: 4e-7 * max(1, exact.magnitude), "\(x)")
            x *= 1.0007
        }
        for x: Float in [0.9999999, 1, 1.0000001] { // to the last digits around 1
            XCTAssertEqual(Double(logarithm(Lanes(repeating: x))[0]), log2(Double(x)), accuracy: 1e-12)
        }
        XCTAssertLessThan(logarithm(Lanes(repeating: 0))[0], -126)
    }

    func testRoundingHalfToEven() {
        for (x, expected) in [(Float(0.5), Float(0)), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (1023.5, 1024), (0.4999999, 0)] {
            XCTAssertEqual(rounded(Lanes(repeating: x))[15], expected, "\(x)")
        }
    }
}
