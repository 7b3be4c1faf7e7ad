// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 4 of the header.

@c @implementation
public func int4q_blob_size(_ scheme: UnsafePointer<int4q_scheme>?, _ n: Int64, _ k: Int64,
                            _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_blob_size") { () throws(Failure) in
        let scheme = try Scheme(try require(scheme, "scheme").pointee)
        let bytes = try require(bytes, "bytes")
        bytes.pointee = try BlobLayout(scheme, n: n, k: k).totalBytes
    }
}

@c @implementation
public func int4q_pack_rows(_ tensor: UnsafePointer<int4q_tensor>?, _ blob: UnsafeMutableRawPointer?, _ blob_bytes: UInt64,
                            _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_pack_rows") { () throws(Failure) in
        let tensor = try QuantizedTensor(try require(tensor, "tensor").pointee)
        let layout = try BlobLayout(tensor.scheme, n: tensor.layout.n, k: tensor.layout.k)
        let blob = try require(blob, "blob", alignment: Int(INT4Q_ALIGNMENT))
        try requireBytes(blob_bytes, needed: layout.totalBytes, "blob_bytes")
        try requireRange(row_begin, row_end, of: layout.n, step: BlobLayout.blockRows, "row_begin", "row_end")
        try tensor.requireCodebooks(row_begin..<row_end)
        try BlobPacker(tensor, into: blob, layout).pack(rows: row_begin..<row_end)
    }
}

@c @implementation
public func int4q_quantize_pack_rows(_ scheme: UnsafePointer<int4q_scheme>?, _ n: Int64, _ k: Int64, _ codebook: UnsafePointer<Float>?,
                                     _ source: UnsafeRawPointer?, _ source_type: int4q_type, _ source_stride: Int64,
                                     _ blob: UnsafeMutableRawPointer?, _ blob_bytes: UInt64, _ row_begin: Int64,
                                     _ row_end: Int64) -> int4q_status {
    attempt("int4q_quantize_pack_rows") { () throws(Failure) in
        let scheme = try Scheme(try require(scheme, "scheme").pointee)
        let layout = try BlobLayout(scheme, n: n, k: k)
        let type = try ElementType(source_type, "source_type")
        let matrix = try Matrix(source, type, rows: n, columns: k, stride: source_stride, .init("source", stride: "source_stride"))
        let blob = try require(blob, "blob", alignment: Int(INT4Q_ALIGNMENT))
        try requireBytes(blob_bytes, needed: layout.totalBytes, "blob_bytes")
        try requireRange(row_begin, row_end, of: n, step: BlobLayout.blockRows, "row_begin", "row_end")
        let kernels = try InstructionSetLimit.active().kernels
        try BlobQuantizer(scheme, codebook, layout, matrix, into: blob, kernels).run(row_begin..<row_end)
    }
}

@c @implementation
public func int4q_blob_validate(_ blob: UnsafeRawPointer?, _ blob_bytes: UInt64, _ level: Int32) -> int4q_status {
    attempt("int4q_blob_validate") { () throws(Failure) in
        let isFull = Int(level) == Int(INT4Q_VALIDATE_FULL)
        if !isFull && Int(level) != Int(INT4Q_VALIDATE_HEADER) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "level", .integer(Int64(level)), expected: "one of INT4Q_VALIDATE_*")
        }
        let blob = try Blob(blob, bytes: blob_bytes)
        if isFull { try blob.validatePayload() }
    }
}

@c @implementation
public func int4q_blob_get_info(_ blob: UnsafeRawPointer?, _ blob_bytes: UInt64,
                                _ info: UnsafeMutablePointer<int4q_blob_info>?) -> int4q_status {
    attempt("int4q_blob_get_info") { () throws(Failure) in
        let blob = try Blob(blob, bytes: blob_bytes)
        let info = try require(info, "info")
        try requireStructSize(info.pointee.struct_size, of: int4q_blob_info.self, "info.struct_size")
        blob.write(to: info)
    }
}

@c @implementation
public func int4q_unpack_rows(_ blob: UnsafeRawPointer?, _ blob_bytes: UInt64, _ tensor: UnsafePointer<int4q_tensor>?,
                              _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_unpack_rows") { () throws(Failure) in
        let blob = try Blob(blob, bytes: blob_bytes)
        let tensor = try QuantizedTensor(try require(tensor, "tensor").pointee, readsCodebook: false)
        try blob.requireAgreement(with: tensor)
        try requireRange(row_begin, row_end, of: blob.layout.n, step: BlobLayout.blockRows, "row_begin", "row_end")
        unpack(blob, into: tensor, rows: row_begin..<row_end)
    }
}

@c @implementation
public func int4q_blob_codebooks(_ blob: UnsafeRawPointer?, _ blob_bytes: UInt64, _ codebooks: UnsafeMutablePointer<Float>?,
                                 _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_blob_codebooks") { () throws(Failure) in
        let blob = try Blob(blob, bytes: blob_bytes)
        try blob.requireCodebooks()
        let codebooks = try requireCodebooks(codebooks, rows: blob.layout.n)
        try requireRange(row_begin, row_end, of: blob.layout.n, "row_begin", "row_end")
        writeCodebooks(blob, to: codebooks, rows: row_begin..<row_end)
    }
}

@c @implementation
public func int4q_gather_rows(_ blob: UnsafeRawPointer?, _ blob_bytes: UInt64, _ row_indices: UnsafePointer<Int64>?, _ count: Int64,
                              _ destination: UnsafeMutableRawPointer?, _ destination_type: int4q_type,
                              _ destination_stride: Int64) -> int4q_status {
    attempt("int4q_gather_rows") { () throws(Failure) in
        let blob = try Blob(blob, bytes: blob_bytes)
        let type = try ElementType(destination_type, "destination_type")
        try requireAtLeast(count, 0, "count")
        if count == 0 { return }
        let matrix = try Matrix(destination, type, rows: count, columns: blob.layout.k, stride: destination_stride,
                                .init("destination", stride: "destination_stride"))
        let rows = try blob.requireRows(row_indices, count, "row_indices")
        try blob.requireNoParts()
        gather(blob, rows: rows, count: count, into: matrix, try InstructionSetLimit.active().kernels)
    }
}
