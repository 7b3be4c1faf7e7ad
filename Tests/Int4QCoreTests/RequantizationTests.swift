// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import XCTest

@testable import Int4QCore

/// Fixed-point multipliers, and sums that become codes.
final class RequantizationTests: XCTestCase {
    // MARK: Multipliers

    private func assertMultiplier(_ value: Double, _ multiplier: Int32, _ shift: Int32, file: StaticString = #filePath,
                                  line: UInt = #line) {
        guard let number = FixedPointMultiplier(value) else { return XCTFail("\(value) is refused", file: file, line: line) }
        XCTAssertEqual(number.multiplier, multiplier, file: file, line: line)
        XCTAssertEqual(number.shift, shift, file: file, line: line)
    }

    func testMultipliersHave31Bits() {
        assertMultiplier(0.5, 1 << 30, 0)
        assertMultiplier(0.75, 3 << 29, 0)
        assertMultiplier(1, 1 << 30, 1)
        assertMultiplier(3, 3 << 29, 2)
        assertMultiplier(0x1p-32, 1 << 30, -31)
        assertMultiplier(0x1.fffffffcp29, Int32.max, 30)
    }

    func testHalvesAreRoundedUp() {
        assertMultiplier(0.5 + 0x1p-32, 1 << 30 + 1, 0)
        assertMultiplier((0.5 + 0x1p-32).nextDown, 1 << 30, 0)
        assertMultiplier(0.5 + 0x3p-32, 1 << 30 + 2, 0)
    }

    func testWhatIsRoundedToAPowerOfTwoHasAShiftMore() {
        assertMultiplier(1.0.nextDown, 1 << 30, 1)
        assertMultiplier(1 - 0x1p-32, 1 << 30, 1)
        assertMultiplier((1 - 0x1p-32).nextDown, Int32.max, 0)
        assertMultiplier(0x1p-32.nextDown, 1 << 30, -31) // only so is there room for it
    }

    func testWhatIsTooSmallIsZero() {
        for value in [0, -0.0, 0x1.fffffff8p-33, 0x1p-33, Double.leastNormalMagnitude, Double.leastNonzeroMagnitude] {
            assertMultiplier(value, 0, 0)
        }
    }

    func testWhatIsNoMultiplierIsRefused() {
        for value in [-0x1p-40, -1, 0x1p30, 0x1p30.nextDown, 1e300, .infinity, -.infinity, .nan] {
            XCTAssertNil(FixedPointMultiplier(value), "\(value)")
        }
    }

    // MARK: Sums

    private func requantized(_ sums: [Int32], _ multiplier: Int32, _ shift: Int32, type: Int = INT4Q_CODES_INT32,
                             bias: [Int32]? = nil, zeroPoint: Int32 = 0, low: Int32 = .min, high: Int32 = .max) -> [UInt8] {
        let codes = AlignedMemory(4 * sums.count)
        withUnsafePointer(to: multiplier) { multipliers in
            withUnsafePointer(to: shift) { shifts in
                (bias ?? [Int32](repeating: 0, count: sums.count)).withUnsafeBufferPointer { biases in
                    var raw = int4q_requantization()
                    raw.struct_size = UInt32(MemoryLayout<int4q_requantization>.stride)
                    raw.codes_type = Int32(type)
                    (raw.n, raw.multiplier_count) = (Int64(sums.count), 1)
                    (raw.multipliers, raw.shifts, raw.bias) = (multipliers, shifts, bias == nil ? nil : biases.baseAddress)
                    (raw.zero_point, raw.low, raw.high) = (zeroPoint, low, high)
                    let status = int4q_requantize_rows(&raw, sums, Int64(sums.count), 1, codes.base, UInt64(codes.byteCount), 0, 1)
                    XCTAssertEqual(status, int4q_status(INT4Q_OK))
                }
            }
        }
        return codes.bytes
    }

    private func integers(_ bytes: [UInt8]) -> [Int32] {
        stride(from: 0, to: bytes.count, by: 4).map { i in
            Int32(bitPattern: (0..<4).reduce(0) { $0 | UInt32(bytes[i + $1]) << UInt32(8 * $1) })
        }
    }

    func testTheFirstRoundingIsUpAndTheSecondAwayFromZero() {
        // By one half: 0.5, 1.5, -0.5, -1.5.
        XCTAssertEqual(integers(requantized([1, 3, -1, -3], 1 << 30, 0)), [1, 2, 0, -1])
        // By one, then by one half.
        XCTAssertEqual(integers(requantized([2, 6, -2, -6], 1 << 30, -1)), [1, 2, -1, -2])
        // By a quarter, twice rounded: 1.5 becomes 2, and that 1.
        XCTAssertEqual(integers(requantized([3, -3, 5, -5], 1 << 30, -1)), [1, -1, 2, -1])
    }

    func testTheOnlyProductThatOverflowsIsKeptWithin() {
        XCTAssertEqual(integers(requantized([.min, .max, .min + 1], .min, 0)), [.max, -Int32.max, .max])
    }

    func testLeftShiftsSaturate() {
        XCTAssertEqual(integers(requantized([1, -1, 1 << 29, 1 << 30, -(1 << 30), .max, .min], 1 << 30, 1)),
                       [1, -1, 1 << 29, 1 << 30, -(1 << 30), 1 << 30, -(1 << 30)])
    }

    func testBiasWrapsAround() {
        XCTAssertEqual(integers(requantized([.max, 5], .max, 0, bias: [1, -3])), [-Int32.max, 2])
    }

    func testLimitsThatNoValueReachesFromInside() {
        // Values of 0 and a zero point beyond the limits.
        XCTAssertEqual(integers(requantized([0, .max, .min], .max, 0, zeroPoint: .min, low: 5, high: 9)), [5, 5, 5])
        XCTAssertEqual(integers(requantized([0, .max, .min], .max, 0, zeroPoint: .max, low: -9, high: -5)), [-5, -5, -5])
    }

    func testNibblesOfAnOddRowEndInZero() {
        let codes = requantized([-16, 14, 2, 4, -2], 1 << 30, 0, type: INT4Q_CODES_INT4, low: -8, high: 7)
        XCTAssertEqual(Array(codes.prefix(4)), [0x78, 0x21, 0x0f, 0])
    }
}
