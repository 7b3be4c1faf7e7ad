// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 10 of the header: samples to calibrate with.

@c @implementation
public func int4q_select_random(_ count: Int64, _ n: Int64, _ seed: UInt64,
                                _ indices: UnsafeMutablePointer<Int64>?) -> int4q_status {
    attempt("int4q_select_random") { () throws(Failure) in
        try requireAtLeast(count, 1, "count")
        try requireAtLeast(n, 1, "n")
        if n > count { throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "n", .integer(n), expected: "at most", bound: UInt64(count)) }
        _ = try CheckedSize(UInt64(n), "n").times(8)
        selectRandom(count: count, wanted: n, seed: seed, try require(indices, "indices"))
    }
}

@c @implementation
public func int4q_select_representatives_scratch(_ count: Int64, _ dimensions: Int64, _ clusters: Int64,
                                                 _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_select_representatives_scratch") { () throws(Failure) in
        let layout = try ClusteringLayout(count: count, dimensions: dimensions, clusters: clusters)
        try require(bytes, "bytes").pointee = layout.bytes
    }
}

@c @implementation
public func int4q_select_representatives(_ clustering: UnsafePointer<int4q_clustering>?, _ features: UnsafeRawPointer?,
                                         _ features_type: int4q_type, _ count: Int64, _ dimensions: Int64,
                                         _ features_stride: Int64, _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64,
                                         _ indices: UnsafeMutablePointer<Int64>?, _ sizes: UnsafeMutablePointer<Int64>?,
                                         _ labels: UnsafeMutablePointer<Int32>?,
                                         _ result: UnsafeMutablePointer<int4q_representatives>?) -> int4q_status {
    attempt("int4q_select_representatives") { () throws(Failure) in
        let raw = try require(clustering, "clustering").pointee
        try requireStructSize(raw.struct_size, of: int4q_clustering.self, "clustering.struct_size")
        try requireZero(raw.reserved, "clustering.reserved")
        let layout = try ClusteringLayout(count: count, dimensions: dimensions, clusters: raw.clusters)
        try requireAtLeast(raw.max_iterations, 0, "clustering.max_iterations")
        let initial = raw.initial == nil ? nil : try require(raw.initial, "clustering.initial")
        let features = try Matrix(features, try ElementType(features_type, "features_type"), rows: count, columns: dimensions,
                                  stride: features_stride, .init("features", stride: "features_stride"))
        let memory = try require(scratch, "scratch", alignment: Int(INT4Q_ALIGNMENT))
        try requireBytes(scratch_bytes, needed: layout.bytes, "scratch_bytes")
        let indices = try require(indices, "indices")
        let sizes = sizes == nil ? nil : try require(sizes, "sizes")
        let labels = labels == nil ? nil : try require(labels, "labels")
        let result = result == nil ? nil : try require(result, "result")
        if let result { try requireStructSize(result.pointee.struct_size, of: int4q_representatives.self, "result.struct_size") }
        var rows = try Clustering(features, layout, memory, try activeKernels())
        try rows.cluster(seed: raw.seed, initial: initial, maxIterations: raw.max_iterations)
        rows.write(wanted: raw.clusters, indices, sizes, labels, to: result)
    }
}
