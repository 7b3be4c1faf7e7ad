// SPDX-License-Identifier: Apache-2.0
@_exported import CInt4Q
import CInt4QShims
import Int4QCore

/// Runs an entry point's body with the library's own floating-point mode; a failure becomes the thread's error text and
/// a status.
@inline(__always)
func attempt(_ function: Text, _ body: () throws(Failure) -> Void) -> int4q_status {
    attemptInHostMode(function) { () throws(Failure) in try inOwnMode(body) }
}

/// Runs a part of an entry point with the library's own floating-point mode.
@inline(__always)
func inOwnMode(_ body: () throws(Failure) -> Void) throws(Failure) {
    let hostMode = i4q_float_mode_enter()
    defer { i4q_float_mode_leave(hostMode) }
    try body()
}

/// The same in the host's floating-point mode: for what calls the host, or starts threads that will. What computes or
/// compares numbers there belongs into `inOwnMode`: the host may have unmasked exceptions.
@inline(__always)
func attemptInHostMode(_ function: Text, _ body: () throws(Failure) -> Void) -> int4q_status {
    do throws(Failure) {
        try body()
        return int4q_status(INT4Q_OK)
    } catch {
        error.record(function: function)
        return error.status
    }
}
