// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// Room for n x 16 floats within the address space.
public func requireCodebooks(_ pointer: UnsafeMutablePointer<Float>?, rows: Int64) throws(Failure) -> UnsafeMutablePointer<Float> {
    let codebooks = try require(pointer, "codebooks")
    _ = try CheckedSize(UInt64(rows), "n").times(CallersCodebooks.rowBytes).plus(UInt64(UInt(bitPattern: codebooks)))
    return codebooks
}

extension Blob {
    /// Fills what int4q_blob_get_info() tells.
    public func write(to info: UnsafeMutablePointer<int4q_blob_info>) {
        info.pointee.format_version = BlobHeader.version
        info.pointee.scheme = scheme.raw
        info.pointee.n = layout.n
        info.pointee.k = layout.k
        info.pointee.total_bytes = totalBytes
        info.pointee.part_flags = parts.flags
        info.pointee.part_rank = UInt32(truncatingIfNeeded: parts.rank)
        info.pointee.parts_bytes = totalBytes - layout.totalBytes
        info.pointee.block_count = UInt64(layout.blockCount)
        info.pointee.block_bytes = layout.blockBytes
        info.pointee.header_checksum = headerChecksum
        withUnsafeMutableBytes(of: &info.pointee.codebook) { $0.copyMemory(from: .init(start: codebook, count: 64)) }
    }

    public func requireAgreement(with tensor: QuantizedTensor) throws(Failure) {
        try requireEqual(tensor.layout.n, layout.n, "tensor.n")
        try requireEqual(tensor.layout.k, layout.k, "tensor.k")
        try requireEqual(Int64(tensor.scheme.raw.kind), Int64(scheme.raw.kind), "tensor.scheme.kind")
        try requireEqual(Int64(tensor.scheme.width.bits), Int64(scheme.width.bits), "tensor.scheme.code_bits")
        try requireEqual(Int64(tensor.scheme.raw.group_size), Int64(scheme.raw.group_size), "tensor.scheme.group_size")
        try requireEqual(Int64(tensor.scheme.raw.scale_type), Int64(scheme.raw.scale_type), "tensor.scheme.scale_type")
        try requireEqual(Int64(tensor.scheme.raw.codebook_scope), Int64(scheme.raw.codebook_scope), "tensor.scheme.codebook_scope")
    }

    public func requireCodebooks() throws(Failure) {
        if scheme.kind == .codebook { return }
        throw Failure(INT4Q_ERROR_MISMATCH, "blob (scheme.kind)", .integer(Int64(scheme.raw.kind)), expected: "INT4Q_KIND_CODEBOOK")
    }

    public func requireNoParts() throws(Failure) {
        if parts.isEmpty { return }
        throw Failure(INT4Q_ERROR_UNSUPPORTED, "blob (part_flags)", .integer(Int64(parts.flags)),
                      expected: "a blob without parts: int4q_gather_effective_rows() is for those that have some")
    }

    private func requireEqual(_ value: Int64, _ own: Int64, _ name: Text) throws(Failure) {
        if value == own { return }
        throw Failure(INT4Q_ERROR_MISMATCH, name, .integer(value), expected: "the blob's,", bound: UInt64(bitPattern: own))
    }

    /// Each index in 0..<n.
    public func requireRows(_ indices: UnsafePointer<Int64>?, _ count: Int64, _ name: Text) throws(Failure) -> UnsafePointer<Int64> {
        let indices = try require(indices, name)
        _ = try CheckedSize(UInt64(count), "count").times(8).plus(UInt64(UInt(bitPattern: indices)))
        for index in 0..<Int(count) where indices[index] < 0 || indices[index] >= layout.n {
            throw .invalid(name, indices[index], expected: "row numbers of 0 or more and below", bound: UInt64(layout.n))
        }
        return indices
    }
}
