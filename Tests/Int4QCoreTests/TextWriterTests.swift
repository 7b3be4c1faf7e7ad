// SPDX-License-Identifier: Apache-2.0
import Foundation
import XCTest

@testable import Int4QCore

final class TextWriterTests: XCTestCase {
    /// What stands in `capacity` bytes after `write`, up to the zero, and the length that the writer counted.
    private func written(_ capacity: Int = 200, _ write: (inout TextWriter) -> Void) -> (text: String, length: Int) {
        let memory = AlignedMemory(capacity + 64)
        memset(memory.base, 0x7e, capacity + 64)
        var writer = TextWriter(memory.base, 32, capacity)
        write(&writer)
        let bytes = memory.pointer(to: UInt8.self)
        let outside = (0..<32).map { bytes[$0] } + (32 + capacity..<capacity + 64).map { bytes[$0] }
        XCTAssertTrue(outside.allSatisfy { $0 == 0x7e }, "wrote outside its memory")
        let text = (0..<capacity).map { bytes[32 + $0] }
        let end = text.firstIndex(of: 0)
        XCTAssertTrue(end != nil || capacity == 0, "no zero at the end")
        return (String(decoding: text[..<(end ?? 0)], as: UTF8.self), writer.length)
    }

    func testUnsignedIntegers() {
        let numbers: [UInt64] = [0, 1, 9, 10, 11, 99, 100, 1_000_000_007, .max - 1, .max]
        for number in numbers { XCTAssertEqual(written { $0.write(number) }.text, String(number)) }
    }

    func testEveryPowerOfTenAndItsNeighbours() {
        var power: UInt64 = 1
        for _ in 0...19 {
            for number in [power - 1, power, power + 1] { XCTAssertEqual(written { $0.write(number) }.text, String(number)) }
            power &*= 10
        }
    }

    func testSignedIntegers() {
        let numbers: [Int64] = [0, -1, 1, -10, .min, .min + 1, .max]
        for number in numbers { XCTAssertEqual(written { $0.write(number) }.text, String(number)) }
    }

    func testTextsFollowOneAnother() {
        let result = written {
            $0.write("a ")
            $0.write(Int64(-5))
            $0.write(" é")
        }
        XCTAssertEqual(result.text, "a -5 é")
        XCTAssertEqual(result.length, 7, "bytes of UTF-8")
    }

    func testAnEmptyTextIsTerminated() { XCTAssertEqual(written { _ in }.text, "") }

    func testWhatDoesNotFitIsCutAndCounted() {
        for capacity in 0...12 {
            let result = written(capacity) {
                $0.write("abc")
                $0.write(UInt64(12345))
            }
            XCTAssertEqual(result.text, String("abc12345".prefix(max(capacity - 1, 0))))
            XCTAssertEqual(result.length, 8)
        }
    }

    func testWithoutMemoryTheTextIsOnlyCounted() {
        var writer = TextWriter(nil, 0, 0)
        writer.write("twelve bytes")
        XCTAssertEqual(writer.length, 12)
    }

    func testValuesOfFailures() {
        func text(_ value: FailureValue) -> String { written { $0.write(value) }.text }
        XCTAssertEqual(text(.text("NULL")), "NULL")
        XCTAssertEqual(text(.integer(-3)), "-3")
        XCTAssertEqual(text(.unsigned(.max)), "18446744073709551615")
        XCTAssertEqual(text(.pointer(0)), "0x0")
        XCTAssertEqual(text(.pointer(0x10)), "0x10")
        XCTAssertEqual(text(.pointer(0x7fff_0123_89ab_cdef)), "0x7fff012389abcdef")
        XCTAssertEqual(text(.pointer(.max)), "0xffffffffffffffff")
        XCTAssertEqual(text(.block(row: 48)), "the block at row 48")
        XCTAssertEqual("sse9".withCString { text(.characters($0)) }, "\"sse9\"")
        XCTAssertEqual(text(.element(row: 1, column: 22, 0.1)), "0.100000001 at row 1, column 22")
        XCTAssertEqual(text(.element(row: 0, column: 0, -.infinity)), "-inf at row 0, column 0")
    }
}
