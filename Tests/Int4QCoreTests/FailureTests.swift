// SPDX-License-Identifier: Apache-2.0
import Foundation
import Int4Q
import XCTest

@testable import Int4QCore

final class FailureTests: XCTestCase {
    private func lastError() -> (status: Int, texts: [String], message: String) {
        var error = int4q_error()
        error.struct_size = UInt32(MemoryLayout<int4q_error>.stride)
        XCTAssertEqual(int4q_last_error(&error), int4q_status(INT4Q_OK))
        let texts = [error.function, error.argument, error.value, error.expected].map { String(cString: $0!) }
        return (Int(error.status), texts, String(cString: error.message))
    }

    func testAFailureIsRecordedInPartsAndAsASentence() {
        Failure.invalid("k", -3, expected: "at least", bound: 1).record(function: "int4q_blob_size")
        let error = lastError()
        XCTAssertEqual(error.status, INT4Q_ERROR_INVALID_ARGUMENT)
        XCTAssertEqual(error.texts, ["int4q_blob_size", "k", "-3", "at least 1"])
        XCTAssertEqual(error.message, "int4q_blob_size: k is -3; expected at least 1")
    }

    func testWithoutABoundTheExpectationStandsAlone() {
        Failure(INT4Q_ERROR_NULL_POINTER, "tensor.codes", .text("NULL"), expected: "a pointer").record(function: "f")
        XCTAssertEqual(lastError().message, "f: tensor.codes is NULL; expected a pointer")
        XCTAssertEqual(lastError().status, INT4Q_ERROR_NULL_POINTER)
    }

    func testTheNextFailureReplacesAllOfTheLast() {
        Failure(INT4Q_ERROR_CORRUPT, "a long argument", .text("a long value"), expected: "a long expectation")
            .record(function: "first")
        Failure(INT4Q_ERROR_THREAD, "a", .integer(1), expected: "b").record(function: "g")
        XCTAssertEqual(lastError().texts, ["g", "a", "1", "b"])
        XCTAssertEqual(lastError().message, "g: a is 1; expected b")
    }

    func testLongValuesAreCut() {
        String(repeating: "x", count: 500).withCString {
            Failure(INT4Q_ERROR_INVALID_ARGUMENT, "a", .characters($0), expected: "b").record(function: "f")
        }
        let error = lastError()
        XCTAssertEqual(error.texts[2], "\"" + String(repeating: "x", count: 94))
        XCTAssertEqual(error.texts[3], "b")
        XCTAssertEqual(error.message, "f: a is \"" + String(repeating: "x", count: 319 - 9))
    }

    func testASuccessLeavesTheLastFailureAsItWas() {
        Failure.invalid("k", -3, expected: "x").record(function: "f")
        var isa = int4q_isa()
        XCTAssertEqual(int4q_isa_detected(&isa), int4q_status(INT4Q_OK))
        XCTAssertEqual(lastError().message, "f: k is -3; expected x")
    }

    func testEachThreadHasItsOwnFailure() {
        Failure.invalid("mine", 1, expected: "x").record(function: "f")
        let done = expectation(description: "the other thread")
        Thread.detachNewThread {
            var error = int4q_error()
            error.struct_size = UInt32(MemoryLayout<int4q_error>.stride)
            XCTAssertEqual(int4q_last_error(&error), int4q_status(INT4Q_OK))
            XCTAssertEqual(error.status, int4q_status(INT4Q_OK))
            XCTAssertEqual(String(cString: error.message), "")
            Failure.invalid("other", 2, expected: "y").record(function: "g")
            done.fulfill()
        }
        wait(for: [done], timeout: 10)
        XCTAssertEqual(lastError().message, "f: mine is 1; expected x")
    }

    /// The header: the error tells the argument and its value.
    func testAnOverflowTellsTheValueThatTheCallerPassed() {
        var scheme = rawScheme(INT4Q_KIND_SYMMETRIC), bytes: UInt64 = 0
        let n: Int64 = 1 << 50, k: Int64 = 1 << 20
        XCTAssertEqual(int4q_blob_size(&scheme, n, k, &bytes), int4q_status(INT4Q_ERROR_SIZE_OVERFLOW))
        let texts = lastError().texts
        XCTAssertEqual(texts[2], texts[1] == "n" ? String(n) : String(k), "value of \(texts[1])")
    }
}
