// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 5 of the header.

@c @implementation
public func int4q_matmul_plan_init(_ desc: UnsafePointer<int4q_matmul_desc>?,
                                   _ plan: UnsafeMutablePointer<int4q_matmul_plan>?) -> int4q_status {
    attempt("int4q_matmul_plan_init") { () throws(Failure) in
        let shape = try MatmulShape(try require(desc, "desc").pointee)
        let plan = try require(plan, "plan")
        let isa = try InstructionSetLimit.active()
        try MatmulPlan(shape, isa.kernels).write(isa, workers: shape.workerCount, to: plan)
    }
}

@c @implementation
public func int4q_matmul_prepare(_ plan: UnsafePointer<int4q_matmul_plan>?, _ args: UnsafePointer<int4q_matmul_args>?,
                                 _ begin: Int64, _ end: Int64) -> int4q_status {
    attempt("int4q_matmul_prepare") { () throws(Failure) in
        let args = try require(args, "args").pointee
        var product = try Product(try require(plan, "plan"), args)
        try product.take(x: args)
        try requireRange(begin, end, of: product.prepareCount, "begin", "end")
        product.prepare(begin..<end)
    }
}

@c @implementation
public func int4q_matmul_tiles(_ plan: UnsafePointer<int4q_matmul_plan>?, _ args: UnsafePointer<int4q_matmul_args>?,
                               _ worker: UInt32, _ begin: Int64, _ end: Int64) -> int4q_status {
    attempt("int4q_matmul_tiles") { () throws(Failure) in
        let args = try require(args, "args").pointee
        var product = try Product(try require(plan, "plan"), args)
        try product.take(weightsAndY: args)
        try requireRange(begin, end, of: product.tileCount, "begin", "end")
        if worker >= product.workers {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "worker", .unsigned(UInt64(worker)), expected: "below",
                          bound: UInt64(product.workers))
        }
        product.runTiles(begin..<end, worker: worker)
    }
}

@c @implementation
public func int4q_matmul(_ plan: UnsafePointer<int4q_matmul_plan>?, _ args: UnsafePointer<int4q_matmul_args>?,
                         _ parallel_for: int4q_parallel_for?, _ host: UnsafeMutableRawPointer?) -> int4q_status {
    attemptInHostMode("int4q_matmul") { () throws(Failure) in
        let args = try require(args, "args").pointee
        var product = try Product(try require(plan, "plan"), args)
        try inOwnMode { () throws(Failure) in
            try product.take(x: args)
            try product.take(weightsAndY: args)
        }
        try product.run(parallel_for, host: host)
    }
}

@c @implementation
public func int4q_error_bound(_ plan: UnsafePointer<int4q_matmul_plan>?, _ args: UnsafePointer<int4q_matmul_args>?, _ bound: Int32,
                              _ bounds: UnsafeMutablePointer<Double>?, _ ldb: Int64) -> int4q_status {
    attempt("int4q_error_bound") { () throws(Failure) in
        let args = try require(args, "args").pointee
        var product = try Product(try require(plan, "plan"), args, usesScratch: false)
        try product.requirePlain()
        let kind = try ErrorBound.Kind(bound)
        try product.take(x: args)
        try product.takeWeights(args)
        let target = try product.requireBounds(bounds, stride: ldb)
        try ErrorBound(product, args, kind).write(to: target, stride: Int(ldb))
    }
}

@c @implementation
public func int4q_describe_dispatch(_ desc: UnsafePointer<int4q_matmul_desc>?, _ text: UnsafeMutablePointer<CChar>?,
                                    _ text_bytes: UInt64, _ needed_bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_describe_dispatch") { () throws(Failure) in
        let shape = try MatmulShape(try require(desc, "desc").pointee)
        if text_bytes > 0 { _ = try require(text, "text") }
        if needed_bytes != nil { _ = try require(needed_bytes, "needed_bytes") }
        var writer = TextWriter(text, 0, Int(clamping: text_bytes))
        try describeDispatch(shape, &writer)
        let needed = UInt64(writer.length) + 1
        needed_bytes?.pointee = needed
        try requireBytes(text_bytes, needed: needed, "text_bytes")
    }
}

@c @implementation
public func int4q_pool_create(_ worker_count: UInt32, _ pool: UnsafeMutablePointer<OpaquePointer?>?) -> int4q_status {
    attemptInHostMode("int4q_pool_create") { () throws(Failure) in
        let result = try require(pool, "pool")
        result.pointee = try ThreadPool.create(workers: worker_count)
    }
}

@c @implementation
public func int4q_pool_destroy(_ pool: OpaquePointer?) -> int4q_status {
    attempt("int4q_pool_destroy") { () throws(Failure) in
        if let pool { ThreadPool.destroy(UnsafeMutablePointer(pool)) }
    }
}

@c @implementation
public func int4q_pool_parallel_for(_ pool: UnsafeMutableRawPointer?, _ count: Int64, _ worker_count: UInt32,
                                    _ task: int4q_task?, _ context: UnsafeMutableRawPointer?) {
    guard let task else { return }
    guard let pool else {
        ThreadPool.runAlone(count: count, task, context)
        return
    }
    ThreadPool.run(pool.assumingMemoryBound(to: ThreadPool.self), count: count, workers: worker_count, task, context)
}
