// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// A host's way to run independent pieces of work, or none: then all run here, one after the other.
public struct ParallelFor {
    typealias Body = @convention(c) (UnsafeMutableRawPointer?, Int64, UInt32) -> Void

    private let function: int4q_parallel_for?
    private let host: UnsafeMutableRawPointer?
    private let workers: UInt32
    private let hostMode: UInt64

    /// Runs a body in the library's own floating-point mode. The host is called in its own.
    @inline(never)
    public static func with(_ function: int4q_parallel_for?, host: UnsafeMutableRawPointer?, workers: UInt32,
                            _ body: (ParallelFor) throws(Failure) -> Void) throws(Failure) {
        let hostMode = i4q_float_mode_enter()
        defer { i4q_float_mode_leave(hostMode) }
        try body(ParallelFor(function: function, host: host, workers: workers, hostMode: hostMode))
    }

    @inline(__always)
    func inHostMode<Result>(_ body: () -> Result) -> Result {
        i4q_float_mode_leave(hostMode)
        defer { _ = i4q_float_mode_enter() }
        return body()
    }

    /// What the tasks of one run share; lives on the caller's stack until all are done.
    private struct Shared {
        let body: Body
        let work: UnsafeMutableRawPointer
        let count: Int64
        let workers: UInt32
        /// Set by a task whose index or worker is out of range: it must not touch scratch that is not there.
        var misused: UInt32 = 0
    }

    /// Calls body(work, i, worker) for each i below count.
    func run<Work>(_ work: inout Work, count: Int, _ body: Body) throws(Failure) {
        if count == 0 { return }
        try withUnsafeMutablePointer(to: &work) { (pointer) throws(Failure) in
            try run(erased: UnsafeMutableRawPointer(pointer), count: Int64(count), body)
        }
    }

    @inline(never)
    private func run(erased work: UnsafeMutableRawPointer, count: Int64, _ body: Body) throws(Failure) {
        guard let function else {
            for index in 0..<count { body(work, index, 0) }
            return
        }
        var shared = Shared(body: body, work: work, count: count, workers: workers)
        let misused = withUnsafeMutablePointer(to: &shared) { pointer in
            inHostMode {
                function(host, count, workers, { context, index, worker in
                    guard let shared = context?.assumingMemoryBound(to: Shared.self) else { return }
                    if index < 0 || index >= shared.pointee.count || worker >= shared.pointee.workers {
                        i4q_atomic_store_u32(&shared.pointee.misused, 1)
                        return
                    }
                    let hostMode = i4q_float_mode_enter()
                    shared.pointee.body(shared.pointee.work, index, worker)
                    i4q_float_mode_leave(hostMode)
                }, UnsafeMutableRawPointer(pointer))
            }
            return i4q_atomic_load_u32(&pointer.pointee.misused)
        }
        if misused != 0 {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "parallel_for", .text("a task with an index or worker out of range"),
                          expected: "an index below count and a worker below", bound: UInt64(workers))
        }
    }
}

public func requireWorkers(_ workers: UInt32, _ name: Text) throws(Failure) {
    if workers < 1 || workers > 1024 { throw .invalid(name, Int64(workers), expected: "1 to 1024") }
}
