// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import XCTest

@testable import Int4QCore

final class CheckedSizeTests: XCTestCase {
    private let largest = UInt64(Int64.max)

    func testSizesUpTo63BitsAreComputed() throws {
        XCTAssertEqual(try CheckedSize(largest, "a").times(1).value, largest)
        XCTAssertEqual(try CheckedSize(largest - 5, "a").plus(5).value, largest)
        XCTAssertEqual(try CheckedSize(1 << 31, "a").times(1 << 31).value, 1 << 62)
        XCTAssertEqual(try CheckedSize(7, "a").times(0).value, 0)
    }

    func testMoreThan63BitsIsAnOverflow() {
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "a") { try CheckedSize(1 << 31, "a").times(1 << 32) }
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "b") { try CheckedSize(largest, "b").plus(1) }
    }

    func testMoreThan64BitsIsAnOverflowToo() {
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "a") { try CheckedSize(1 << 33, "a").times(1 << 31) } // 0 in 64 bits
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "a") { try CheckedSize(largest, "a").plus(.max) }
    }

    func testTheFailureTellsTheArgumentsValueAfterAnyNumberOfSteps() {
        func value(_ body: () throws -> CheckedSize) -> String {
            do { return "\(try body().value)" } catch { return "\((error as! Failure).value)" }
        }
        XCTAssertEqual(value { try CheckedSize(3, "a").times(1 << 40).plus(1).roundedUp(to: 64).times(1 << 40) }, "unsigned(3)")
        XCTAssertEqual(value { try CheckedSize(64, "a", argument: 33).plus(1).times(1 << 62) }, "unsigned(33)")
    }

    func testRoundsUpToMultiples() throws {
        for (value, expected): (UInt64, UInt64) in [(0, 0), (1, 64), (63, 64), (64, 64), (65, 128)] {
            XCTAssertEqual(try CheckedSize(value, "a").roundedUp(to: 64).value, expected)
        }
        XCTAssertEqual(try CheckedSize(largest - 63, "a").roundedUp(to: 64).value, largest - 63)
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "a") { try CheckedSize(largest - 62, "a").roundedUp(to: 64) }
    }
}

final class ElementTypeTests: XCTestCase {
    private let f32 = try! ElementType(int4q_type(INT4Q_TYPE_F32), "t")
    private let f16 = try! ElementType(int4q_type(INT4Q_TYPE_F16), "t")
    private let bf16 = try! ElementType(int4q_type(INT4Q_TYPE_BF16), "t")

    func testOtherNumbersAreNoTypes() {
        for raw: int4q_type in [0, 4, -1, .max, .min] {
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "t") { try ElementType(raw, "t") }
        }
    }

    func testSizes() { XCTAssertEqual([f32, f16, bf16].map(\.size), [4, 2, 2]) }

    func testRoundingKeepsAsManyBitsAsTheTypeHas() {
        let number: Float = 1 + 0x1p-7 + 0x1p-10 + 0x1p-23
        XCTAssertEqual(f32.rounded(number), number)
        XCTAssertEqual(f16.rounded(number), 1 + 0x1p-7 + 0x1p-10)
        XCTAssertEqual(bf16.rounded(number), 1 + 0x1p-7)
    }

    func testRoundingIsHalfToEven() {
        XCTAssertEqual(f16.rounded(2049), 2048)
        XCTAssertEqual(f16.rounded(2051), 2052)
        XCTAssertEqual(bf16.rounded(257), 256)
        XCTAssertEqual(bf16.rounded(259), 260)
    }

    func testRoundingBeyondTheRangeIsInfinityAndBelowItZero() {
        XCTAssertEqual(f16.rounded(70000), .infinity)
        XCTAssertEqual(f16.rounded(-1e-9).bitPattern, Float(-0.0).bitPattern)
        XCTAssertEqual(bf16.rounded(.greatestFiniteMagnitude), .infinity)
        XCTAssertEqual(f32.rounded(.greatestFiniteMagnitude), .greatestFiniteMagnitude)
    }

    func testStoreWritesLittleEndianAndOnlyItsElement() {
        for (type, bytes): (ElementType, [UInt8]) in [(f32, [0, 0, 0xc0, 0xbf]), (f16, [0, 0xbe]), (bf16, [0xc0, 0xbf])] {
            var memory = [UInt8](repeating: 0xa5, count: 16)
            memory.withUnsafeMutableBytes { type.store(-1.5, $0.baseAddress!, 1) }
            var expected = [UInt8](repeating: 0xa5, count: 16)
            expected.replaceSubrange(type.size..<2 * type.size, with: bytes)
            XCTAssertEqual(memory, expected)
            XCTAssertEqual(memory.withUnsafeBytes { type.load($0.baseAddress!, 1) }, -1.5)
        }
    }
}

final class MatrixTests: XCTestCase {
    private let f32 = try! ElementType(int4q_type(INT4Q_TYPE_F32), "t")
    private let f16 = try! ElementType(int4q_type(INT4Q_TYPE_F16), "t")

    private func matrix(_ address: UInt, _ type: ElementType, rows: Int64, columns: Int64, stride: Int64) throws -> Matrix {
        try Matrix(UnsafeRawPointer(bitPattern: address), type, rows: rows, columns: columns, stride: stride,
                   .init("p", stride: "s"))
    }

    func testRowsAreAStrideApart() throws {
        let three = try matrix(4096, f16, rows: 3, columns: 5, stride: 7)
        XCTAssertEqual((0..<3).map { UInt(bitPattern: three.row($0)) }, [4096, 4110, 4124])
    }

    func testNullMisalignedAndShortStridesAreRefused() {
        assertFails(INT4Q_ERROR_NULL_POINTER, "p") { try matrix(0, f32, rows: 1, columns: 1, stride: 1) }
        assertFails(INT4Q_ERROR_MISALIGNED, "p") { try matrix(4098, f32, rows: 1, columns: 1, stride: 1) }
        assertFails(INT4Q_ERROR_MISALIGNED, "p") { try matrix(4097, f16, rows: 1, columns: 1, stride: 1) }
        assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "s") { try matrix(4096, f32, rows: 1, columns: 5, stride: 4) }
        assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "s") { try matrix(4096, f32, rows: 1, columns: 5, stride: -5) }
    }

    func testAMatrixMustEndWithinTheAddressSpace() throws {
        let last = UInt.max - 63 // 64 bytes before the end
        XCTAssertNoThrow(try matrix(last, f32, rows: 1, columns: 15, stride: 15))
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "s") { try matrix(last, f32, rows: 1, columns: 17, stride: 17) }
        XCTAssertNoThrow(try matrix(last, f32, rows: 2, columns: 7, stride: 8))
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "s") { try matrix(last, f32, rows: 3, columns: 1, stride: 8) }
    }

    func testSizesBeyond63BitsAreRefused() {
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "s") { try matrix(4096, f32, rows: 1 << 32, columns: 1, stride: 1 << 32) }
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "s") { try matrix(4096, f32, rows: 2, columns: 1, stride: .max) }
    }

    func testTheStrideOfASingleRowIsNotMultiplied() {
        XCTAssertNoThrow(try matrix(4096, f32, rows: 1, columns: 3, stride: .max))
    }
}
