// SPDX-License-Identifier: Apache-2.0
import CInt4Q

extension Blob {
    /// Everything behind the header: checksums, then that the contents are what packing could have written.
    public func validatePayload() throws(Failure) {
        let table = base + Int(layout.checksumsOffset)
        try requireZeros(table + Int(layout.blockCount) * 8, Int(layout.blocksOffset - layout.checksumsOffset) - Int(layout.blockCount) * 8)
        for index in 0..<layout.blockCount {
            let block = layout.block(index, in: base)
            let stored = table.load(fromByteOffset: Int(index) * 8, as: UInt64.self)
            if checksum(block, count: Int(layout.blockBytes)) != stored {
                throw corrupt(row: index * BlobLayout.blockRows, "a block with the checksum that the blob states")
            }
            try validate(block, index)
        }
        if !parts.isEmpty { try validateParts() }
    }

    /// What attaching would have written.
    private func validateParts() throws(Failure) {
        let own = BlobParts(self), first = base + Int(layout.totalBytes), count = Int(totalBytes - layout.totalBytes)
        let stored = base.load(fromByteOffset: BlobHeader.Offset.partsChecksum, as: UInt64.self)
        if checksum(first, count: count) != stored {
            throw Failure(INT4Q_ERROR_CORRUPT, "blob", .text("parts with another checksum"), expected: "checksum of parts",
                          bound: stored)
        }
        do throws(Failure) { try own.check() } catch { throw error.asCorruption }
        let sections = try PartsLayout(parts, n: layout.n, k: layout.k)
        func requirePadding(_ offset: UInt64, _ bytes: Int64) throws(Failure) {
            try requireZeros(first + Int(offset) + Int(bytes), Int(-bytes & 63))
        }
        if parts.has(PartsShape.permutation) { try requirePadding(sections.permutation, 4 * layout.k) }
        if parts.has(PartsShape.sparse) { try requirePadding(sections.rowOffsets, 8 * (layout.n + 1)) }
        try requirePadding(sections.columns, 4 * parts.sparseCount)
        try requirePadding(sections.values, 4 * parts.sparseCount)
        let size = Int64(parts.elementBytes)
        if parts.has(PartsShape.lowRank) {
            try requirePadding(sections.b, layout.k * parts.rank * size)
            try requirePadding(sections.a, layout.blockCount * 16 * parts.rank * size)
            for rank in 0..<Int(parts.rank) where layout.n % 16 != 0 {
                let end = own.place(Int(layout.n), rank)
                try requireZeros(first + Int(sections.a) + end * Int(size), Int((16 - layout.n % 16) * size))
            }
        }
    }

    private func validate(_ block: UnsafeRawPointer, _ index: Int64) throws(Failure) {
        let first = index * BlobLayout.blockRows
        let used = Int(min(BlobLayout.blockRows, layout.n - first))
        let groups = Int(layout.groupCount)
        let size = scheme.scaleType.size
        try validateCodes(block, used, first)
        try validateParameters(block + Int(layout.scalesOffset), used, first)
        if scheme.kind == .offset { try validateParameters(block + Int(layout.zerosOffset), used, first) }
        if scheme.kind == .asymmetric { try validateZeroPoints(block + Int(layout.zerosOffset), used, first) }
        if scheme.hasRowCodebooks { try validateCodebooks(block + Int(layout.codebooksOffset), used, first) }

        let scalesEnd = Int(layout.scalesOffset) + groups * 16 * size
        let zerosEnd = Int(layout.zerosOffset) + groups * 16 * Int(BlobLayout.zerosSize(scheme))
        let next = max(layout.zerosOffset, layout.codebooksOffset) // a kind has one of them or neither
        let scalesLimit = next == 0 ? Int(layout.blockBytes) : Int(next)
        try requireZeros(block + scalesEnd, scalesLimit - scalesEnd)
        if layout.zerosOffset != 0 { try requireZeros(block + zerosEnd, Int(layout.blockBytes) - zerosEnd) }
    }

    private func validateCodes(_ block: UnsafeRawPointer, _ used: Int, _ first: Int64) throws(Failure) {
        let width = scheme.width
        for index in 0..<Int(layout.kPadded) / width.wordCodes {
            let valid = min(max(Int(layout.k) - index * width.wordCodes, 0), width.wordCodes)
            if valid == width.wordCodes && used == 16 && scheme.kind != .ternary { continue }
            for lane in 0..<16 {
                let word = width.word(index, lane: block + lane &* 4)
                let own = lane < used ? valid * width.bits : 0
                if own < 32 && word >> UInt32(own) != 0 { throw corrupt(row: first, "zero padding after the codes") }
                if scheme.kind == .ternary && word & word >> 1 & 0x5555_5555 != 0 { throw corrupt(row: first, "TERNARY's codes, 0 to 2") }
            }
        }
    }

    private func validateParameters(_ values: UnsafeRawPointer, _ used: Int, _ first: Int64) throws(Failure) {
        for index in 0..<Int(layout.groupCount) * 16 {
            let value = scheme.scaleType.load(values, index)
            let isUsed = index % 16 < used
            if isUsed ? !value.isFinite : value.bitPattern != 0 {
                throw corrupt(row: first, "finite scales and offsets, and zeros beyond the last row")
            }
            // The pieces of a long row share one scale.
            if scheme.isPerRow && value.bitPattern != scheme.scaleType.load(values, index % 16).bitPattern {
                throw corrupt(row: first, "one scale and offset for each row")
            }
        }
    }

    private func validateZeroPoints(_ values: UnsafeRawPointer, _ used: Int, _ first: Int64) throws(Failure) {
        for index in 0..<Int(layout.groupCount) * 16 {
            let value = values.load(fromByteOffset: index, as: UInt8.self)
            let isRepeated = !scheme.isPerRow || value == values.load(fromByteOffset: index % 16, as: UInt8.self)
            if Int32(value) > (index % 16 < used ? scheme.width.largest : 0) || !isRepeated {
                throw corrupt(row: first, "zero points that are codes, and zeros beyond the last row")
            }
        }
    }

    private func validateCodebooks(_ values: UnsafeRawPointer, _ used: Int, _ first: Int64) throws(Failure) {
        for lane in 0..<16 {
            var largest: Float = 0, bits: UInt32 = 0
            for code in 0..<16 {
                let value = values.load(fromByteOffset: code &* 64 &+ lane &* 4, as: Float.self)
                largest = value.isFinite ? max(largest, value.magnitude) : .infinity
                bits |= value.bitPattern
                if !largest.isFinite { break }
            }
            if lane < used ? largest == 0 || !largest.isFinite : bits != 0 {
                throw corrupt(row: first, "finite codebooks that are not all zero, and zeros beyond the last row")
            }
        }
    }

    private func requireZeros(_ bytes: UnsafeRawPointer, _ count: Int) throws(Failure) {
        for index in 0..<count where bytes.load(fromByteOffset: index, as: UInt8.self) != 0 {
            throw Failure(INT4Q_ERROR_CORRUPT, "blob", .unsigned(UInt64(bytes + index - base)), expected: "zero padding at this byte")
        }
    }

    private func corrupt(row: Int64, _ expected: Text) -> Failure {
        Failure(INT4Q_ERROR_CORRUPT, "blob", .block(row: row), expected: expected)
    }
}
