// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 12 of the header: cross matrices.

@c @implementation
public func int4q_cross_size(_ k: Int64, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_cross_size") { () throws(Failure) in
        let layout = try CrossLayout(k: k)
        try require(bytes, "bytes").pointee = layout.totalBytes
    }
}

@c @implementation
public func int4q_cross_init(_ k: Int64, _ cross: UnsafeMutableRawPointer?, _ cross_bytes: UInt64) -> int4q_status {
    attempt("int4q_cross_init") { () throws(Failure) in
        let layout = try CrossLayout(k: k)
        let memory = try require(cross, "cross", alignment: Int(INT4Q_ALIGNMENT))
        try requireBytes(cross_bytes, needed: layout.totalBytes, "cross_bytes")
        _ = Cross(layout, in: memory)
    }
}

@c @implementation
public func int4q_cross_push_scratch(_ k: Int64, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_cross_push_scratch") { () throws(Failure) in
        let scratch = try GramPushScratch(k: try CrossLayout(k: k).k, batches: 2)
        try require(bytes, "bytes").pointee = scratch.bytes
    }
}

@c @implementation
public func int4q_cross_push(_ cross: UnsafeMutableRawPointer?, _ cross_bytes: UInt64, _ x: UnsafeRawPointer?,
                             _ x_type: int4q_type, _ ldx: Int64, _ y: UnsafeRawPointer?, _ y_type: int4q_type, _ ldy: Int64,
                             _ rows: Int64, _ columns: Int64, _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64,
                             _ worker_count: UInt32, _ parallel_for: int4q_parallel_for?,
                             _ host: UnsafeMutableRawPointer?) -> int4q_status {
    attemptInHostMode("int4q_cross_push") { () throws(Failure) in
        try ParallelFor.with(parallel_for, host: host, workers: worker_count) { (parallel) throws(Failure) in
            let cross = try Cross(cross, bytes: cross_bytes)
            try requireAtLeast(rows, 1, "rows")
            try requireAtLeast(columns, 1, "columns")
            let x = try Matrix(x, try ElementType(x_type, "x_type"), rows: rows, columns: columns, stride: ldx,
                               .init("x", stride: "ldx"))
            let y = try Matrix(y, try ElementType(y_type, "y_type"), rows: rows, columns: columns, stride: ldy,
                               .init("y", stride: "ldy"))
            let size = try GramPushScratch(k: cross.layout.k, batches: 2)
            let memory = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
            try requireWorkers(worker_count, "worker_count")
            try cross.push(x, y, rows: rows, scratch: memory, try activeKernels(), parallel)
        }
    }
}

@c @implementation
public func int4q_cross_set(_ cross: UnsafeMutableRawPointer?, _ cross_bytes: UInt64, _ matrix: UnsafePointer<Double>?,
                            _ stride: Int64, _ rows: Int64) -> int4q_status {
    attempt("int4q_cross_set") { () throws(Failure) in
        let cross = try Cross(cross, bytes: cross_bytes)
        try requireSquare(matrix, cross.layout.k, stride)
        try requireAtLeast(rows, 1, "rows")
        try cross.set(try require(matrix, "matrix"), stride: stride, rows: rows)
    }
}

@c @implementation
public func int4q_cross_merge(_ into: UnsafeMutableRawPointer?, _ into_bytes: UInt64, _ from: UnsafeRawPointer?,
                              _ from_bytes: UInt64) -> int4q_status {
    attempt("int4q_cross_merge") { () throws(Failure) in
        let target = try Cross(into, bytes: into_bytes, .init("into", "into_bytes"))
        let source = try Cross(from, bytes: from_bytes, .init("from", "from_bytes"))
        try target.validate("into")
        try source.validate("from")
        try target.merge(source)
    }
}

@c @implementation
public func int4q_cross_validate(_ cross: UnsafeRawPointer?, _ cross_bytes: UInt64) -> int4q_status {
    attempt("int4q_cross_validate") { () throws(Failure) in try Cross(cross, bytes: cross_bytes).validate("cross") }
}

@c @implementation
public func int4q_cross_get_info(_ cross: UnsafeRawPointer?, _ cross_bytes: UInt64,
                                 _ info: UnsafeMutablePointer<int4q_gram_info>?) -> int4q_status {
    attempt("int4q_cross_get_info") { () throws(Failure) in
        let cross = try Cross(cross, bytes: cross_bytes)
        let info = try require(info, "info")
        try requireStructSize(info.pointee.struct_size, of: int4q_gram_info.self, "info.struct_size")
        try requireZero(info.pointee.reserved, "info.reserved")
        cross.write(to: info)
    }
}

@c @implementation
public func int4q_cross_matrix(_ cross: UnsafeRawPointer?, _ cross_bytes: UInt64, _ matrix: UnsafeMutablePointer<Double>?,
                               _ stride: Int64, _ begin: Int64, _ end: Int64) -> int4q_status {
    attempt("int4q_cross_matrix") { () throws(Failure) in
        let cross = try Cross(cross, bytes: cross_bytes)
        try requireSquare(matrix, cross.layout.k, stride)
        try requireRange(begin, end, of: cross.layout.k, "begin", "end")
        cross.write(rows: begin..<end, to: try require(matrix, "matrix"), stride: stride)
    }
}

@c @implementation
public func int4q_cross_loss_scratch(_ k: Int64, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_cross_loss_scratch") { () throws(Failure) in
        let scratch = try GramLossScratch(k: k, hasCross: true)
        try require(bytes, "bytes").pointee = scratch.bytes
    }
}

@c @implementation
public func int4q_cross_loss(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                             _ source_stride: Int64, _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64, _ cross: UnsafeRawPointer?,
                             _ cross_bytes: UInt64, _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64,
                             _ losses: UnsafeMutablePointer<Double>?, _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_cross_loss") { () throws(Failure) in
        try writeLosses(tensor, source, source_type, source_stride, gram, gram_bytes, try Cross(cross, bytes: cross_bytes), scratch,
                        scratch_bytes, losses, row_begin, row_end)
    }
}

@c @implementation
public func int4q_cross_shift_scratch(_ k: Int64, _ worker_count: UInt32, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_cross_shift_scratch") { () throws(Failure) in
        try requireWorkers(worker_count, "worker_count")
        let scratch = try CrossShiftScratch(k: k, workers: worker_count)
        try require(bytes, "bytes").pointee = scratch.bytes
    }
}

@c @implementation
public func int4q_cross_shift(_ source: UnsafeRawPointer?, _ source_type: int4q_type, _ source_stride: Int64,
                              _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64, _ options: UnsafePointer<int4q_gptq_options>?,
                              _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64, _ parallel_for: int4q_parallel_for?,
                              _ host: UnsafeMutableRawPointer?, _ destination: UnsafeMutableRawPointer?,
                              _ destination_type: int4q_type, _ destination_stride: Int64, _ n: Int64, _ k: Int64,
                              _ damping: UnsafeMutablePointer<Double>?) -> int4q_status {
    attemptInHostMode("int4q_cross_shift") { () throws(Failure) in
        let workers = try require(options, "options").pointee.worker_count
        try ParallelFor.with(parallel_for, host: host, workers: workers) { (parallel) throws(Failure) in
            let source = try weights(source, source_type, n, k, source_stride)
            let destination = try destinationMatrix(destination, destination_type, n, k, destination_stride)
            let gram = try Gram(gram, bytes: gram_bytes, .usual)
            let options = try GptqOptions(shift: try require(options, "options").pointee)
            let size = try CrossShiftScratch(k: k, workers: workers)
            let memory = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
            if let damping { try requireAligned(UInt(bitPattern: damping), to: 8, "damping") }
            var shift = try CrossShift(source, to: destination, n: n, gram, options, size, memory, try activeKernels())
            try shift.run(parallel)
            damping?.pointee = shift.damping
        }
    }
}
