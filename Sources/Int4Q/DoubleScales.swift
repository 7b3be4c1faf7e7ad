// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 9 of the header: double quantization.

@c @implementation
public func int4q_dynamic_map(_ map: UnsafeMutablePointer<Float>?) -> int4q_status {
    attempt("int4q_dynamic_map") { () throws(Failure) in DynamicMap.write(to: try require(map, "map")) }
}

@c @implementation
public func int4q_double_sizes(_ count: Int64, _ block_size: Int64, _ codes_bytes: UnsafeMutablePointer<UInt64>?,
                               _ nested_scales_bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_double_sizes") { () throws(Failure) in
        let sizes = try DoubleSizes(count: count, blockSize: block_size)
        let codes = codes_bytes == nil ? nil : try require(codes_bytes, "codes_bytes")
        let nested = nested_scales_bytes == nil ? nil : try require(nested_scales_bytes, "nested_scales_bytes")
        codes?.pointee = sizes.codesBytes
        nested?.pointee = sizes.nestedScalesBytes
    }
}

@inline(never)
private func list(_ scales: UnsafeRawPointer?, _ type: int4q_type, _ count: Int64) throws(Failure) -> Matrix {
    try requireAtLeast(count, 1, "count")
    return try Matrix(scales, try ElementType(type, "scales_type"), rows: 1, columns: count, stride: count,
                      .init("scales", stride: "count"))
}

@c @implementation
public func int4q_double_offset(_ scales: UnsafeRawPointer?, _ scales_type: int4q_type, _ count: Int64,
                                _ offset: UnsafeMutablePointer<Float>?) -> int4q_status {
    attempt("int4q_double_offset") { () throws(Failure) in
        let list = try list(scales, scales_type, count)
        let offset = try require(offset, "offset")
        offset.pointee = try mean(list, try activeKernels())
    }
}

@c @implementation
public func int4q_double_quantize_scales(_ doubled: UnsafePointer<int4q_double_scales>?, _ scales: UnsafeRawPointer?,
                                         _ scales_type: int4q_type, _ block_begin: Int64, _ block_end: Int64) -> int4q_status {
    attempt("int4q_double_quantize_scales") { () throws(Failure) in
        let doubled = try DoubleScales(try require(doubled, "doubled").pointee)
        let list = try list(scales, scales_type, doubled.count)
        try requireRange(block_begin, block_end, of: doubled.blockCount, "block_begin", "block_end")
        try quantize(doubled, list, blocks: block_begin..<block_end, try activeKernels())
    }
}

@c @implementation
public func int4q_double_dequantize_scales(_ doubled: UnsafePointer<int4q_double_scales>?, _ scales: UnsafeMutableRawPointer?,
                                           _ scales_type: int4q_type, _ block_begin: Int64, _ block_end: Int64) -> int4q_status {
    attempt("int4q_double_dequantize_scales") { () throws(Failure) in
        let doubled = try DoubleScales(try require(doubled, "doubled").pointee)
        let list = try list(scales, scales_type, doubled.count)
        try requireRange(block_begin, block_end, of: doubled.blockCount, "block_begin", "block_end")
        dequantize(doubled, into: list, blocks: block_begin..<block_end, try activeKernels())
    }
}
