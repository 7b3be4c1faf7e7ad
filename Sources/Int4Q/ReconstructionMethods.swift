// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 12 of the header, from SmoothQuant on.

// MARK: SmoothQuant

@c @implementation
public func int4q_column_maxima(_ source: UnsafeRawPointer?, _ source_type: int4q_type, _ rows: Int64, _ columns: Int64,
                                _ source_stride: Int64, _ maxima: UnsafeMutablePointer<Float>?) -> int4q_status {
    attempt("int4q_column_maxima") { () throws(Failure) in
        let source = try weights(source, source_type, rows, columns, source_stride, "rows", "columns")
        try raise(try require(maxima, "maxima"), source, rows: 0..<rows, try activeKernels())
    }
}

/// A matrix named `source`.
@inline(never)
func weights(_ source: UnsafeRawPointer?, _ type: int4q_type, _ n: Int64, _ k: Int64, _ stride: Int64,
                     _ rowsName: Text = "n", _ columnsName: Text = "k") throws(Failure) -> Matrix {
    try requireAtLeast(n, 1, rowsName)
    try requireAtLeast(k, 1, columnsName)
    return try Matrix(source, try ElementType(type, "source_type"), rows: n, columns: k, stride: stride,
                      .init("source", stride: "source_stride"))
}

@inline(never)
func destinationMatrix(_ pointer: UnsafeMutableRawPointer?, _ type: int4q_type, _ n: Int64, _ k: Int64,
                               _ stride: Int64) throws(Failure) -> Matrix {
    try Matrix(pointer, try ElementType(type, "destination_type"), rows: n, columns: k, stride: stride,
               .init("destination", stride: "destination_stride"))
}

@c @implementation
public func int4q_smooth_factors(_ x_maxima: UnsafePointer<Float>?, _ weight_maxima: UnsafePointer<Float>?, _ k: Int64,
                                 _ alpha: Double, _ factors: UnsafeMutablePointer<Float>?) -> int4q_status {
    attempt("int4q_smooth_factors") { () throws(Failure) in
        try requireAtLeast(k, 1, "k")
        let smooth = try SmoothFactors(x: try require(x_maxima, "x_maxima"), weights: try require(weight_maxima, "weight_maxima"),
                                       alpha: alpha)
        try smooth.write(to: try require(factors, "factors"), count: Int(k))
    }
}

@c @implementation
public func int4q_scale_columns(_ source: UnsafeRawPointer?, _ source_type: int4q_type, _ source_stride: Int64,
                                _ factors: UnsafePointer<Float>?, _ operation: Int32, _ destination: UnsafeMutableRawPointer?,
                                _ destination_type: int4q_type, _ destination_stride: Int64, _ n: Int64, _ k: Int64,
                                _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_scale_columns") { () throws(Failure) in
        let source = try weights(source, source_type, n, k, source_stride)
        let destination = try destinationMatrix(destination, destination_type, n, k, destination_stride)
        try requireRange(row_begin, row_end, of: n, "row_begin", "row_end")
        let scaling = try ColumnScaling(try require(factors, "factors"), count: Int(k), operation: operation)
        try scaling.apply(source, to: destination, rows: row_begin..<row_end, from: row_begin, try activeKernels())
    }
}

// MARK: AWQ

private enum Scratch { case awq, clip, descent }

/// One function for all, since most of it is what they share.
@inline(never)
private func writeSize(_ function: Text, of kind: Scratch, _ scheme: UnsafePointer<int4q_scheme>?, n: Int64, k: Int64,
                       workers: UInt32, to bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt(function) { () throws(Failure) in
        let scheme = try Scheme(try require(scheme, "scheme").pointee)
        try requireWorkers(workers, "worker_count")
        let size: UInt64
        switch kind {
        case .awq: size = try AwqScratch(scheme, n: n, k: k, workers: workers).bytes
        case .clip: size = try AwqClipScratch(scheme, k: k).bytes
        case .descent: size = try DescentScratch(scheme, k: k).bytes
        }
        try require(bytes, "bytes").pointee = size
    }
}

@c @implementation
public func int4q_awq_scratch(_ scheme: UnsafePointer<int4q_scheme>?, _ n: Int64, _ k: Int64, _ worker_count: UInt32,
                              _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    writeSize("int4q_awq_scratch", of: .awq, scheme, n: n, k: k, workers: worker_count, to: bytes)
}

@c @implementation
public func int4q_awq_search(_ scheme: UnsafePointer<int4q_scheme>?, _ codebook: UnsafePointer<Float>?, _ n: Int64, _ k: Int64,
                             _ source: UnsafeRawPointer?, _ source_type: int4q_type, _ source_stride: Int64,
                             _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64, _ options: UnsafePointer<int4q_awq_options>?,
                             _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64, _ parallel_for: int4q_parallel_for?,
                             _ host: UnsafeMutableRawPointer?, _ scales: UnsafeMutablePointer<Float>?,
                             _ report: UnsafeMutablePointer<int4q_awq_report>?) -> int4q_status {
    attemptInHostMode("int4q_awq_search") { () throws(Failure) in
        let workers = try require(options, "options").pointee.worker_count
        try ParallelFor.with(parallel_for, host: host, workers: workers) { (parallel) throws(Failure) in
            let scheme = try Scheme(try require(scheme, "scheme").pointee)
            let source = try weights(source, source_type, n, k, source_stride)
            let gram = try Gram(gram, bytes: gram_bytes, .usual)
            let options = try AwqOptions(try require(options, "options").pointee)
            let size = try AwqScratch(scheme, n: n, k: k, workers: workers)
            let memory = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
            let scales = try require(scales, "scales"), report = try require(report, "report")
            try requireStructSize(report.pointee.struct_size, of: int4q_awq_report.self, "report.struct_size")
            let trial = try QuantizationTrial(scheme, codebook, n: n, source, gram, try activeKernels())
            var search = try AwqSearch(trial, options, size, memory)
            try search.run(parallel, scales, report)
        }
    }
}

@c @implementation
public func int4q_awq_clip_scratch(_ scheme: UnsafePointer<int4q_scheme>?, _ k: Int64,
                                   _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    writeSize("int4q_awq_clip_scratch", of: .clip, scheme, n: 1, k: k, workers: 1, to: bytes)
}

@c @implementation
public func int4q_awq_clip(_ scheme: UnsafePointer<int4q_scheme>?, _ codebook: UnsafePointer<Float>?, _ n: Int64, _ k: Int64,
                           _ source: UnsafeRawPointer?, _ source_type: int4q_type, _ source_stride: Int64,
                           _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64, _ steps: Int32, _ tried: Int32, _ scratch: UnsafeMutableRawPointer?,
                           _ scratch_bytes: UInt64, _ clips: UnsafeMutablePointer<Float>?, _ destination: UnsafeMutableRawPointer?,
                           _ destination_type: int4q_type, _ destination_stride: Int64, _ row_begin: Int64,
                           _ row_end: Int64) -> int4q_status {
    clip("int4q_awq_clip", scheme, codebook, n, k, source, source_type, source_stride, gram, gram_bytes, nil, isList: false, steps,
         tried, scratch, scratch_bytes, clips, destination, destination_type, destination_stride, row_begin, row_end)
}

/// With clips of equal steps, or of the caller's list.
@inline(never)
func clip(_ function: Text, _ scheme: UnsafePointer<int4q_scheme>?, _ codebook: UnsafePointer<Float>?, _ n: Int64,
          _ k: Int64, _ source: UnsafeRawPointer?, _ source_type: int4q_type, _ source_stride: Int64, _ gram: UnsafeRawPointer?,
          _ gram_bytes: UInt64, _ shares: UnsafePointer<Float>?, isList: Bool, _ steps: Int32, _ tried: Int32,
          _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64, _ clips: UnsafeMutablePointer<Float>?,
          _ destination: UnsafeMutableRawPointer?, _ destination_type: int4q_type, _ destination_stride: Int64, _ row_begin: Int64,
          _ row_end: Int64) -> int4q_status {
    attempt(function) { () throws(Failure) in
        if isList { try requireShares(try require(shares, "shares"), steps) }
        let scheme = try Scheme(try require(scheme, "scheme").pointee)
        let source = try weights(source, source_type, n, k, source_stride)
        let gram = try Gram(gram, bytes: gram_bytes, .usual)
        let size = try AwqClipScratch(scheme, k: k)
        let memory = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
        let clips = try require(clips, "clips")
        var target: Matrix?
        if destination != nil { target = try destinationMatrix(destination, destination_type, n, k, destination_stride) }
        try requireRange(row_begin, row_end, of: n, "row_begin", "row_end")
        let trial = try QuantizationTrial(scheme, codebook, n: n, source, gram, try activeKernels())
        try AwqClips(trial, size, memory, steps: steps, tried: tried, shares: shares, clips, target).run(row_begin..<row_end)
    }
}

// MARK: Coordinate descent

@c @implementation
public func int4q_gram_descend_scratch(_ scheme: UnsafePointer<int4q_scheme>?, _ k: Int64,
                                       _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    writeSize("int4q_gram_descend_scratch", of: .descent, scheme, n: 1, k: k, workers: 1, to: bytes)
}

@c @implementation
public func int4q_gram_descend(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                               _ source_stride: Int64, _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64,
                               _ options: UnsafePointer<int4q_descent_options>?, _ scratch: UnsafeMutableRawPointer?,
                               _ scratch_bytes: UInt64, _ row_begin: Int64, _ row_end: Int64,
                               _ report: UnsafeMutablePointer<int4q_descent_report>?) -> int4q_status {
    attempt("int4q_gram_descend") { () throws(Failure) in
        let (tensor, source) = try pair(tensor, source, source_type, source_stride)
        let gram = try Gram(gram, bytes: gram_bytes, .usual)
        let size = try DescentScratch(tensor.scheme, k: tensor.layout.k)
        let memory = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
        try requireRange(row_begin, row_end, of: tensor.layout.n, "row_begin", "row_end")
        let report = try require(report, "report")
        try requireStructSize(report.pointee.struct_size, of: int4q_descent_report.self, "report.struct_size")
        try requireZero(report.pointee.reserved, "report.reserved")
        let options = try require(options, "options").pointee
        var descent = try GramDescent(tensor, source, gram, options, size, memory, try activeKernels())
        try tensor.requireCodebooks(row_begin..<row_end)
        try descent.run(row_begin..<row_end)
        descent.write(to: report)
    }
}

// MARK: HQQ

@c @implementation
public func int4q_hqq_quantize(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                               _ source_stride: Int64, _ options: UnsafePointer<int4q_hqq_options>?, _ row_begin: Int64,
                               _ row_end: Int64) -> int4q_status {
    attempt("int4q_hqq_quantize") { () throws(Failure) in
        let (tensor, source) = try pair(tensor, source, source_type, source_stride)
        let quantizer = try HalfQuadratic(tensor, source, try require(options, "options").pointee, try activeKernels())
        try requireRange(row_begin, row_end, of: tensor.layout.n, "row_begin", "row_end")
        try quantizer.run(row_begin..<row_end)
    }
}
