// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 14 of the header, from the best of all methods on.

@c @implementation
public func int4q_best_memory(_ candidates: UnsafePointer<int4q_candidate>?, _ count: Int64, _ n: Int64, _ k: Int64,
                              _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_best_memory") { () throws(Failure) in
        let size = try bestMemory(try Candidates(candidates, count, mayBeUsual: true), n: n, k: k)
        try require(bytes, "bytes").pointee = size
    }
}

@c @implementation
public func int4q_best_scratch(_ candidates: UnsafePointer<int4q_candidate>?, _ count: Int64, _ n: Int64, _ k: Int64,
                               _ worker_count: UInt32, _ has_scales: Int32,
                               _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_best_scratch") { () throws(Failure) in
        try requireWorkers(worker_count, "worker_count")
        if has_scales < 0 || has_scales > 1 {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "has_scales", .integer(Int64(has_scales)), expected: "0 or 1")
        }
        let size = try BestScratch(try Candidates(candidates, count, mayBeUsual: true), n: n, k: k, workers: worker_count,
                                   hasScales: has_scales == 1)
        try require(bytes, "bytes").pointee = size.bytes
    }
}

@c @implementation
public func int4q_quantize_best(_ candidates: UnsafePointer<int4q_candidate>?, _ count: Int64, _ n: Int64, _ k: Int64,
                                _ source: UnsafeRawPointer?, _ source_type: int4q_type, _ source_stride: Int64,
                                _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64, _ options: UnsafePointer<int4q_best_options>?,
                                _ scales: UnsafeMutablePointer<Float>?, _ memory: UnsafeMutableRawPointer?, _ memory_bytes: UInt64,
                                _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64, _ parallel_for: int4q_parallel_for?,
                                _ host: UnsafeMutableRawPointer?, _ tensor: UnsafeMutablePointer<int4q_tensor>?,
                                _ trials: UnsafeMutablePointer<int4q_trial>?, _ trial_capacity: Int64,
                                _ report: UnsafeMutablePointer<int4q_best_report>?) -> int4q_status {
    attemptInHostMode("int4q_quantize_best") { () throws(Failure) in
        let workers = try require(options, "options").pointee.worker_count
        try ParallelFor.with(parallel_for, host: host, workers: workers) { (parallel) throws(Failure) in
            let candidates = try Candidates(candidates, count, mayBeUsual: true)
            let source = try layerMatrix(source, source_type, n, k, source_stride)
            let gram = try Gram(gram, bytes: gram_bytes, .usual)
            let options = try BestOptions(try require(options, "options").pointee)
            if let scales { try requireAligned(UInt(bitPattern: scales), to: 4, "scales") }
            let result = try require(memory, "memory", alignment: Int(INT4Q_ALIGNMENT))
            try requireBytes(memory_bytes, needed: try bestMemory(candidates, n: n, k: k), "memory_bytes")
            let size = try BestScratch(candidates, n: n, k: k, workers: workers, hasScales: scales != nil)
            let room = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
            let tensor = try require(tensor, "tensor"), report = try require(report, "report")
            try requireStructSize(tensor.pointee.struct_size, of: int4q_tensor.self, "tensor.struct_size")
            try requireStructSize(report.pointee.struct_size, of: int4q_best_report.self, "report.struct_size")
            try requireAtLeast(trial_capacity, 0, "trial_capacity")
            if trial_capacity > 0 { _ = try require(trials, "trials") }
            var quantizer = try BestQuantizer(candidates, options, n: n, source, gram, size, room, result: result, trials: trials,
                                              capacity: trial_capacity, try activeKernels())
            try quantizer.run(parallel, scales: scales)
            try quantizer.write(tensor, report)
        }
    }
}

// MARK: Searches of other papers

@c @implementation
public func int4q_clip_search(_ scheme: UnsafePointer<int4q_scheme>?, _ codebook: UnsafePointer<Float>?, _ n: Int64, _ k: Int64,
                              _ source: UnsafeRawPointer?, _ source_type: int4q_type, _ source_stride: Int64,
                              _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64, _ shares: UnsafePointer<Float>?, _ count: Int32,
                              _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64, _ clips: UnsafeMutablePointer<Float>?,
                              _ destination: UnsafeMutableRawPointer?, _ destination_type: int4q_type,
                              _ destination_stride: Int64, _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    clip("int4q_clip_search", scheme, codebook, n, k, source, source_type, source_stride, gram, gram_bytes, shares, isList: true,
         count, count, scratch, scratch_bytes, clips, destination, destination_type, destination_stride, row_begin, row_end)
}

@inline(never)
func requireShares(_ shares: UnsafePointer<Float>, _ count: Int32) throws(Failure) {
    if count < 1 || count > 1000 {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "count", .integer(Int64(count)), expected: "1 to 1000")
    }
    for index in 0..<Int(count) where !(shares[index] > 0 && shares[index].isFinite) {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "shares", .listed(index: Int64(index), shares[index]),
                      expected: "finite numbers above 0")
    }
}

@c @implementation
public func int4q_gram_search_scales(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                                     _ source_stride: Int64, _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64,
                                     _ search: UnsafePointer<int4q_scale_search>?, _ scratch: UnsafeMutableRawPointer?,
                                     _ scratch_bytes: UInt64, _ row_begin: Int64, _ row_end: Int64,
                                     _ report: UnsafeMutablePointer<int4q_scale_search_report>?) -> int4q_status {
    attempt("int4q_gram_search_scales") { () throws(Failure) in
        let (tensor, source) = try pair(tensor, source, source_type, source_stride)
        let gram = try Gram(gram, bytes: gram_bytes, .usual)
        let size = try DescentScratch(tensor.scheme, k: tensor.layout.k)
        let memory = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
        try requireRange(row_begin, row_end, of: tensor.layout.n, "row_begin", "row_end")
        let report = try require(report, "report")
        try requireStructSize(report.pointee.struct_size, of: int4q_scale_search_report.self, "report.struct_size")
        try requireZero(report.pointee.reserved, "report.reserved")
        let search = try require(search, "search").pointee
        try requireSearch(search, tensor.scheme)
        var options = int4q_descent_options()
        options.struct_size = UInt32(MemoryLayout<int4q_descent_options>.stride)
        options.flags = UInt32(INT4Q_DESCENT_REFIT_SCALES)
        options.sweeps = 1
        var descent = try GramDescent(tensor, source, gram, options, size, memory, try activeKernels())
        try tensor.requireCodebooks(row_begin..<row_end)
        report.pointee.accepted = try descent.search(row_begin..<row_end, search)
        descent.write(to: report)
    }
}

private func requireSearch(_ search: int4q_scale_search, _ scheme: Scheme) throws(Failure) {
    try requireStructSize(search.struct_size, of: int4q_scale_search.self, "search.struct_size")
    try requireZero(search.reserved, "search.reserved")
    if search.rounds < 1 || search.rounds > 10000 {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "search.rounds", .integer(search.rounds), expected: "1 to 10000")
    }
    if !(search.reach > 0 && search.reach < 1) {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "search.reach", .number(Float(search.reach)), expected: "above 0 and below 1")
    }
    if scheme.hasUnitScale {
        throw Failure(INT4Q_ERROR_UNSUPPORTED, "tensor.scheme.scale_rule", .text("INT4Q_SCALE_ONE"), expected: "another rule")
    }
    if !scheme.width.isNibble {
        throw Failure(INT4Q_ERROR_UNSUPPORTED, "tensor.scheme.code_bits", .integer(Int64(scheme.width.bits)),
                      expected: "codes of 4 bits")
    }
}

@c @implementation
public func int4q_codebook_greedy(_ source: UnsafeRawPointer?, _ source_type: int4q_type, _ source_stride: Int64, _ n: Int64,
                                  _ k: Int64, _ row_begin: Int64, _ row_end: Int64, _ weights: UnsafePointer<Float>?,
                                  _ weights_stride: Int64, _ candidates: UnsafePointer<Float>?, _ candidate_count: Int64,
                                  _ kept: Int32, _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64,
                                  _ values: UnsafeMutablePointer<Float>?,
                                  _ mean_squared_error: UnsafeMutablePointer<Double>?) -> int4q_status {
    fitCodebook("int4q_codebook_greedy", source, source_type, source_stride, n, k, row_begin, row_end, weights, weights_stride,
                candidates, candidate_count, kept, isGreedy: true, scratch, scratch_bytes, values, mean_squared_error)
}
