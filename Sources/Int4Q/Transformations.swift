// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 13 of the header.

@inline(never)
private func matrix(_ pointer: UnsafeRawPointer?, _ type: int4q_type, _ rows: Int64, _ columns: Int64, _ stride: Int64,
                    _ name: Text, _ typeName: Text, _ strideName: Text) throws(Failure) -> Matrix {
    try Matrix(pointer, try ElementType(type, typeName), rows: rows, columns: columns, stride: stride,
               .init(name, stride: strideName))
}

@inline(never)
private func source(_ pointer: UnsafeRawPointer?, _ type: int4q_type, _ n: Int64, _ k: Int64,
                    _ stride: Int64) throws(Failure) -> Matrix {
    try matrix(pointer, type, n, k, stride, "source", "source_type", "source_stride")
}

@inline(never)
private func destination(_ pointer: UnsafeRawPointer?, _ type: int4q_type, _ n: Int64, _ k: Int64,
                         _ stride: Int64) throws(Failure) -> Matrix {
    try matrix(pointer, type, n, k, stride, "destination", "destination_type", "destination_stride")
}

// MARK: Rotation

@c @implementation
public func int4q_hadamard_order(_ k: Int64, _ order: UnsafeMutablePointer<Int64>?) -> int4q_status {
    attempt("int4q_hadamard_order") { () throws(Failure) in
        try requireAtLeast(k, 1, "k")
        try require(order, "order").pointee = Hadamard.largestOrder(dividing: k)
    }
}

@c @implementation
public func int4q_hadamard_scratch(_ order: Int64, _ side: Int32, _ destination_type: int4q_type,
                                   _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_hadamard_scratch") { () throws(Failure) in
        let hadamard = try Hadamard(order: order, seed: 0)
        let size = try RotatedSide(side).scratchBytes(order: hadamard.order, try ElementType(destination_type, "destination_type"))
        try require(bytes, "bytes").pointee = size
    }
}

@c @implementation
public func int4q_hadamard_transform(_ order: Int64, _ seed: UInt64, _ side: Int32, _ direction: Int32, _ source: UnsafeRawPointer?,
                                     _ source_type: int4q_type, _ source_stride: Int64, _ destination: UnsafeMutableRawPointer?,
                                     _ destination_type: int4q_type, _ destination_stride: Int64, _ n: Int64, _ k: Int64,
                                     _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64, _ begin: Int64,
                                     _ end: Int64) -> int4q_status {
    attempt("int4q_hadamard_transform") { () throws(Failure) in
        let rotation = try Rotation(order: order, seed: seed, direction: direction), side = try RotatedSide(side)
        try requireAtLeast(n, 1, "n")
        try requireAtLeast(k, 1, "k")
        try rotation.requireMultiple(side.isColumns ? n : k, side.isColumns ? "n" as Text : "k" as Text)
        let source = try Int4Q.source(source, source_type, n, k, source_stride)
        let target = try Int4Q.destination(destination, destination_type, n, k, destination_stride)
        let needed = side.scratchBytes(order: Int(order), target.type)
        let memory = needed == 0 ? nil : try requireScratch(scratch, scratch_bytes, needed: needed)
        try requireRange(begin, end, of: side.isColumns ? k : n, "begin", "end")
        let work = MatrixRotation(rotation, source, target, scratch: memory, try activeKernels())
        if side.isColumns {
            work.transform(columns: Int(begin)..<Int(end), ofRows: Int(n))
        } else {
            work.transform(rows: Int(begin)..<Int(end))
        }
    }
}

@c @implementation
public func int4q_gram_rotate_scratch(_ order: Int64, _ worker_count: UInt32,
                                      _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_gram_rotate_scratch") { () throws(Failure) in
        let hadamard = try Hadamard(order: order, seed: 0)
        try requireWorkers(worker_count, "worker_count")
        let scratch = try GramRotationScratch(hadamard, workers: worker_count)
        try require(bytes, "bytes").pointee = scratch.bytes
    }
}

@c @implementation
public func int4q_gram_rotate(_ order: Int64, _ seed: UInt64, _ direction: Int32, _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64,
                              _ rotated: UnsafeMutableRawPointer?, _ rotated_bytes: UInt64, _ scratch: UnsafeMutableRawPointer?,
                              _ scratch_bytes: UInt64, _ worker_count: UInt32, _ parallel_for: int4q_parallel_for?,
                              _ host: UnsafeMutableRawPointer?) -> int4q_status {
    attemptInHostMode("int4q_gram_rotate") { () throws(Failure) in
        try ParallelFor.with(parallel_for, host: host, workers: worker_count) { (parallel) throws(Failure) in
            let rotation = try Rotation(order: order, seed: seed, direction: direction)
            let gram = try Gram(gram, bytes: gram_bytes, .usual)
            try rotation.requireMultiple(gram.layout.k, "gram")
            let target = try require(rotated, "rotated", alignment: Int(INT4Q_ALIGNMENT))
            try requireBytes(rotated_bytes, needed: gram.layout.totalBytes, "rotated_bytes")
            try requireWorkers(worker_count, "worker_count")
            let size = try GramRotationScratch(try Hadamard(order: order, seed: seed), workers: worker_count)
            let memory = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
            try gram.validate("gram")
            var work = GramRotation(gram.copy(to: target), rotation, size, memory)
            try work.run(parallel)
        }
    }
}

// MARK: Low-rank residuals

@c @implementation
public func int4q_lowrank_scratch(_ n: Int64, _ k: Int64, _ rank: Int64, _ worker_count: UInt32,
                                  _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_lowrank_scratch") { () throws(Failure) in
        try requireWorkers(worker_count, "worker_count")
        let scratch = try LowRankScratch(n: n, k: k, rank: rank, workers: worker_count)
        try require(bytes, "bytes").pointee = scratch.bytes
    }
}

/// The factors, and what a call needs of their description besides.
@inline(never)
private func factors(_ raw: UnsafePointer<int4q_lowrank>?) throws(Failure) -> (LowRank, int4q_lowrank) {
    let raw = try require(raw, "factors").pointee
    return (try LowRank(raw), raw)
}

@c @implementation
public func int4q_lowrank_fit(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                              _ source_stride: Int64, _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64,
                              _ options: UnsafePointer<int4q_lowrank_options>?, _ factors: UnsafePointer<int4q_lowrank>?,
                              _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64, _ parallel_for: int4q_parallel_for?,
                              _ host: UnsafeMutableRawPointer?,
                              _ report: UnsafeMutablePointer<int4q_lowrank_report>?) -> int4q_status {
    attemptInHostMode("int4q_lowrank_fit") { () throws(Failure) in
        let workers = try require(options, "options").pointee.worker_count
        try ParallelFor.with(parallel_for, host: host, workers: workers) { (parallel) throws(Failure) in
            let (factors, shape) = try Int4Q.factors(factors)
            let source = try Int4Q.source(source, source_type, shape.n, shape.k, source_stride)
            var quantized: QuantizedTensor?
            if let tensor {
                let checked = try QuantizedTensor(try require(tensor, "tensor").pointee)
                try requireShape(checked, shape)
                try checked.requireCodebooks(0..<shape.n)
                quantized = checked
            }
            var inputs: Gram?
            if gram != nil { inputs = try Gram(gram, bytes: gram_bytes, .usual) }
            let options = try LowRankOptions(try require(options, "options").pointee)
            let size = try LowRankScratch(n: shape.n, k: shape.k, rank: shape.rank, workers: workers)
            let memory = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
            let report = try require(report, "report")
            try requireStructSize(report.pointee.struct_size, of: int4q_lowrank_report.self, "report.struct_size")
            try requireZero(report.pointee.reserved, "report.reserved")
            var fit = try LowRankFit(quantized, source, rows: shape.n, inputs, options, factors, size, memory, try activeKernels())
            try fit.run(parallel)
            fit.write(to: report)
        }
    }
}

@inline(never)
private func requireShape(_ tensor: QuantizedTensor, _ factors: int4q_lowrank) throws(Failure) {
    if tensor.layout.n != factors.n {
        throw Failure(INT4Q_ERROR_MISMATCH, "tensor.n", .integer(tensor.layout.n), expected: "the factors' n,",
                      bound: UInt64(factors.n))
    }
    if tensor.layout.k != factors.k {
        throw Failure(INT4Q_ERROR_MISMATCH, "tensor.k", .integer(tensor.layout.k), expected: "the factors' k,",
                      bound: UInt64(factors.k))
    }
}

@c @implementation
public func int4q_lowrank_add(_ factors: UnsafePointer<int4q_lowrank>?, _ x: UnsafeRawPointer?, _ x_type: int4q_type, _ ldx: Int64,
                              _ y: UnsafeMutableRawPointer?, _ y_type: int4q_type, _ ldy: Int64, _ m: Int64, _ row_begin: Int64,
                              _ row_end: Int64) -> int4q_status {
    attempt("int4q_lowrank_add") { () throws(Failure) in
        let (factors, shape) = try Int4Q.factors(factors)
        try requireAtLeast(m, 1, "m")
        let x = try matrix(x, x_type, m, shape.k, ldx, "x", "x_type", "ldx")
        let y = try matrix(y, y_type, m, shape.n, ldy, "y", "y_type", "ldy")
        try requireRange(row_begin, row_end, of: m, "row_begin", "row_end")
        factors.add(x, to: y, rows: row_begin..<row_end, try activeKernels())
    }
}

@c @implementation
public func int4q_lowrank_subtract(_ factors: UnsafePointer<int4q_lowrank>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                                   _ source_stride: Int64, _ destination: UnsafeMutableRawPointer?, _ destination_type: int4q_type,
                                   _ destination_stride: Int64, _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_lowrank_subtract") { () throws(Failure) in
        let (factors, shape) = try Int4Q.factors(factors)
        let source = try Int4Q.source(source, source_type, shape.n, shape.k, source_stride)
        let target = try Int4Q.destination(destination, destination_type, shape.n, shape.k, destination_stride)
        try requireRange(row_begin, row_end, of: shape.n, "row_begin", "row_end")
        factors.subtract(from: source, to: target, rows: row_begin..<row_end, try activeKernels())
    }
}

// MARK: Channel reassembly

@c @implementation
public func int4q_reassembly_scratch(_ k: Int64, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_reassembly_scratch") { () throws(Failure) in
        let size = try ReassemblyPlan.scratchBytes(k: k)
        try require(bytes, "bytes").pointee = size
    }
}

@c @implementation
public func int4q_reassembly_plan(_ gram: UnsafeRawPointer?, _ gram_bytes: UInt64, _ weights: UnsafeRawPointer?,
                                  _ weights_bytes: UInt64, _ options: UnsafePointer<int4q_reassembly_options>?,
                                  _ parts: UnsafeMutablePointer<int4q_channel_part>?, _ capacity: Int64,
                                  _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64,
                                  _ report: UnsafeMutablePointer<int4q_reassembly_report>?) -> int4q_status {
    attempt("int4q_reassembly_plan") { () throws(Failure) in
        let gram = try Gram(gram, bytes: gram_bytes, .usual)
        var columns: Gram?
        if weights != nil { columns = try Gram(weights, bytes: weights_bytes, .init("weights", "weights_bytes")) }
        let options = try ReassemblyOptions(try require(options, "options").pointee, k: gram.layout.k)
        let parts = try require(parts, "parts")
        let memory = try requireScratch(scratch, scratch_bytes, needed: try ReassemblyPlan.scratchBytes(k: gram.layout.k))
        let report = try require(report, "report")
        try requireStructSize(report.pointee.struct_size, of: int4q_reassembly_report.self, "report.struct_size")
        try requireZero(report.pointee.reserved, "report.reserved")
        var plan = try ReassemblyPlan(gram, columns, options, memory)
        try plan.run()
        try requireBytes(UInt64(max(capacity, 0)), needed: UInt64(plan.partCount), "capacity")
        plan.write(to: parts)
        plan.write(to: report)
    }
}

@c @implementation
public func int4q_reassemble_scratch(_ k: Int64, _ new_k: Int64, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_reassemble_scratch") { () throws(Failure) in
        let size = try ChannelMap.rowBytes(k: k, newK: new_k)
        try require(bytes, "bytes").pointee = size
    }
}

@c @implementation
public func int4q_reassemble_rows(_ map: UnsafePointer<int4q_reassembly>?, _ side: Int32, _ source: UnsafeRawPointer?,
                                  _ source_type: int4q_type, _ source_stride: Int64, _ destination: UnsafeMutableRawPointer?,
                                  _ destination_type: int4q_type, _ destination_stride: Int64, _ n: Int64,
                                  _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64, _ row_begin: Int64,
                                  _ row_end: Int64) -> int4q_status {
    attempt("int4q_reassemble_rows") { () throws(Failure) in
        let map = try ChannelMap(try require(map, "map").pointee), ofWeights = try ChannelMap.takesWeights(side)
        try requireAtLeast(n, 1, "n")
        let source = try Int4Q.source(source, source_type, n, map.k, source_stride)
        let target = try Int4Q.destination(destination, destination_type, n, map.newK, destination_stride)
        let memory = try requireScratch(scratch, scratch_bytes, needed: try ChannelMap.rowBytes(k: map.k, newK: map.newK))
        try requireRange(row_begin, row_end, of: n, "row_begin", "row_end")
        map.apply(source, to: target, rows: row_begin..<row_end, ofWeights: ofWeights, memory, try activeKernels())
    }
}

@c @implementation
public func int4q_gram_reassemble(_ map: UnsafePointer<int4q_reassembly>?, _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64,
                                  _ target: UnsafeMutableRawPointer?, _ target_bytes: UInt64) -> int4q_status {
    attempt("int4q_gram_reassemble") { () throws(Failure) in
        let map = try ChannelMap(try require(map, "map").pointee)
        let gram = try Gram(gram, bytes: gram_bytes, .usual)
        if gram.layout.k != map.k {
            throw Failure(INT4Q_ERROR_MISMATCH, "gram", .integer(gram.layout.k), expected: "a Gram matrix of the map's k,",
                          bound: UInt64(map.k))
        }
        let layout = try GramLayout(k: map.newK)
        let memory = try require(target, "target", alignment: Int(INT4Q_ALIGNMENT))
        try requireBytes(target_bytes, needed: layout.totalBytes, "target_bytes")
        try gram.validate("gram")
        map.apply(gram, to: Gram(layout, in: memory))
    }
}
