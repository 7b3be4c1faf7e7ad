// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// What the tasks of one parallel product share; lives on the caller's stack until both steps are done.
private struct SharedProduct {
    var product: Product
    /// Set by a task whose worker is out of range: it must not touch scratch that is not there.
    var misused: UInt32 = 0
}

extension Product {
    /// Both steps, spread by the host's parallel_for, or here alone. The host is called in its own floating-point mode.
    public func run(_ parallelFor: int4q_parallel_for?, host: UnsafeMutableRawPointer?) throws(Failure) {
        guard let parallelFor else {
            let hostMode = i4q_float_mode_enter()
            prepare(0..<prepareCount)
            runTiles(0..<tileCount, worker: 0)
            i4q_float_mode_leave(hostMode)
            return
        }
        var shared = SharedProduct(product: self)
        let misused = withUnsafeMutablePointer(to: &shared) { pointer in
            let context = UnsafeMutableRawPointer(pointer)
            parallelFor(host, prepareCount, workerCount, { context, index, worker in
                withShared(context, index, worker, { $0.prepareCount }) { $0.prepare(index..<index + 1) }
            }, context)
            parallelFor(host, tileCount, workerCount, { context, index, worker in
                withShared(context, index, worker, { $0.tileCount }) { $0.runTiles(index..<index + 1, worker: worker) }
            }, context)
            return pointer.pointee.misused
        }
        if misused != 0 {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "parallel_for", .text("a task with an index or worker out of range"),
                          expected: "an index below count and a worker below", bound: UInt64(workerCount))
        }
    }
}

private func withShared(_ context: UnsafeMutableRawPointer?, _ index: Int64, _ worker: UInt32,
                        _ count: (Product) -> Int64, _ body: (Product) -> Void) {
    guard let shared = context?.assumingMemoryBound(to: SharedProduct.self) else { return }
    if index < 0 || index >= count(shared.pointee.product) || worker >= shared.pointee.product.workers {
        i4q_atomic_store_u32(&shared.pointee.misused, 1)
        return
    }
    let hostMode = i4q_float_mode_enter()
    body(shared.pointee.product)
    i4q_float_mode_leave(hostMode)
}
