// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// Sizes that are computed from what a caller passed: positive, and checked at each step to fit 63 bits.
public struct CheckedSize {
    public let value: UInt64
    private let name: Text
    private let argument: UInt64

    /// `name` is the argument to blame if the size gets too large, and `argument` its value, if that is not `value`.
    public init(_ value: UInt64, _ name: Text, argument: Int64? = nil) {
        self.init(value, name, argument.map { UInt64($0) } ?? value)
    }

    private init(_ value: UInt64, _ name: Text, _ argument: UInt64) {
        self.value = value
        self.name = name
        self.argument = argument
    }

    @inline(never)
    public func times(_ factor: UInt64) throws(Failure) -> CheckedSize {
        let (result, overflow) = value.multipliedReportingOverflow(by: factor)
        return try checked(result, overflow)
    }

    @inline(never)
    public func plus(_ addend: UInt64) throws(Failure) -> CheckedSize {
        let (result, overflow) = value.addingReportingOverflow(addend)
        return try checked(result, overflow)
    }

    /// The next multiple of `multiple`, a power of two.
    public func roundedUp(to multiple: UInt64) throws(Failure) -> CheckedSize {
        let raised = try plus(multiple - 1)
        return CheckedSize(raised.value & ~(multiple - 1), name, argument)
    }

    private func checked(_ result: UInt64, _ overflow: Bool) throws(Failure) -> CheckedSize {
        if overflow || result > UInt64(Int64.max) {
            throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, name, .unsigned(argument), expected: "sizes that fit in 63 bits")
        }
        return CheckedSize(result, name, argument)
    }
}
