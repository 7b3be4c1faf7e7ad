// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 9 of the header: outliers.

/// n x k weights; checks the sizes, too.
@inline(never)
private func weights(_ source: UnsafeRawPointer?, _ type: int4q_type, _ n: Int64, _ k: Int64, _ stride: Int64) throws(Failure) -> Matrix {
    try requireAtLeast(n, 1, "n")
    try requireAtLeast(k, 1, "k")
    return try matrix(source, try ElementType(type, "source_type"), n, k, stride, .init("source", stride: "source_stride"))
}

@inline(never)
private func matrix(_ pointer: UnsafeRawPointer?, _ type: ElementType, _ rows: Int64, _ columns: Int64, _ stride: Int64,
                    _ names: Matrix.Names) throws(Failure) -> Matrix {
    try Matrix(pointer, type, rows: rows, columns: columns, stride: stride, names)
}

@c @implementation
public func int4q_outliers_moments(_ source: UnsafeRawPointer?, _ source_type: int4q_type, _ n: Int64, _ k: Int64,
                                   _ source_stride: Int64, _ moments: UnsafeMutablePointer<Double>?, _ row_begin: Int64,
                                   _ row_end: Int64) -> int4q_status {
    attempt("int4q_outliers_moments") { () throws(Failure) in
        let source = try weights(source, source_type, n, k, source_stride)
        let moments = try require(moments, "moments")
        try requireRange(row_begin, row_end, of: n, "row_begin", "row_end")
        try writeMoments(source, moments, rows: row_begin..<row_end, try activeKernels())
    }
}

@c @implementation
public func int4q_outliers_fit(_ moments: UnsafePointer<Double>?, _ n: Int64, _ k: Int64, _ log_density: Double,
                               _ fit: UnsafeMutablePointer<int4q_outlier_fit>?) -> int4q_status {
    attempt("int4q_outliers_fit") { () throws(Failure) in
        let moments = try require(moments, "moments")
        try requireAtLeast(n, 1, "n")
        try requireAtLeast(k, 1, "k")
        _ = try CheckedSize(UInt64(n), "n").times(16)
        if !log_density.isFinite {
            throw Failure(INT4Q_ERROR_NOT_FINITE, "log_density", .element(row: 0, column: 0, Float(log_density)),
                          expected: "a finite number")
        }
        let fit = try require(fit, "fit")
        try requireStructSize(fit.pointee.struct_size, of: int4q_outlier_fit.self, "fit.struct_size")
        try requireZero(fit.pointee.reserved, "fit.reserved")
        try NormalFit(moments, n: n, k: k).write(logDensity: log_density, to: fit)
    }
}

@c @implementation
public func int4q_outliers_count(_ fit: UnsafePointer<int4q_outlier_fit>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                                 _ n: Int64, _ k: Int64, _ source_stride: Int64, _ row_counts: UnsafeMutablePointer<Int64>?,
                                 _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_outliers_count") { () throws(Failure) in
        let fit = try OutlierFit(try require(fit, "fit").pointee)
        let source = try weights(source, source_type, n, k, source_stride)
        let counts = try require(row_counts, "row_counts")
        try requireRange(row_begin, row_end, of: n, "row_begin", "row_end")
        try countOutliers(fit, source, counts, rows: row_begin..<row_end, try activeKernels())
    }
}

@c @implementation
public func int4q_sparse_offsets(_ row_counts: UnsafePointer<Int64>?, _ n: Int64, _ row_offsets: UnsafeMutablePointer<Int64>?,
                                 _ total: UnsafeMutablePointer<Int64>?) -> int4q_status {
    attempt("int4q_sparse_offsets") { () throws(Failure) in
        let counts = try require(row_counts, "row_counts")
        try requireAtLeast(n, 1, "n")
        _ = try CheckedSize(UInt64(n), "n").plus(1).times(8)
        let offsets = try require(row_offsets, "row_offsets")
        let total = try require(total, "total")
        total.pointee = try writeOffsets(counts, n: n, offsets)
    }
}

@c @implementation
public func int4q_outliers_split(_ fit: UnsafePointer<int4q_outlier_fit>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                                 _ source_stride: Int64, _ sparse: UnsafePointer<int4q_sparse>?, _ dense: UnsafeMutableRawPointer?,
                                 _ dense_type: int4q_type, _ dense_stride: Int64, _ row_begin: Int64,
                                 _ row_end: Int64) -> int4q_status {
    attempt("int4q_outliers_split") { () throws(Failure) in
        let fit = try OutlierFit(try require(fit, "fit").pointee)
        let sparse = try SparseMatrix(try require(sparse, "sparse").pointee)
        let source = try weights(source, source_type, sparse.n, sparse.k, source_stride)
        let dense = try matrix(dense, try ElementType(dense_type, "dense_type"), sparse.n, sparse.k, dense_stride,
                               .init("dense", stride: "dense_stride"))
        try requireRange(row_begin, row_end, of: sparse.n, "row_begin", "row_end")
        try sparse.requireOffsets(rows: row_begin..<row_end)
        try OutlierSplitter(fit, sparse, dense: dense)
            .split(source, rows: row_begin..<row_end, try activeKernels())
    }
}

@c @implementation
public func int4q_outliers_correct(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                                   _ source_stride: Int64, _ sparse: UnsafePointer<int4q_sparse>?, _ row_begin: Int64,
                                   _ row_end: Int64) -> int4q_status {
    attempt("int4q_outliers_correct") { () throws(Failure) in
        let tensor = try QuantizedTensor(try require(tensor, "tensor").pointee)
        let source = try weights(source, source_type, tensor.layout.n, tensor.layout.k, source_stride)
        let sparse = try SparseMatrix(try require(sparse, "sparse").pointee)
        try requireSame(sparse.n, tensor.layout.n, "sparse.n")
        try requireSame(sparse.k, tensor.layout.k, "sparse.k")
        try requireRange(row_begin, row_end, of: sparse.n, "row_begin", "row_end")
        try sparse.requireIndices(rows: row_begin..<row_end)
        try tensor.requireCodebooks(row_begin..<row_end)
        try correct(sparse, tensor, source, rows: row_begin..<row_end, try activeKernels())
    }
}

private func requireSame(_ value: Int64, _ wanted: Int64, _ name: Text) throws(Failure) {
    if value != wanted {
        throw Failure(INT4Q_ERROR_MISMATCH, name, .integer(value), expected: "the tensor's,", bound: UInt64(wanted))
    }
}

@c @implementation
public func int4q_sparse_add(_ sparse: UnsafePointer<int4q_sparse>?, _ m: Int64, _ x: UnsafeRawPointer?, _ x_type: int4q_type,
                             _ ldx: Int64, _ y: UnsafeMutableRawPointer?, _ y_type: int4q_type, _ ldy: Int64,
                             _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_sparse_add") { () throws(Failure) in
        let sparse = try SparseMatrix(try require(sparse, "sparse").pointee)
        try requireAtLeast(m, 1, "m")
        let x = try matrix(x, try ElementType(x_type, "x_type"), m, sparse.k, ldx, .init("x", stride: "ldx"))
        let y = try matrix(y, try ElementType(y_type, "y_type"), m, sparse.n, ldy, .init("y", stride: "ldy"))
        try requireRange(row_begin, row_end, of: sparse.n, "row_begin", "row_end")
        try sparse.requireIndices(rows: row_begin..<row_end)
        SparseProduct(sparse, x: x, y: y).add(m: m, rows: row_begin..<row_end)
    }
}

@c @implementation
public func int4q_gobo_scratch_size(_ n: Int64, _ k: Int64, _ scratch_bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_gobo_scratch_size") { () throws(Failure) in
        let scratch = try GoboScratch(n: n, k: k)
        try require(scratch_bytes, "scratch_bytes").pointee = scratch.bytes
    }
}

@c @implementation
public func int4q_gobo_centroids(_ fit: UnsafePointer<int4q_outlier_fit>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                                 _ n: Int64, _ k: Int64, _ source_stride: Int64, _ scratch: UnsafeMutableRawPointer?,
                                 _ scratch_bytes: UInt64, _ centroids: UnsafeMutablePointer<Float>?,
                                 _ iterations: UnsafeMutablePointer<Int64>?, _ mean_error: UnsafeMutablePointer<Double>?) -> int4q_status {
    attempt("int4q_gobo_centroids") { () throws(Failure) in
        let outliers = fit == nil ? OutlierFit.none : try OutlierFit(try require(fit, "fit").pointee)
        let source = try weights(source, source_type, n, k, source_stride)
        let size = try GoboScratch(n: n, k: k)
        let memory = try require(scratch, "scratch", alignment: Int(INT4Q_ALIGNMENT))
        try requireBytes(scratch_bytes, needed: size.bytes, "scratch_bytes")
        let centroids = try require(centroids, "centroids")
        let iterations = iterations == nil ? nil : try require(iterations, "iterations")
        let meanError = mean_error == nil ? nil : try require(mean_error, "mean_error")
        var search = try GoboCentroids(outliers, source, rows: n, memory, size, try activeKernels())
        search.search()
        for index in 0..<16 { centroids[index] = Float(search.best[index]) }
        iterations?.pointee = search.iterations
        meanError?.pointee = search.meanError
    }
}
