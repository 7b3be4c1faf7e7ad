// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 9 of the header: twin ranges and twin scales.

@c @implementation
public func int4q_twin_candidates(_ kind: Int32, _ choice: Int32, _ steps: Int32, _ largest: Float,
                                  _ candidates: UnsafeMutablePointer<int4q_twin_ranges>?,
                                  _ count: UnsafeMutablePointer<Int64>?) -> int4q_status {
    attempt("int4q_twin_candidates") { () throws(Failure) in
        let candidates = try require(candidates, "candidates")
        let count = try require(count, "count")
        count.pointee = try TwinCandidates.write(kind: kind, choice: choice, steps: steps, largest: largest, to: candidates)
    }
}

@inline(never)
private func matrix(_ source: UnsafeRawPointer?, _ type: int4q_type, _ rows: Int64, _ columns: Int64,
                         _ stride: Int64) throws(Failure) -> Matrix {
    try requireAtLeast(rows, 1, "rows")
    try requireAtLeast(columns, 1, "columns")
    return try Matrix(source, try ElementType(type, "source_type"), rows: rows, columns: columns, stride: stride,
                      .init("source", stride: "source_stride"))
}

@inline(never)
private func target(_ destination: UnsafeMutableRawPointer?, _ type: int4q_type, _ rows: Int64, _ columns: Int64,
                    _ stride: Int64) throws(Failure) -> Matrix {
    try Matrix(destination, try ElementType(type, "destination_type"), rows: rows, columns: columns, stride: stride,
               .init("destination", stride: "destination_stride"))
}

@inline(never)
private func requireCodes(_ bytes: UInt64, _ rows: Int64, _ columns: Int64) throws(Failure) {
    let needed = try CheckedSize(UInt64(rows), "rows").times(UInt64((columns - 1) / 2 + 1))
    try requireBytes(bytes, needed: needed.value, "codes_bytes")
}

@c @implementation
public func int4q_twin_errors(_ candidates: UnsafePointer<int4q_twin_ranges>?, _ count: Int64, _ source: UnsafeRawPointer?,
                              _ source_type: int4q_type, _ rows: Int64, _ columns: Int64, _ source_stride: Int64,
                              _ errors: UnsafeMutablePointer<Double>?, _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_twin_errors") { () throws(Failure) in
        let candidates = try require(candidates, "candidates")
        try requireAtLeast(count, 1, "count")
        _ = try CheckedSize(UInt64(count), "count").times(16)
        let source = try matrix(source, source_type, rows, columns, source_stride)
        let errors = try require(errors, "errors")
        try requireRange(row_begin, row_end, of: rows, "row_begin", "row_end")
        try writeErrors(candidates, count: count, source, errors, rows: row_begin..<row_end, try activeKernels())
    }
}

@c @implementation
public func int4q_twin_quantize(_ ranges: UnsafePointer<int4q_twin_ranges>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                                _ rows: Int64, _ columns: Int64, _ source_stride: Int64, _ codes: UnsafeMutablePointer<UInt8>?,
                                _ codes_bytes: UInt64, _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_twin_quantize") { () throws(Failure) in
        let ranges = try TwinRanges(try require(ranges, "ranges").pointee)
        let source = try matrix(source, source_type, rows, columns, source_stride)
        let codes = try require(codes, "codes")
        try requireCodes(codes_bytes, rows, columns)
        try requireRange(row_begin, row_end, of: rows, "row_begin", "row_end")
        try ranges.quantize(source, codes, rows: row_begin..<row_end, try activeKernels())
    }
}

@c @implementation
public func int4q_twin_dequantize(_ ranges: UnsafePointer<int4q_twin_ranges>?, _ codes: UnsafePointer<UInt8>?, _ codes_bytes: UInt64,
                                  _ rows: Int64, _ columns: Int64, _ destination: UnsafeMutableRawPointer?,
                                  _ destination_type: int4q_type, _ destination_stride: Int64, _ row_begin: Int64,
                                  _ row_end: Int64) -> int4q_status {
    attempt("int4q_twin_dequantize") { () throws(Failure) in
        let ranges = try TwinRanges(try require(ranges, "ranges").pointee)
        let codes = try require(codes, "codes")
        try requireAtLeast(rows, 1, "rows")
        try requireAtLeast(columns, 1, "columns")
        try requireCodes(codes_bytes, rows, columns)
        let target = try target(destination, destination_type, rows, columns, destination_stride)
        try requireRange(row_begin, row_end, of: rows, "row_begin", "row_end")
        ranges.dequantize(codes, into: target, rows: row_begin..<row_end, try activeKernels())
    }
}

@c @implementation
public func int4q_twin_quantize_rows(_ tensor: UnsafePointer<int4q_twin_tensor>?, _ source: UnsafeRawPointer?,
                                     _ source_type: int4q_type, _ source_stride: Int64, _ row_begin: Int64,
                                     _ row_end: Int64) -> int4q_status {
    attempt("int4q_twin_quantize_rows") { () throws(Failure) in
        let tensor = try TwinTensor(try require(tensor, "tensor").pointee)
        let source = try matrix(source, source_type, tensor.layout.n, tensor.layout.k, source_stride)
        try requireRange(row_begin, row_end, of: tensor.layout.n, "row_begin", "row_end")
        try quantize(tensor, source, rows: row_begin..<row_end, try activeKernels())
    }
}

@c @implementation
public func int4q_twin_dequantize_rows(_ tensor: UnsafePointer<int4q_twin_tensor>?, _ destination: UnsafeMutableRawPointer?,
                                       _ destination_type: int4q_type, _ destination_stride: Int64, _ row_begin: Int64,
                                       _ row_end: Int64) -> int4q_status {
    attempt("int4q_twin_dequantize_rows") { () throws(Failure) in
        let tensor = try TwinTensor(try require(tensor, "tensor").pointee)
        let target = try target(destination, destination_type, tensor.layout.n, tensor.layout.k, destination_stride)
        try requireRange(row_begin, row_end, of: tensor.layout.n, "row_begin", "row_end")
        dequantize(tensor, into: target, rows: row_begin..<row_end, try activeKernels())
    }
}

@c @implementation
public func int4q_twin_to_tensors(_ tensor: UnsafePointer<int4q_twin_tensor>?, _ negative: UnsafeMutablePointer<int4q_tensor>?,
                                  _ positive: UnsafeMutablePointer<int4q_tensor>?) -> int4q_status {
    attempt("int4q_twin_to_tensors") { () throws(Failure) in
        let tensor = try TwinTensor(try require(tensor, "tensor").pointee)
        let negative = try require(negative, "negative")
        let positive = try require(positive, "positive")
        try requireStructSize(negative.pointee.struct_size, of: int4q_tensor.self, "negative.struct_size")
        try requireStructSize(positive.pointee.struct_size, of: int4q_tensor.self, "positive.struct_size")
        tensor.write(negative: negative, positive: positive)
    }
}
