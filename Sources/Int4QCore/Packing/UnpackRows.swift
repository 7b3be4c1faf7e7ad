// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// One row of W inside a blob.
struct BlobRow {
    let blob: Blob
    let block: UnsafeRawPointer
    let lane: Int

    init(_ blob: Blob, _ row: Int64) {
        self.blob = blob
        block = blob.layout.block(row / BlobLayout.blockRows, in: blob.base)
        lane = Int(row % BlobLayout.blockRows)
    }

    /// The row's `index`-th 32 bits of codes, in order of k, the first in the lowest bits.
    func word(_ index: Int) -> UInt32 { blob.scheme.width.word(index, lane: block + lane &* 4) }

    func code(_ k: Int) -> Int {
        let width = blob.scheme.width
        let place = (k & (width.wordCodes &- 1)) &* width.bits
        return Int(Int32(bitPattern: word(k / width.wordCodes) &>> UInt32(truncatingIfNeeded: place)) & width.largest)
    }

    /// What a code of a CODEBOOK stands for in this row.
    func codebookValue(_ code: Int) -> Float {
        let scheme = blob.scheme, layout = blob.layout
        if !scheme.hasRowCodebooks { return blob.codebook[code] }
        return block.load(fromByteOffset: Int(layout.codebooksOffset) &+ code &* 64 &+ lane &* 4, as: Float.self)
    }

    /// The row's codebook, for decoders; NULL for the kinds that have none. One of the row's own is gathered in `room` of 16.
    func codebook(_ room: UnsafeMutablePointer<Float>) -> UnsafePointer<Float>? {
        if blob.scheme.kind != .codebook { return nil }
        if !blob.scheme.hasRowCodebooks { return blob.codebook }
        writeCodebook(to: room)
        return UnsafePointer(room)
    }

    func writeCodebook(to values: UnsafeMutablePointer<Float>) {
        for code in 0..<16 { values[code] = codebookValue(code) }
    }

    func parameterIndex(_ packedGroup: Int) -> Int { packedGroup &* 16 &+ lane }
    var scales: UnsafeRawPointer { block + Int(blob.layout.scalesOffset) }
    var zeros: UnsafeRawPointer { block + Int(blob.layout.zerosOffset) }
    func zeroPoint(_ packedGroup: Int) -> UInt8 { zeros.load(fromByteOffset: parameterIndex(packedGroup), as: UInt8.self) }
}

@_optimize(speed)
public func unpack(_ blob: Blob, into tensor: QuantizedTensor, rows: Range<Int64>) {
    let type = tensor.scheme.scaleType
    for row in rows {
        let source = BlobRow(blob, row)
        unpackCodes(source, into: tensor.codesRow(Int(row)), k: Int(blob.layout.k))
        for group in 0..<Int(tensor.layout.groupsPerRow) {
            let from = source.parameterIndex(group) * type.size
            let target = tensor.groupIndex(Int(row), group)
            (tensor.scales + target * type.size).copyMemory(from: source.scales + from, byteCount: type.size)
            if let zeroPoints = tensor.zeroPoints { zeroPoints[target] = source.zeroPoint(group) }
            if let offsets = tensor.offsets {
                (offsets + target * type.size).copyMemory(from: source.zeros + from, byteCount: type.size)
            }
        }
    }
}

/// Rows' codebooks, or the tensor's for each row.
public func writeCodebooks(_ blob: Blob, to codebooks: UnsafeMutablePointer<Float>, rows: Range<Int64>) {
    for row in rows { BlobRow(blob, row).writeCodebook(to: codebooks + Int(row) &* 16) }
}

/// Writes a row's bytes; codes beyond k are zero in a blob, so what is left of the last byte is zero.
@_optimize(speed)
private func unpackCodes(_ row: BlobRow, into codes: UnsafeMutablePointer<UInt8>, k: Int) {
    let bytes = row.blob.scheme.width.bytes(k)
    for index in 0..<(bytes &+ 3) / 4 {
        let word = row.word(index)
        for byte in index &* 4..<min(index &* 4 &+ 4, bytes) {
            codes[byte] = UInt8(truncatingIfNeeded: word &>> (8 &* UInt32(truncatingIfNeeded: byte &- index &* 4)))
        }
    }
}

/// Dequantizes single rows: an embedding lookup.
public func gather(_ blob: Blob, rows: UnsafePointer<Int64>, count: Int64, into destination: Matrix,
                   _ kernels: i4q_kernels) {
    StackMemory<17>.use { memory in
        let floats = memory.assumingMemoryBound(to: Float.self)
        let decoder = RunDecoder(kernels: kernels, type: destination.type, floats: floats)
        for index in 0..<Int(count) {
            let row = BlobRow(blob, rows[index])
            dequantize(row, row.codebook(floats + RunDecoder.chunk), into: destination.mutableRow(index), decoder)
        }
    }
}

private func dequantize(_ row: BlobRow, _ codebook: UnsafePointer<Float>?, into destination: UnsafeMutableRawPointer, _ decoder: RunDecoder) {
    let layout = row.blob.layout
    let type = row.blob.scheme.scaleType
    for group in 0..<Int(layout.groupCount) {
        let begin = group * Int(layout.groupSize)
        let end = min(begin + Int(layout.groupSize), Int(layout.k))
        let hasOffset = row.blob.scheme.kind == .offset
        let decoding = row.blob.scheme.decoding(
            scale: type.load(row.scales, row.parameterIndex(group)),
            zeroPoint: row.blob.scheme.kind == .asymmetric ? row.zeroPoint(group) : 0,
            offset: hasOffset ? type.load(row.zeros, row.parameterIndex(group)) : 0,
            codebook: codebook)
        decode(row, decoding, begin, end, into: destination, decoder)
    }
}

/// 64 codes at a time through a small buffer of codes in order.
@_optimize(speed)
private func decode(_ row: BlobRow, _ decoding: i4q_decoding, _ begin: Int, _ end: Int,
                    into destination: UnsafeMutableRawPointer, _ decoder: RunDecoder) {
    withUnsafeTemporaryAllocation(byteCount: 64, alignment: 4) { buffer in
        let codes = buffer.baseAddress.unsafelyUnwrapped
        let perWord = row.blob.scheme.width.wordCodes
        var index = begin
        while index < end {
            let count = min(end - index, 64)
            for word in 0..<(count &+ perWord &- 1) / perWord {
                (codes + word &* 4).storeBytes(of: row.word(index / perWord &+ word), as: UInt32.self)
            }
            decoder.decode(decoding, codes.assumingMemoryBound(to: UInt8.self), count: count,
                           into: destination + index * decoder.type.size)
            index += count
        }
    }
}
