// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Why a call cannot be done: thrown by checks, turned into a status and the thread's error text at the C boundary.
///
/// What is thrown is the status alone, which fits a register: all else would be copied by each function on the way. It stands in the
/// thread's own memory until the thread makes another failure.
public struct Failure: Error {
    public let status: int4q_status

    @inline(never)
    public init(_ status: Int, _ argument: Text, _ value: FailureValue, expected: Text,
                bound: UInt64? = nil) {
        self.status = int4q_status(truncatingIfNeeded: status)
        Failure.details.pointee = FailureDetails(argument: argument, value: value, expected: expected, bound: bound)
    }

    /// Of the thread's latest failure.
    private static var details: UnsafeMutablePointer<FailureDetails> {
        i4q_thread_failure().unsafelyUnwrapped.assumingMemoryBound(to: FailureDetails.self)
    }

    public var argument: Text { Failure.details.pointee.argument }
    public var value: FailureValue { Failure.details.pointee.value }
    public var expected: Text { Failure.details.pointee.expected }
    /// Completes `expected`, as in "at least 64".
    public var bound: UInt64? { Failure.details.pointee.bound }
}

/// In I4Q_FAILURE_BYTES of the thread.
private struct FailureDetails {
    let argument: Text
    let value: FailureValue
    let expected: Text
    let bound: UInt64?
}

public enum FailureValue: @unchecked Sendable {
    case text(Text)
    case characters(UnsafePointer<CChar>)
    case integer(Int64)
    case unsigned(UInt64)
    case pointer(UInt)
    case number(Float)
    /// A number at a place in a matrix.
    case element(row: Int64, column: Int64, Float)
    /// An integer in an array.
    case entry(index: Int64, Int64)
    /// A float in an array.
    case listed(index: Int64, Float)
    /// The block of a blob that starts at this row.
    case block(row: Int64)
}

extension Failure {
    @inline(never)
    static func invalid(_ argument: Text, _ value: Int64, expected: Text, bound: UInt64? = nil) -> Failure {
        Failure(INT4Q_ERROR_INVALID_ARGUMENT, argument, .integer(value), expected: expected, bound: bound)
    }

    /// Writes this failure where int4q_last_error() finds it.
    public func record(function: Text) {
        guard let text = i4q_thread_error() else { return }
        text.pointee.status = status
        text.pointee.function = function.characters
        text.pointee.argument = argument.characters

        let raw = UnsafeMutableRawPointer(text)
        var valueText = TextWriter(raw, MemoryLayout<i4q_error_text>.offset(of: \.value)!, Int(I4Q_ERROR_TEXT_BYTES))
        valueText.write(value)
        var expectedText = TextWriter(raw, MemoryLayout<i4q_error_text>.offset(of: \.expected)!, Int(I4Q_ERROR_TEXT_BYTES))
        write(expectedTo: &expectedText)
        var message = TextWriter(raw, MemoryLayout<i4q_error_text>.offset(of: \.message)!, Int(I4Q_ERROR_MESSAGE_BYTES))
        message.write(function)
        message.write(": ")
        message.write(argument)
        message.write(" is ")
        message.write(value)
        message.write("; expected ")
        write(expectedTo: &message)
    }

    private func write(expectedTo writer: inout TextWriter) {
        writer.write(expected)
        if let bound {
            writer.write(" ")
            writer.write(bound)
        }
    }
}
