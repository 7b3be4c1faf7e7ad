// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 12 of the header.

@inline(never)
func requireScratch(_ scratch: UnsafeMutableRawPointer?, _ declared: UInt64,
                    needed: UInt64) throws(Failure) -> UnsafeMutableRawPointer {
    let memory = try require(scratch, "scratch", alignment: Int(INT4Q_ALIGNMENT))
    try requireBytes(declared, needed: needed, "scratch_bytes")
    return memory
}

/// A matrix of doubles with as many columns as rows.
@inline(never)
func requireSquare(_ matrix: UnsafeRawPointer?, _ k: Int64, _ stride: Int64) throws(Failure) {
    let base = try require(matrix, "matrix", alignment: 8)
    try requireAtLeast(stride, k, "stride")
    _ = try CheckedSize(UInt64(stride), "stride").times(UInt64(k)).times(8).plus(UInt64(UInt(bitPattern: base)))
}

// MARK: Gram matrices

@c @implementation
public func int4q_gram_size(_ k: Int64, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_gram_size") { () throws(Failure) in
        let layout = try GramLayout(k: k)
        try require(bytes, "bytes").pointee = layout.totalBytes
    }
}

@c @implementation
public func int4q_gram_init(_ k: Int64, _ gram: UnsafeMutableRawPointer?, _ gram_bytes: UInt64) -> int4q_status {
    attempt("int4q_gram_init") { () throws(Failure) in
        let layout = try GramLayout(k: k)
        let memory = try require(gram, "gram", alignment: Int(INT4Q_ALIGNMENT))
        try requireBytes(gram_bytes, needed: layout.totalBytes, "gram_bytes")
        _ = Gram(layout, in: memory)
    }
}

@c @implementation
public func int4q_gram_push_scratch(_ k: Int64, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_gram_push_scratch") { () throws(Failure) in
        let scratch = try GramPushScratch(k: try GramLayout(k: k).k)
        try require(bytes, "bytes").pointee = scratch.bytes
    }
}

@c @implementation
public func int4q_gram_push(_ gram: UnsafeMutableRawPointer?, _ gram_bytes: UInt64, _ x: UnsafeRawPointer?, _ x_type: int4q_type,
                            _ rows: Int64, _ columns: Int64, _ ldx: Int64, _ scratch: UnsafeMutableRawPointer?,
                            _ scratch_bytes: UInt64, _ worker_count: UInt32, _ parallel_for: int4q_parallel_for?,
                            _ host: UnsafeMutableRawPointer?) -> int4q_status {
    attemptInHostMode("int4q_gram_push") { () throws(Failure) in
        try push(gram, gram_bytes, x, x_type, rows, columns, ldx, weights: nil, scratch, scratch_bytes, worker_count,
                 parallel_for, host)
    }
}

@c @implementation
public func int4q_gram_push_weighted(_ gram: UnsafeMutableRawPointer?, _ gram_bytes: UInt64, _ x: UnsafeRawPointer?,
                                     _ x_type: int4q_type, _ rows: Int64, _ columns: Int64, _ ldx: Int64,
                                     _ weights: UnsafePointer<Float>?, _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64,
                                     _ worker_count: UInt32, _ parallel_for: int4q_parallel_for?,
                                     _ host: UnsafeMutableRawPointer?) -> int4q_status {
    attemptInHostMode("int4q_gram_push_weighted") { () throws(Failure) in
        let weights = try require(weights, "weights")
        try push(gram, gram_bytes, x, x_type, rows, columns, ldx, weights: weights, scratch, scratch_bytes, worker_count,
                 parallel_for, host)
    }
}

@inline(never)
private func push(_ gram: UnsafeMutableRawPointer?, _ gram_bytes: UInt64, _ x: UnsafeRawPointer?, _ x_type: int4q_type,
                  _ rows: Int64, _ columns: Int64, _ ldx: Int64, weights: UnsafePointer<Float>?,
                  _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64, _ worker_count: UInt32,
                  _ parallel_for: int4q_parallel_for?, _ host: UnsafeMutableRawPointer?) throws(Failure) {
    try ParallelFor.with(parallel_for, host: host, workers: worker_count) { (parallel) throws(Failure) in
        let gram = try Gram(gram, bytes: gram_bytes, .usual)
        try requireAtLeast(rows, 1, "rows")
        try requireAtLeast(columns, 1, "columns")
        let x = try Matrix(x, try ElementType(x_type, "x_type"), rows: rows, columns: columns, stride: ldx,
                           .init("x", stride: "ldx"))
        let size = try GramPushScratch(k: gram.layout.k)
        let memory = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
        try requireWorkers(worker_count, "worker_count")
        try gram.push(x, rows: rows, weights: weights, scratch: memory, try activeKernels(), parallel)
    }
}

@c @implementation
public func int4q_gram_set(_ gram: UnsafeMutableRawPointer?, _ gram_bytes: UInt64, _ matrix: UnsafePointer<Double>?,
                           _ stride: Int64, _ rows: Int64) -> int4q_status {
    attempt("int4q_gram_set") { () throws(Failure) in
        let gram = try Gram(gram, bytes: gram_bytes, .usual)
        try requireSquare(matrix, gram.layout.k, stride)
        try requireAtLeast(rows, 1, "rows")
        try gram.set(try require(matrix, "matrix"), stride: stride, rows: rows)
    }
}

@c @implementation
public func int4q_gram_merge(_ into: UnsafeMutableRawPointer?, _ into_bytes: UInt64, _ from: UnsafeRawPointer?,
                             _ from_bytes: UInt64) -> int4q_status {
    attempt("int4q_gram_merge") { () throws(Failure) in
        let target = try Gram(into, bytes: into_bytes, .init("into", "into_bytes"))
        let source = try Gram(from, bytes: from_bytes, .init("from", "from_bytes"))
        try target.validate("into")
        try source.validate("from")
        try target.merge(source)
    }
}

@c @implementation
public func int4q_gram_scale(_ gram: UnsafeMutableRawPointer?, _ gram_bytes: UInt64, _ weight: Double,
                             _ shrinkage: Double) -> int4q_status {
    attempt("int4q_gram_scale") { () throws(Failure) in
        let gram = try Gram(gram, bytes: gram_bytes, .usual)
        try requireShare(weight, "weight")
        try requireShare(shrinkage, "shrinkage")
        try gram.validate("gram")
        gram.scale(weight: weight, shrinkage: shrinkage)
    }
}

@c @implementation
public func int4q_gram_validate(_ gram: UnsafeRawPointer?, _ gram_bytes: UInt64) -> int4q_status {
    attempt("int4q_gram_validate") { () throws(Failure) in
        try Gram(gram, bytes: gram_bytes, .usual).validate("gram")
    }
}

@c @implementation
public func int4q_gram_get_info(_ gram: UnsafeRawPointer?, _ gram_bytes: UInt64,
                                _ info: UnsafeMutablePointer<int4q_gram_info>?) -> int4q_status {
    attempt("int4q_gram_get_info") { () throws(Failure) in
        let gram = try Gram(gram, bytes: gram_bytes, .usual)
        let info = try require(info, "info")
        try requireStructSize(info.pointee.struct_size, of: int4q_gram_info.self, "info.struct_size")
        try requireZero(info.pointee.reserved, "info.reserved")
        gram.write(to: info)
    }
}

@c @implementation
public func int4q_gram_channels(_ gram: UnsafeRawPointer?, _ gram_bytes: UInt64, _ begin: Int64, _ end: Int64,
                                _ channels: UnsafeMutablePointer<int4q_channel>?) -> int4q_status {
    attempt("int4q_gram_channels") { () throws(Failure) in
        let gram = try Gram(gram, bytes: gram_bytes, .usual)
        let channels = try require(channels, "channels")
        try requireRange(begin, end, of: gram.layout.k, "begin", "end")
        gram.write(channels: begin..<end, to: channels)
    }
}

@c @implementation
public func int4q_gram_matrix(_ gram: UnsafeRawPointer?, _ gram_bytes: UInt64, _ matrix: UnsafeMutablePointer<Double>?,
                              _ stride: Int64, _ begin: Int64, _ end: Int64) -> int4q_status {
    attempt("int4q_gram_matrix") { () throws(Failure) in
        let gram = try Gram(gram, bytes: gram_bytes, .usual)
        try requireSquare(matrix, gram.layout.k, stride)
        try requireRange(begin, end, of: gram.layout.k, "begin", "end")
        gram.write(rows: begin..<end, to: try require(matrix, "matrix"), stride: stride)
    }
}

@c @implementation
public func int4q_gram_loss_scratch(_ k: Int64, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_gram_loss_scratch") { () throws(Failure) in
        let scratch = try GramLossScratch(k: k)
        try require(bytes, "bytes").pointee = scratch.bytes
    }
}

/// A tensor and the matrix that it stands for, or is to stand for.
@inline(never)
func pair(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ type: int4q_type,
                  _ stride: Int64) throws(Failure) -> (QuantizedTensor, Matrix) {
    let tensor = try QuantizedTensor(try require(tensor, "tensor").pointee)
    let matrix = try Matrix(source, try ElementType(type, "source_type"), rows: tensor.layout.n, columns: tensor.layout.k,
                            stride: stride, .init("source", stride: "source_stride"))
    return (tensor, matrix)
}

/// Of a Gram matrix, and of a cross matrix if there is one.
@inline(never)
func writeLosses(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                 _ source_stride: Int64, _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64, _ cross: Cross?,
                 _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64, _ losses: UnsafeMutablePointer<Double>?,
                 _ row_begin: Int64, _ row_end: Int64) throws(Failure) {
    let (tensor, source) = try pair(tensor, source, source_type, source_stride)
    let gram = try Gram(gram, bytes: gram_bytes, .usual)
    let size = try GramLossScratch(k: tensor.layout.k, hasCross: cross != nil)
    let memory = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
    let losses = try require(losses, "losses")
    try requireRange(row_begin, row_end, of: tensor.layout.n, "row_begin", "row_end")
    try tensor.requireCodebooks(row_begin..<row_end)
    try GramLoss(tensor, source, gram, cross, size, memory, try activeKernels()).write(rows: row_begin..<row_end, to: losses)
}

@c @implementation
public func int4q_gram_loss(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                            _ source_stride: Int64, _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64,
                            _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64, _ losses: UnsafeMutablePointer<Double>?,
                            _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_gram_loss") { () throws(Failure) in
        try writeLosses(tensor, source, source_type, source_stride, gram, gram_bytes, nil, scratch, scratch_bytes, losses,
                        row_begin, row_end)
    }
}

// MARK: GPTQ

@inline(never)
private func writeGptqSize(_ function: Text, _ scheme: UnsafePointer<int4q_scheme>?, _ k: Int64, _ worker_count: UInt32,
                           hasCross: Bool, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt(function) { () throws(Failure) in
        let scheme = try Scheme(try require(scheme, "scheme").pointee)
        try requireWorkers(worker_count, "worker_count")
        let scratch = try GptqScratch(scheme, k: k, workers: worker_count, hasCross: hasCross)
        try require(bytes, "bytes").pointee = scratch.bytes
    }
}

@c @implementation
public func int4q_gptq_scratch(_ scheme: UnsafePointer<int4q_scheme>?, _ k: Int64, _ worker_count: UInt32,
                               _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    writeGptqSize("int4q_gptq_scratch", scheme, k, worker_count, hasCross: false, bytes)
}

@c @implementation
public func int4q_gptq_cross_scratch(_ scheme: UnsafePointer<int4q_scheme>?, _ k: Int64, _ worker_count: UInt32,
                                     _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    writeGptqSize("int4q_gptq_cross_scratch", scheme, k, worker_count, hasCross: true, bytes)
}

@c @implementation
public func int4q_gptq_quantize(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                                _ source_stride: Int64, _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64,
                                _ options: UnsafePointer<int4q_gptq_options>?, _ scratch: UnsafeMutableRawPointer?,
                                _ scratch_bytes: UInt64, _ parallel_for: int4q_parallel_for?, _ host: UnsafeMutableRawPointer?,
                                _ report: UnsafeMutablePointer<int4q_gptq_report>?) -> int4q_status {
    attemptInHostMode("int4q_gptq_quantize") { () throws(Failure) in
        let workers = try require(options, "options").pointee.worker_count
        try ParallelFor.with(parallel_for, host: host, workers: workers) { (parallel) throws(Failure) in
            let (tensor, source) = try pair(tensor, source, source_type, source_stride)
            let gram = try Gram(gram, bytes: gram_bytes, .usual)
            let options = try GptqOptions(try require(options, "options").pointee, tensor.scheme, k: tensor.layout.k)
            let size = try GptqScratch(tensor.scheme, k: tensor.layout.k, workers: workers, hasCross: options.hasCross)
            let memory = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
            let report = try require(report, "report")
            try requireStructSize(report.pointee.struct_size, of: int4q_gptq_report.self, "report.struct_size")
            try requireZero(report.pointee.reserved, "report.reserved")
            try tensor.requireCodebooks(0..<tensor.layout.n)
            var gptq = try Gptq(tensor, source, gram, options, size, memory, try activeKernels())
            try gptq.run(parallel)
            gptq.write(to: report)
        }
    }
}
