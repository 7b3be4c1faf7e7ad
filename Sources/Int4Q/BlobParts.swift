// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims
import Int4QCore

// Section 4 of the header: parts beside the codes.

@c @implementation
public func int4q_blob_parts_size(_ n: Int64, _ k: Int64, _ parts: UnsafePointer<int4q_parts>?,
                                  _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_blob_parts_size") { () throws(Failure) in
        try requireAtLeast(n, 1, "n")
        try requireAtLeast(k, 1, "k")
        let shape = try PartsShape(try require(parts, "parts").pointee, k: k)
        try require(bytes, "bytes").pointee = try PartsLayout(shape, n: n, k: k).totalBytes
    }
}

@c @implementation
public func int4q_blob_attach(_ blob: UnsafeMutableRawPointer?, _ blob_bytes: UInt64,
                              _ parts: UnsafePointer<int4q_parts>?) -> int4q_status {
    attempt("int4q_blob_attach") { () throws(Failure) in
        let blob = try Blob(blob, bytes: blob_bytes)
        let parts = try BlobParts(try require(parts, "parts").pointee, n: blob.layout.n, k: blob.layout.k)
        try blob.attach(parts, bytes: blob_bytes)
    }
}

@c @implementation
public func int4q_blob_get_parts(_ blob: UnsafeRawPointer?, _ blob_bytes: UInt64,
                                 _ parts: UnsafeMutablePointer<int4q_parts>?) -> int4q_status {
    attempt("int4q_blob_get_parts") { () throws(Failure) in
        let blob = try Blob(blob, bytes: blob_bytes)
        let parts = try require(parts, "parts")
        try requireStructSize(parts.pointee.struct_size, of: int4q_parts.self, "parts.struct_size")
        BlobParts(blob).write(to: parts)
    }
}

@c @implementation
public func int4q_gather_effective_rows(_ blob: UnsafeRawPointer?, _ blob_bytes: UInt64, _ row_indices: UnsafePointer<Int64>?,
                                        _ count: Int64, _ destination: UnsafeMutableRawPointer?, _ destination_type: int4q_type,
                                        _ destination_stride: Int64, _ scratch: UnsafeMutableRawPointer?,
                                        _ scratch_bytes: UInt64) -> int4q_status {
    attempt("int4q_gather_effective_rows") { () throws(Failure) in
        let blob = try Blob(blob, bytes: blob_bytes)
        let type = try ElementType(destination_type, "destination_type")
        try requireAtLeast(count, 0, "count")
        if count == 0 { return }
        let matrix = try Matrix(destination, type, rows: count, columns: blob.layout.k, stride: destination_stride,
                                .init("destination", stride: "destination_stride"))
        let rows = try blob.requireRows(row_indices, count, "row_indices")
        let scratch = try require(scratch, "scratch", alignment: Int(INT4Q_ALIGNMENT))
        try requireBytes(scratch_bytes, needed: EffectiveRows.scratchBytes(k: blob.layout.k), "scratch_bytes")
        EffectiveRows(blob, scratch: scratch, try activeKernels()).gather(rows: rows, count: count, into: matrix)
    }
}
