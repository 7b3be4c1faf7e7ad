// SPDX-License-Identifier: Apache-2.0
import XCTest

@testable import Int4QCore

/// The order of codes of 1 and 2 bits within a lane, from the figures of docs/blob-format.md: k of the lane's codes, the highest
/// first.
final class LaneOrderTests: XCTestCase {
    private static let figures: [Int: [UInt32]] = [
        1: [31, 29, 23, 21, 15, 13, 7, 5, 27, 25, 19, 17, 11, 9, 3, 1, 30, 28, 22, 20, 14, 12, 6, 4, 26, 24, 18, 16, 10, 8, 2, 0],
        2: [15, 13, 7, 5, 11, 9, 3, 1, 14, 12, 6, 4, 10, 8, 2, 0],
    ]

    private func laneByFigure(_ codes: UInt32, bits: Int) -> UInt32 {
        let width = UInt32(bits), mask: UInt32 = (1 << width) - 1
        return Self.figures[bits]!.reduce(0) { lane, k in lane << width | (codes >> (width * k)) & mask }
    }

    func testFiguresNameEachCodeOnce() {
        for (bits, figure) in Self.figures { XCTAssertEqual(figure.sorted(), (0..<UInt32(32 / bits)).map { $0 }) }
    }

    func testEachCodeStandsWhereTheFigureSays() {
        var all = Comparisons()
        for bits in [1, 2] {
            for place in 0..<UInt32(32) {
                let codes = (1 as UInt32) << place
                all.expectEqual(laneOrder(codes, bits: bits), laneByFigure(codes, bits: bits), "\(bits) bits, place \(place)")
            }
        }
        all.assertAllHeld(atLeast: 64)
    }

    func testRandomCodesStandWhereTheFigureSaysAndComeBack() {
        var random = SplitMix64(state: 6)
        var all = Comparisons()
        for _ in 0..<20_000 {
            let codes = UInt32(truncatingIfNeeded: random.next())
            for bits in [1, 2] {
                let lane = laneByFigure(codes, bits: bits)
                all.expectEqual(laneOrder(codes, bits: bits), lane, "\(bits) bits of \(hex(codes))")
                all.expectEqual(naturalOrder(lane, bits: bits), codes, "\(bits) bits of \(hex(lane))")
            }
        }
        all.assertAllHeld(atLeast: 80_000)
    }

    /// The bytes of prepared activations: byte i of part t is k 8 (t / 2) + c with c = 0 4 1 5 for even t and 2 6 3 7 for odd t.
    func testPartsAreThoseOfActivations() {
        let places: [[UInt32]] = [[0, 4, 1, 5], [2, 6, 3, 7]]
        for bits in [1, 2] {
            for part in 0..<8 / bits {
                for byte in 0..<4 {
                    let k = UInt32(part / 2 * 8) + places[part % 2][byte]
                    let code = (1 as UInt32) << (k * UInt32(bits))
                    XCTAssertEqual(laneOrder(code, bits: bits), 1 << UInt32(8 * byte + part * bits), "\(bits) bits, k \(k)")
                }
            }
        }
    }
}
