// SPDX-License-Identifier: Apache-2.0
import CInt4Q

extension Blob {
    /// Puts checked parts behind the last block, in place of those that are there, and says so in the header.
    @inline(never)
    public func attach(_ parts: BlobParts, bytes: UInt64) throws(Failure) {
        let layout = try PartsLayout(parts.shape, n: self.layout.n, k: self.layout.k)
        let total = try CheckedSize(self.layout.totalBytes, "blob").plus(layout.totalBytes).value
        try requireBytes(bytes, needed: total, "blob_bytes")
        try parts.check()
        let blob = UnsafeMutableRawPointer(mutating: base), target = blob + Int(self.layout.totalBytes)
        target.initializeMemory(as: UInt8.self, repeating: 0, count: Int(layout.totalBytes))
        parts.write(to: target, layout)
        let sum = parts.shape.isEmpty ? 0 : checksum(target, count: Int(layout.totalBytes))
        BlobHeader.write(parts.shape, sum, totalBytes: total, to: blob)
    }
}

extension BlobParts {
    /// Into zeroed memory.
    fileprivate func write(to target: UnsafeMutableRawPointer, _ layout: PartsLayout) {
        func copy(_ source: UnsafeRawPointer?, _ offset: UInt64, _ bytes: Int64) {
            if let source { (target + Int(offset)).copyMemory(from: source, byteCount: Int(bytes)) }
        }
        copy(raw.permutation, layout.permutation, 4 * k)
        copy(raw.sparse_row_offsets, layout.rowOffsets, 8 * (n + 1))
        copy(raw.sparse_columns, layout.columns, 4 * shape.sparseCount)
        copy(raw.sparse_values, layout.values, 4 * shape.sparseCount)
        copy(raw.low_rank_b, layout.b, k * shape.rank * Int64(shape.elementBytes))
        if let a = raw.low_rank_a { interleave(a, into: target + Int(layout.a)) }
    }

    /// 16 rows side by side.
    private func interleave(_ a: UnsafeRawPointer, into target: UnsafeMutableRawPointer) {
        let size = shape.elementBytes, ranks = Int(shape.rank)
        for row in 0..<Int(n) {
            for rank in 0..<ranks {
                let place = ((row &>> 4) &* ranks &+ rank) &* 16 &+ (row & 15)
                (target + place &* size).copyMemory(from: a + self.place(row, rank) &* size, byteCount: size)
            }
        }
    }
}
