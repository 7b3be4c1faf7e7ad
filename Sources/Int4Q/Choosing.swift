// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 14 of the header.

@inline(never)
private func requireArray(_ pointer: UnsafeRawPointer?, _ count: Int64, _ each: UInt64, _ name: StaticString) throws(Failure) {
    let base = try require(pointer, name, alignment: Int(each))
    _ = try CheckedSize(UInt64(count), name).times(each).plus(UInt64(UInt(bitPattern: base)))
}

@inline(never)
func layerMatrix(_ source: UnsafeRawPointer?, _ type: int4q_type, _ n: Int64, _ k: Int64, _ stride: Int64) throws(Failure) -> Matrix {
    try requireAtLeast(n, 1, "n")
    try requireAtLeast(k, 1, "k")
    return try Matrix(source, try ElementType(type, "source_type"), rows: n, columns: k, stride: stride,
                      .init("source", stride: "source_stride"))
}

@c @implementation
public func int4q_usual_candidates(_ candidates: UnsafeMutablePointer<int4q_candidate>?, _ capacity: Int64,
                                   _ count: UnsafeMutablePointer<Int64>?) -> int4q_status {
    attempt("int4q_usual_candidates") { () throws(Failure) in
        try require(count, "count").pointee = Int64(try Candidates(nil, 0, mayBeUsual: true).count)
        try Candidates.writeUsual(to: candidates, capacity: capacity)
    }
}

// MARK: Sensitivity

@c @implementation
public func int4q_sensitivity_scratch(_ candidates: UnsafePointer<int4q_candidate>?, _ count: Int64, _ n: Int64, _ k: Int64,
                                      _ worker_count: UInt32, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_sensitivity_scratch") { () throws(Failure) in
        try requireWorkers(worker_count, "worker_count")
        let size = try SensitivityScratch(try Candidates(candidates, count, mayBeUsual: false), n: n, k: k, workers: worker_count)
        try require(bytes, "bytes").pointee = size.bytes
    }
}

@c @implementation
public func int4q_sensitivity(_ candidates: UnsafePointer<int4q_candidate>?, _ count: Int64, _ n: Int64, _ k: Int64,
                              _ source: UnsafeRawPointer?, _ source_type: int4q_type, _ source_stride: Int64,
                              _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64, _ options: UnsafePointer<int4q_search_options>?,
                              _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64, _ parallel_for: int4q_parallel_for?,
                              _ host: UnsafeMutableRawPointer?, _ losses: UnsafeMutablePointer<Double>?,
                              _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attemptInHostMode("int4q_sensitivity") { () throws(Failure) in
        let workers = try require(options, "options").pointee.worker_count
        try ParallelFor.with(parallel_for, host: host, workers: workers) { (parallel) throws(Failure) in
            let options = try SearchOptions(try require(options, "options").pointee)
            let candidates = try Candidates(candidates, count, mayBeUsual: false)
            let source = try layerMatrix(source, source_type, n, k, source_stride)
            let matrix: Gram? = try gram == nil ? nil : Gram(gram, bytes: gram_bytes, .usual)
            if gram == nil && gram_bytes != 0 {
                throw Failure(INT4Q_ERROR_NULL_POINTER, "gram", .text("NULL"), expected: "a pointer, or gram_bytes 0")
            }
            let size = try SensitivityScratch(candidates, n: n, k: k, workers: workers)
            let memory = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
            if losses != nil { try requireArray(losses, count, 8, "losses") }
            if bytes != nil { try requireArray(bytes, count, 8, "bytes") }
            var sensitivity = try Sensitivity(candidates, n: n, source, matrix, size, memory, try activeKernels())
            try sensitivity.run(options, parallel, losses, bytes)
        }
    }
}

@c @implementation
public func int4q_gram_eigenvalues_scratch(_ k: Int64, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_gram_eigenvalues_scratch") { () throws(Failure) in
        let size = try EigenvalueScratch(k: k)
        try require(bytes, "bytes").pointee = size.bytes
    }
}

@c @implementation
public func int4q_gram_eigenvalues(_ gram: UnsafeRawPointer?, _ gram_bytes: UInt64, _ options: UnsafePointer<int4q_search_options>?,
                                   _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64,
                                   _ parallel_for: int4q_parallel_for?, _ host: UnsafeMutableRawPointer?,
                                   _ eigenvalues: UnsafeMutablePointer<Double>?,
                                   _ nuclear_norm: UnsafeMutablePointer<Double>?) -> int4q_status {
    attemptInHostMode("int4q_gram_eigenvalues") { () throws(Failure) in
        let workers = try require(options, "options").pointee.worker_count
        try ParallelFor.with(parallel_for, host: host, workers: workers) { (parallel) throws(Failure) in
            let gram = try Gram(gram, bytes: gram_bytes, .usual)
            let options = try SearchOptions(try require(options, "options").pointee)
            let size = try EigenvalueScratch(k: gram.layout.k)
            let memory = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
            if nuclear_norm != nil { try requireArray(nuclear_norm, 1, 8, "nuclear_norm") }
            var solver = try GramEigenvalues(gram, size, memory, try require(eigenvalues, "eigenvalues"))
            try solver.run(options, parallel, nuclear_norm)
        }
    }
}

// MARK: Allocation

@c @implementation
public func int4q_allocate_scratch(_ layers: Int64, _ candidates: Int64, _ states: Int64,
                                   _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_allocate_scratch") { () throws(Failure) in
        let size = try AllocationScratch(layers: layers, candidates: candidates).bytes(states: states)
        try require(bytes, "bytes").pointee = size
    }
}

@inline(never)
private func problem(_ losses: UnsafePointer<Double>?, _ bytes: UnsafePointer<UInt64>?, _ weights: UnsafePointer<Double>?,
                     _ layers: Int64, _ candidates: Int64) throws(Failure) -> AllocationProblem {
    let cells = try AllocationScratch(layers: layers, candidates: candidates).cells
    try requireArray(losses, cells, 8, "losses")
    try requireArray(bytes, cells, 8, "bytes")
    if weights != nil { try requireArray(weights, layers, 8, "weights") }
    return try AllocationProblem(try require(losses, "losses"), try require(bytes, "bytes"), weights: weights, layers: layers,
                                 candidates: candidates)
}

@c @implementation
public func int4q_allocate(_ losses: UnsafePointer<Double>?, _ bytes: UnsafePointer<UInt64>?, _ weights: UnsafePointer<Double>?,
                           _ layers: Int64, _ candidates: Int64, _ budget: UInt64, _ scratch: UnsafeMutableRawPointer?,
                           _ scratch_bytes: UInt64, _ choices: UnsafeMutablePointer<Int32>?,
                           _ allocation: UnsafeMutablePointer<int4q_allocation>?) -> int4q_status {
    attempt("int4q_allocate") { () throws(Failure) in
        let size = try AllocationScratch(layers: layers, candidates: candidates)
        let memory = try requireScratch(scratch, scratch_bytes, needed: try size.bytes(states: 1))
        let allocation = try require(allocation, "allocation")
        try requireStructSize(allocation.pointee.struct_size, of: int4q_allocation.self, "allocation.struct_size")
        try requireZero(allocation.pointee.reserved, "allocation.reserved")
        try requireArray(choices, layers, 4, "choices")
        let problem = try problem(losses, bytes, weights, layers, candidates)
        var allocator = try Allocator(problem, budget: budget, memory, bytes: scratch_bytes)
        try allocator.run(try require(choices, "choices"), allocation)
    }
}

@c @implementation
public func int4q_allocate_by_tolerance(_ losses: UnsafePointer<Double>?, _ bytes: UnsafePointer<UInt64>?, _ layers: Int64,
                                        _ candidates: Int64, _ reference: Int64, _ tolerance: Double,
                                        _ choices: UnsafeMutablePointer<Int32>?) -> int4q_status {
    attempt("int4q_allocate_by_tolerance") { () throws(Failure) in
        let problem = try problem(losses, bytes, nil, layers, candidates)
        try requireArray(choices, layers, 4, "choices")
        try problem.choose(reference: reference, tolerance: tolerance, try require(choices, "choices"))
    }
}
