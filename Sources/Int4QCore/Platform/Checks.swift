// SPDX-License-Identifier: Apache-2.0
import CInt4Q

// What every entry point asks of its arguments before anything is computed from them.

public func require<T>(_ pointer: UnsafePointer<T>?, _ name: Text) throws(Failure) -> UnsafePointer<T> {
    guard let pointer else { throw nullPointer(name) }
    try requireAligned(UInt(bitPattern: pointer), to: MemoryLayout<T>.alignment, name)
    return pointer
}

public func require<T>(_ pointer: UnsafeMutablePointer<T>?, _ name: Text) throws(Failure) -> UnsafeMutablePointer<T> {
    guard let pointer else { throw nullPointer(name) }
    try requireAligned(UInt(bitPattern: pointer), to: MemoryLayout<T>.alignment, name)
    return pointer
}

public func require(_ pointer: UnsafeRawPointer?, _ name: Text, alignment: Int) throws(Failure) -> UnsafeRawPointer {
    guard let pointer else { throw nullPointer(name) }
    try requireAligned(UInt(bitPattern: pointer), to: alignment, name)
    return pointer
}

public func require(_ pointer: UnsafeMutableRawPointer?, _ name: Text,
                    alignment: Int) throws(Failure) -> UnsafeMutableRawPointer {
    guard let pointer else { throw nullPointer(name) }
    try requireAligned(UInt(bitPattern: pointer), to: alignment, name)
    return pointer
}

private func nullPointer(_ name: Text) -> Failure {
    Failure(INT4Q_ERROR_NULL_POINTER, name, .text("NULL"), expected: "a pointer")
}

public func requireAligned(_ address: UInt, to alignment: Int, _ name: Text) throws(Failure) {
    if address & UInt(alignment - 1) != 0 {
        throw Failure(INT4Q_ERROR_MISALIGNED, name, .pointer(address), expected: "an address that is a multiple of",
                      bound: UInt64(alignment))
    }
}

/// The only size known so far of each struct is its present one.
public func requireStructSize<T>(_ size: UInt32, of type: T.Type, _ name: Text) throws(Failure) {
    let known = MemoryLayout<T>.stride
    if size != known {
        throw Failure(INT4Q_ERROR_STRUCT_SIZE, name, .unsigned(UInt64(size)), expected: "the struct's size,",
                      bound: UInt64(known))
    }
}

public func requireZero(_ reserved: UInt32, _ name: Text) throws(Failure) {
    if reserved != 0 { throw .invalid(name, Int64(reserved), expected: "0") }
}

public func requireAtLeast(_ value: Int64, _ minimum: Int64, _ name: Text) throws(Failure) {
    if value < minimum { throw .invalid(name, value, expected: "at least", bound: UInt64(minimum)) }
}

@inline(never)
public func requireShare(_ value: Double, _ name: Text) throws(Failure) {
    if !(value >= 0 && value <= 1) { throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, name, .number(Float(value)), expected: "0 to 1") }
}

public func requireBytes(_ declared: UInt64, needed: UInt64, _ name: Text) throws(Failure) {
    if declared < needed {
        throw Failure(INT4Q_ERROR_BUFFER_TOO_SMALL, name, .unsigned(declared), expected: "at least", bound: needed)
    }
}

/// A range of `total` things, cut at multiples of `step`.
public func requireRange(_ begin: Int64, _ end: Int64, of total: Int64, step: Int64 = 1, _ beginName: Text,
                         _ endName: Text) throws(Failure) {
    if begin < 0 || begin > total { throw .invalid(beginName, begin, expected: "0 or more and at most", bound: UInt64(total)) }
    if end < begin { throw .invalid(endName, end, expected: "not before the range's begin,", bound: UInt64(begin)) }
    if end > total { throw .invalid(endName, end, expected: "at most", bound: UInt64(total)) }
    if begin % step != 0 { throw .invalid(beginName, begin, expected: "a multiple of", bound: UInt64(step)) }
    if end % step != 0 && end != total {
        throw .invalid(endName, end, expected: "the number of rows or a multiple of", bound: UInt64(step))
    }
}
