// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 3 of the header.

@c @implementation
public func int4q_tensor_sizes(_ scheme: UnsafePointer<int4q_scheme>?, _ n: Int64, _ k: Int64,
                               _ layout: UnsafeMutablePointer<int4q_tensor_layout>?) -> int4q_status {
    attempt("int4q_tensor_sizes") { () throws(Failure) in
        let scheme = try Scheme(try require(scheme, "scheme").pointee)
        let result = try require(layout, "layout")
        try requireStructSize(result.pointee.struct_size, of: int4q_tensor_layout.self, "layout.struct_size")
        try requireZero(result.pointee.reserved, "layout.reserved")
        let sizes = try TensorLayout(scheme, n: n, k: k)
        result.pointee.groups_per_row = sizes.groupsPerRow
        result.pointee.codes_row_bytes = sizes.codesRowBytes
        result.pointee.codes_bytes = sizes.codesBytes
        result.pointee.scales_bytes = sizes.scalesBytes
        result.pointee.zero_points_bytes = sizes.zeroPointsBytes
        result.pointee.offsets_bytes = sizes.offsetsBytes
    }
}

@c @implementation
public func int4q_quantize_rows(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                                _ source_stride: Int64, _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_quantize_rows") { () throws(Failure) in
        let tensor = try QuantizedTensor(try require(tensor, "tensor").pointee)
        let type = try ElementType(source_type, "source_type")
        let matrix = try Matrix(source, type, rows: tensor.layout.n, columns: tensor.layout.k, stride: source_stride,
                                .init("source", stride: "source_stride"))
        try requireRange(row_begin, row_end, of: tensor.layout.n, "row_begin", "row_end")
        try tensor.requireCodebooks(row_begin..<row_end)
        try quantize(tensor, matrix, rows: row_begin..<row_end, try InstructionSetLimit.active().kernels)
    }
}

@c @implementation
public func int4q_dequantize_rows(_ tensor: UnsafePointer<int4q_tensor>?, _ destination: UnsafeMutableRawPointer?,
                                  _ destination_type: int4q_type, _ destination_stride: Int64, _ row_begin: Int64,
                                  _ row_end: Int64) -> int4q_status {
    attempt("int4q_dequantize_rows") { () throws(Failure) in
        let tensor = try QuantizedTensor(try require(tensor, "tensor").pointee)
        let type = try ElementType(destination_type, "destination_type")
        let matrix = try Matrix(destination, type, rows: tensor.layout.n, columns: tensor.layout.k, stride: destination_stride,
                                .init("destination", stride: "destination_stride"))
        try requireRange(row_begin, row_end, of: tensor.layout.n, "row_begin", "row_end")
        try tensor.requireCodebooks(row_begin..<row_end)
        dequantize(tensor, into: matrix, rows: row_begin..<row_end, try InstructionSetLimit.active().kernels)
    }
}
