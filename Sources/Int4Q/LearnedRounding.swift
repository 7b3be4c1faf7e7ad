// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 12 of the header: learned rounding.

@c @implementation
public func int4q_learn_rounding_scratch(_ scheme: UnsafePointer<int4q_scheme>?, _ k: Int64, _ worker_count: UInt32,
                                         _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_learn_rounding_scratch") { () throws(Failure) in
        let scheme = try Scheme(try require(scheme, "scheme").pointee)
        try requireWorkers(worker_count, "worker_count")
        let scratch = try LearningScratch(scheme, k: k, workers: worker_count)
        try require(bytes, "bytes").pointee = scratch.bytes
    }
}

@c @implementation
public func int4q_learn_rounding(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                                 _ source_stride: Int64, _ gram: UnsafeRawPointer?, _ gram_bytes: UInt64,
                                 _ options: UnsafePointer<int4q_learning_options>?, _ scratch: UnsafeMutableRawPointer?,
                                 _ scratch_bytes: UInt64, _ parallel_for: int4q_parallel_for?, _ host: UnsafeMutableRawPointer?,
                                 _ report: UnsafeMutablePointer<int4q_learning_report>?) -> int4q_status {
    attemptInHostMode("int4q_learn_rounding") { () throws(Failure) in
        let workers = try require(options, "options").pointee.worker_count
        try ParallelFor.with(parallel_for, host: host, workers: workers) { (parallel) throws(Failure) in
            let (tensor, source) = try pair(tensor, source, source_type, source_stride)
            let gram = try Gram(gram, bytes: gram_bytes, .usual)
            let options = try LearningOptions(try require(options, "options").pointee, tensor.scheme)
            let size = try LearningScratch(tensor.scheme, k: tensor.layout.k, workers: workers)
            let memory = try requireScratch(scratch, scratch_bytes, needed: size.bytes)
            let report = try require(report, "report")
            try requireStructSize(report.pointee.struct_size, of: int4q_learning_report.self, "report.struct_size")
            try requireZero(report.pointee.reserved, "report.reserved")
            var learning = try LearnedRounding(tensor, source, gram, options, size, memory, try activeKernels())
            try learning.run(parallel)
            learning.write(to: report)
        }
    }
}
