// SPDX-License-Identifier: Apache-2.0
import XCTest

@testable import Int4QCore

/// The order of nibbles within a lane, from the figure in BlobLayout: k of bits 31..28, 27..24, ... 3..0.
final class PackedLaneTests: XCTestCase {
    private static let figure: [UInt32] = [7, 5, 3, 1, 6, 4, 2, 0]

    private func laneByFigure(_ codes: UInt32) -> UInt32 {
        Self.figure.reduce(0) { lane, k in lane << 4 | (codes >> (4 * k)) & 15 }
    }

    func testTheFirstCodesStandWhereTheFigureSays() {
        XCTAssertEqual(laneFromCodes(0x7654_3210), 0x7531_6420)
        XCTAssertEqual(codesFromLane(0x7531_6420), 0x7654_3210)
    }

    func testEachCodeStandsWhereTheFigureSays() {
        var all = Comparisons()
        for position in UInt32(0)..<8 {
            for code in UInt32(0)..<16 {
                let codes = code << (4 * position)
                all.expectEqual(laneFromCodes(codes), laneByFigure(codes), hex(codes))
            }
        }
        all.assertAllHeld(atLeast: 128)
    }

    func testRandomCodesStandWhereTheFigureSaysAndComeBack() {
        var random = SplitMix64(state: 4)
        var all = Comparisons()
        for _ in 0..<50_000 {
            let codes = UInt32(truncatingIfNeeded: random.next())
            let lane = laneByFigure(codes)
            all.expectEqual(laneFromCodes(codes), lane, hex(codes))
            all.expectEqual(codesFromLane(lane), codes, hex(lane))
        }
        all.assertAllHeld(atLeast: 100_000)
    }

    /// Every value of a lane's lower and upper half, in both directions.
    func testPackingAndUnpackingAreInverse() {
        var all = Comparisons()
        for half in UInt32(0)...0xffff {
            for word in [half, half << 16, half | ~half << 16] {
                all.expectEqual(codesFromLane(laneFromCodes(word)), word, hex(word))
                all.expectEqual(laneFromCodes(codesFromLane(word)), word, hex(word))
            }
        }
        all.assertAllHeld(atLeast: 6 * 65536)
    }
}
