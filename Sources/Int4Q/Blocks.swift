// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 8 of the header.

@c @implementation
public func int4q_blocks_size(_ format: int4q_format, _ n: Int64, _ k: Int64, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_blocks_size") { () throws(Failure) in
        let format = try BlockFormat(format, "format")
        let bytes = try require(bytes, "bytes")
        bytes.pointee = try BlockLayout(format, n: n, k: k).bytes
    }
}

@c @implementation
public func int4q_quantize_blocks(_ format: int4q_format, _ options: UnsafePointer<int4q_block_options>?, _ n: Int64, _ k: Int64,
                                  _ source: UnsafeRawPointer?, _ source_type: int4q_type, _ source_stride: Int64,
                                  _ blocks: UnsafeMutableRawPointer?, _ blocks_bytes: UInt64, _ row_begin: Int64,
                                  _ row_end: Int64) -> int4q_status {
    attempt("int4q_quantize_blocks") { () throws(Failure) in
        let layout = try BlockLayout(try BlockFormat(format, "format"), n: n, k: k)
        let options = try BlockOptions(options, layout)
        let type = try ElementType(source_type, "source_type")
        let matrix = try Matrix(source, type, rows: n, columns: k, stride: source_stride, .init("source", stride: "source_stride"))
        let blocks = try require(blocks, "blocks", alignment: 1)
        try requireBytes(blocks_bytes, needed: layout.bytes, "blocks_bytes")
        try requireRange(row_begin, row_end, of: n, "row_begin", "row_end")
        try options.checkImportance(layout)
        let kernels = try InstructionSetLimit.active().kernels
        try BlocksQuantizer(layout, options, matrix, into: blocks, kernels).run(row_begin..<row_end)
    }
}

@c @implementation
public func int4q_dequantize_blocks(_ format: int4q_format, _ global_scale: Float, _ n: Int64, _ k: Int64,
                                    _ blocks: UnsafeRawPointer?, _ blocks_bytes: UInt64, _ destination: UnsafeMutableRawPointer?,
                                    _ destination_type: int4q_type, _ destination_stride: Int64, _ row_begin: Int64,
                                    _ row_end: Int64) -> int4q_status {
    attempt("int4q_dequantize_blocks") { () throws(Failure) in
        let layout = try BlockLayout(try BlockFormat(format, "format"), n: n, k: k)
        let scale = try checkedGlobalScale(global_scale, layout.format, "global_scale")
        let blocks = try require(blocks, "blocks", alignment: 1)
        try requireBytes(blocks_bytes, needed: layout.bytes, "blocks_bytes")
        let type = try ElementType(destination_type, "destination_type")
        let matrix = try Matrix(destination, type, rows: n, columns: k, stride: destination_stride,
                                .init("destination", stride: "destination_stride"))
        try requireRange(row_begin, row_end, of: n, "row_begin", "row_end")
        try dequantize(layout, blocks, globalScale: scale, into: matrix, rows: row_begin..<row_end,
                       try InstructionSetLimit.active().kernels)
    }
}

@c @implementation
public func int4q_format_scheme(_ format: int4q_format, _ scheme: UnsafeMutablePointer<int4q_scheme>?,
                                _ codebook: UnsafeMutablePointer<Float>?) -> int4q_status {
    attempt("int4q_format_scheme") { () throws(Failure) in
        let format = try BlockFormat(format, "format")
        let scheme = try require(scheme, "scheme")
        if codebook != nil { format.write(codebook: try require(codebook, "codebook")) }
        scheme.pointee = format.scheme
    }
}

@c @implementation
public func int4q_blocks_to_tensor(_ format: int4q_format, _ global_scale: Float, _ blocks: UnsafeRawPointer?,
                                   _ blocks_bytes: UInt64, _ tensor: UnsafePointer<int4q_tensor>?, _ row_begin: Int64,
                                   _ row_end: Int64) -> int4q_status {
    attempt("int4q_blocks_to_tensor") { () throws(Failure) in
        let format = try BlockFormat(format, "format")
        let scale = try checkedGlobalScale(global_scale, format, "global_scale")
        let tensor = try QuantizedTensor(try require(tensor, "tensor").pointee)
        try format.requireAgreement(with: tensor)
        let layout = try BlockLayout(format, n: tensor.layout.n, k: tensor.layout.k)
        let blocks = try require(blocks, "blocks", alignment: 1)
        try requireBytes(blocks_bytes, needed: layout.bytes, "blocks_bytes")
        try requireRange(row_begin, row_end, of: layout.n, "row_begin", "row_end")
        try convert(layout, blocks, globalScale: scale, to: tensor, rows: row_begin..<row_end)
    }
}

@c @implementation
public func int4q_tensor_to_blocks(_ format: int4q_format, _ tensor: UnsafePointer<int4q_tensor>?, _ blocks: UnsafeMutableRawPointer?,
                                   _ blocks_bytes: UInt64, _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_tensor_to_blocks") { () throws(Failure) in
        let known = try BlockFormat(format, "format")
        if !known.holdsTensors {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "format", .integer(Int64(format)),
                          expected: "INT4Q_FORMAT_Q4_0, Q4_1, IQ4_NL or MXFP4")
        }
        let tensor = try QuantizedTensor(try require(tensor, "tensor").pointee)
        try known.requireAgreement(with: tensor)
        let layout = try BlockLayout(known, n: tensor.layout.n, k: tensor.layout.k)
        let blocks = try require(blocks, "blocks", alignment: 1)
        try requireBytes(blocks_bytes, needed: layout.bytes, "blocks_bytes")
        try requireRange(row_begin, row_end, of: layout.n, "row_begin", "row_end")
        try convert(tensor, to: layout, blocks, rows: row_begin..<row_end)
    }
}
