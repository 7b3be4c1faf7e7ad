// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 7 of the header.

@c @implementation
public func int4q_codebook_get(_ which: Int32, _ values: UnsafeMutablePointer<Float>?) -> int4q_status {
    attempt("int4q_codebook_get") { () throws(Failure) in
        try writeCodebook(which, to: try require(values, "values"))
    }
}

@c @implementation
public func int4q_codebook_linear_bins(_ min: Float, _ max: Float, _ levels: Int32,
                                       _ values: UnsafeMutablePointer<Float>?) -> int4q_status {
    attempt("int4q_codebook_linear_bins") { () throws(Failure) in
        try writeLinearBins(min, max, levels: levels, to: try require(values, "values"))
    }
}

@c @implementation
public func int4q_codebook_fit_scratch(_ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_codebook_fit_scratch") { () throws(Failure) in
        try require(bytes, "bytes").pointee = CodebookFit.scratchBytes
    }
}

@c @implementation
public func int4q_codebook_fit(_ source: UnsafeRawPointer?, _ source_type: int4q_type, _ source_stride: Int64, _ n: Int64,
                               _ k: Int64, _ row_begin: Int64, _ row_end: Int64, _ weights: UnsafePointer<Float>?,
                               _ weights_stride: Int64, _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64,
                               _ values: UnsafeMutablePointer<Float>?,
                               _ mean_squared_error: UnsafeMutablePointer<Double>?) -> int4q_status {
    fitCodebook("int4q_codebook_fit", source, source_type, source_stride, n, k, row_begin, row_end, weights, weights_stride,
                nil, 0, 0, isGreedy: false, scratch, scratch_bytes, values, mean_squared_error)
}

/// With any values, or some of the caller's candidates.
@inline(never)
func fitCodebook(_ function: Text, _ source: UnsafeRawPointer?, _ source_type: int4q_type, _ source_stride: Int64,
                 _ n: Int64, _ k: Int64, _ row_begin: Int64, _ row_end: Int64, _ weights: UnsafePointer<Float>?, _ weights_stride: Int64,
                 _ candidates: UnsafePointer<Float>?, _ candidate_count: Int64, _ kept: Int32, isGreedy: Bool,
                 _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64, _ values: UnsafeMutablePointer<Float>?,
                 _ mean_squared_error: UnsafeMutablePointer<Double>?) -> int4q_status {
    attempt(function) { () throws(Failure) in
        try requireAtLeast(n, 1, "n")
        try requireAtLeast(k, 1, "k")
        let matrix = try Matrix(source, try ElementType(source_type, "source_type"), rows: n, columns: k, stride: source_stride,
                                .init("source", stride: "source_stride"))
        try requireRange(row_begin, row_end, of: n, "row_begin", "row_end")
        try requireAtLeast(row_end, row_begin + 1, "row_end")
        let importances = try importances(weights, weights_stride, n, k)
        let scratch = try require(scratch, "scratch", alignment: Int(INT4Q_ALIGNMENT))
        try requireBytes(scratch_bytes, needed: CodebookFit.scratchBytes, "scratch_bytes")
        let values = try require(values, "values")
        let error = mean_squared_error == nil ? nil : try require(mean_squared_error, "mean_squared_error")
        let choice = isGreedy ? try GreedyCodebook(try require(candidates, "candidates"), count: candidate_count, kept: kept) : nil
        let kernels = try InstructionSetLimit.active().kernels
        try CodebookFit(matrix, weights: importances, rows: row_begin..<row_end, scratch: scratch, kernels)
            .run(values, error, choice: choice)
    }
}

/// With a stride of 0 all rows have the same.
private func importances(_ weights: UnsafePointer<Float>?, _ stride: Int64, _ n: Int64, _ k: Int64) throws(Failure) -> Matrix? {
    if weights == nil { return nil }
    let type = try ElementType(int4q_type(INT4Q_TYPE_F32), "weights")
    return try Matrix(UnsafeRawPointer(weights), type, rows: stride == 0 ? 1 : n, columns: k, stride: stride == 0 ? k : stride,
                      .init("weights", stride: "weights_stride"))
}

@c @implementation
public func int4q_nibbles_pack(_ values: UnsafeRawPointer?, _ count: Int64, _ order: Int32, _ block: Int32, _ flags: UInt32,
                               _ bytes: UnsafeMutableRawPointer?, _ bytes_size: UInt64) -> int4q_status {
    attempt("int4q_nibbles_pack") { () throws(Failure) in
        let nibbles = try NibbleOrder(order, block: block, flags: flags)
        try requireAtLeast(count, 0, "count")
        if count == 0 { return }
        let values = try requireArray(values, count, "values").assumingMemoryBound(to: UInt8.self)
        let bytes = try require(bytes, "bytes", alignment: 1).assumingMemoryBound(to: UInt8.self)
        try requireBytes(bytes_size, needed: nibbles.bytes(count: count), "bytes_size")
        try nibbles.requireInRange(values, count: Int(count))
        nibbles.pack(values, count: Int(count), into: bytes)
    }
}

@c @implementation
public func int4q_nibbles_unpack(_ bytes: UnsafeRawPointer?, _ bytes_size: UInt64, _ count: Int64, _ order: Int32,
                                 _ block: Int32, _ flags: UInt32, _ values: UnsafeMutableRawPointer?) -> int4q_status {
    attempt("int4q_nibbles_unpack") { () throws(Failure) in
        let nibbles = try NibbleOrder(order, block: block, flags: flags)
        try requireAtLeast(count, 0, "count")
        if count == 0 { return }
        let bytes = try require(bytes, "bytes", alignment: 1).assumingMemoryBound(to: UInt8.self)
        try requireBytes(bytes_size, needed: nibbles.bytes(count: count), "bytes_size")
        let values = UnsafeMutableRawPointer(mutating: try requireArray(UnsafeRawPointer(values), count, "values"))
        nibbles.unpack(bytes, count: Int(count), into: values.assumingMemoryBound(to: UInt8.self))
    }
}

@c @implementation
public func int4q_quantize_int4_values(_ values: UnsafePointer<Float>?, _ count: Int64, _ method: Int32, _ flags: UInt32,
                                       _ codes: UnsafeMutablePointer<Int8>?, _ scale: UnsafeMutablePointer<Float>?,
                                       _ zero_point: UnsafeMutablePointer<Int32>?) -> int4q_status {
    attempt("int4q_quantize_int4_values") { () throws(Failure) in
        try requireAtLeast(count, 1, "count")
        let values = try requireArray(values, count, "values", size: 4).assumingMemoryBound(to: Float.self)
        let codes = try requireArray(codes, count, "codes")
        let scale = try require(scale, "scale"), zeroPoint = try require(zero_point, "zero_point")
        let quantizer = try Int4Values(values, count: Int(count), method: method, flags: flags)
        quantizer.encode(values, count: Int(count),
                         into: UnsafeMutableRawPointer(mutating: codes).assumingMemoryBound(to: Int8.self))
        scale.pointee = quantizer.scale
        zeroPoint.pointee = quantizer.zeroPoint
    }
}

@c @implementation
public func int4q_dequantize_int4_values(_ codes: UnsafePointer<Int8>?, _ count: Int64, _ scale: Float, _ zero_point: Int32,
                                         _ values: UnsafeMutablePointer<Float>?) -> int4q_status {
    attempt("int4q_dequantize_int4_values") { () throws(Failure) in
        try requireAtLeast(count, 1, "count")
        let codes = try requireArray(codes, count, "codes").assumingMemoryBound(to: Int8.self)
        let values = try requireArray(UnsafeRawPointer(values), count, "values", size: 4)
        try dequantizeInt4Values(codes, count: Int(count), scale: scale, zeroPoint: zero_point,
                                 into: UnsafeMutableRawPointer(mutating: values).assumingMemoryBound(to: Float.self))
    }
}

/// `count` elements of `size` bytes, aligned to their size, that end within the address space.
private func requireArray(_ pointer: UnsafeRawPointer?, _ count: Int64, _ name: Text,
                          size: Int = 1) throws(Failure) -> UnsafeRawPointer {
    let base = try require(pointer, name, alignment: size)
    _ = try CheckedSize(UInt64(count), "count").times(UInt64(size)).plus(UInt64(UInt(bitPattern: base)))
    return base
}
