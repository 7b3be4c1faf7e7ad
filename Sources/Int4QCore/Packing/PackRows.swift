// SPDX-License-Identifier: Apache-2.0
import CInt4Q

// Between a tensor's rows of nibbles and a blob's blocks of lanes.

/// Eight codes in order of k, low nibble first -> a packed lane (see BlobLayout's figure).
@inline(__always)
func laneFromCodes(_ codes: UInt32) -> UInt32 { gatherEven(codes) | gatherEven(codes &>> 4) &<< 16 }

/// The inverse.
@inline(__always)
func codesFromLane(_ lane: UInt32) -> UInt32 { spreadEven(lane & 0xffff) | spreadEven(lane &>> 16) &<< 4 }

/// Nibbles 0, 2, 4, 6 -> 16 bits.
@inline(__always)
private func gatherEven(_ word: UInt32) -> UInt32 {
    var even = word & 0x0f0f_0f0f
    even = (even | even &>> 4) & 0x00ff_00ff
    return (even | even &>> 8) & 0xffff
}

@inline(__always)
private func spreadEven(_ word: UInt32) -> UInt32 {
    let bytes = (word | word &<< 8) & 0x00ff_00ff
    return (bytes | bytes &<< 4) & 0x0f0f_0f0f
}

extension CodeWidth {
    /// Stores a row's `index`-th 32 bits of codes in its lane, which is zero.
    @inline(__always)
    func put(_ word: UInt32, _ index: Int, lane: UnsafeMutableRawPointer) {
        switch bits {
        case 4: (lane + index &* 64).storeBytes(of: laneFromCodes(word), as: UInt32.self)
        case 8: putBytes(word, half: index & 1, lane + index / 2 &* 128)
        default: (lane + index &* 64).storeBytes(of: laneOrder(word, bits: bits), as: UInt32.self)
        }
    }

    /// The inverse.
    @inline(__always)
    func word(_ index: Int, lane: UnsafeRawPointer) -> UInt32 {
        switch bits {
        case 4: codesFromLane((lane + index &* 64).load(as: UInt32.self))
        case 8: bytes(half: index & 1, lane + index / 2 &* 128)
        default: naturalOrder((lane + index &* 64).load(as: UInt32.self), bits: bits)
        }
    }

    /// Four bytes, the first or the last of eight neighbours: the first two in one lane, the others in the lane behind it.
    @inline(__always)
    private func putBytes(_ word: UInt32, half: Int, _ lane: UnsafeMutableRawPointer) {
        for byte in 0..<4 {
            let code = UInt8(truncatingIfNeeded: word &>> (8 &* UInt32(truncatingIfNeeded: byte)))
            lane.storeBytes(of: code, toByteOffset: byte / 2 &* 64 &+ (byte & 1) &* 2 &+ half, as: UInt8.self)
        }
    }

    @inline(__always)
    private func bytes(half: Int, _ lane: UnsafeRawPointer) -> UInt32 {
        var word: UInt32 = 0
        for byte in 0..<4 {
            let code = lane.load(fromByteOffset: byte / 2 &* 64 &+ (byte & 1) &* 2 &+ half, as: UInt8.self)
            word |= UInt32(code) &<< (8 &* UInt32(truncatingIfNeeded: byte))
        }
        return word
    }
}

extension BlobLayout {
    /// Of a row that has one of its own.
    func store(codebook: UnsafePointer<Float>?, lane: Int, in block: UnsafeMutableRawPointer) {
        guard codebooksOffset != 0, let codebook else { return }
        let column = block + Int(codebooksOffset) + lane * 4
        for code in 0..<16 { column.storeBytes(of: codebook[code], toByteOffset: code * 64, as: Float.self) }
    }

    func storeChecksum(of index: Int64, in blob: UnsafeMutableRawPointer) {
        let sum = checksum(block(index, in: blob), count: Int(blockBytes))
        (blob + Int(checksumsOffset)).storeBytes(of: sum, toByteOffset: Int(index) * 8, as: UInt64.self)
    }
}

public struct BlobPacker {
    let tensor: QuantizedTensor
    let layout: BlobLayout
    let blob: UnsafeMutableRawPointer

    public init(_ tensor: QuantizedTensor, into blob: UnsafeMutableRawPointer, _ layout: BlobLayout) {
        self.tensor = tensor
        self.layout = layout
        self.blob = blob
    }

    public func pack(rows: Range<Int64>) throws(Failure) {
        if rows.isEmpty { return }
        for block in rows.lowerBound / BlobLayout.blockRows..<(rows.upperBound - 1) / BlobLayout.blockRows + 1 {
            try pack(block)
        }
        if rows.lowerBound == 0 {
            BlobHeader.writeStart(tensor.scheme, layout, codebook: tensor.scheme.hasRowCodebooks ? nil : tensor.codebook(0), to: blob)
        }
    }

    private func pack(_ index: Int64) throws(Failure) {
        let block = UnsafeMutableRawPointer(mutating: layout.block(index, in: blob))
        block.initializeMemory(as: UInt8.self, repeating: 0, count: Int(layout.blockBytes))
        let first = Int(index * BlobLayout.blockRows)
        let count = min(Int(BlobLayout.blockRows), Int(layout.n) - first)
        for lane in 0..<count {
            try packCodes(first + lane, block + lane * 4)
            try packParameters(first + lane, block, lane)
            layout.store(codebook: tensor.codebook(first + lane), lane: lane, in: block)
        }
        layout.storeChecksum(of: index, in: blob)
    }

    @_optimize(speed)
    private func packCodes(_ row: Int, _ lane: UnsafeMutableRawPointer) throws(Failure) {
        let width = tensor.scheme.width, k = Int(layout.k)
        let source = UnsafeRawPointer(tensor.codesRow(row))
        let whole = k / width.wordCodes
        var excess: UInt32 = 0
        for index in 0..<whole {
            let word = (source + index &* 4).loadUnaligned(as: UInt32.self)
            excess |= word & word &>> 1
            width.put(word, index, lane: lane)
        }
        let left = k &- whole &* width.wordCodes
        if left > 0 {
            var word: UInt32 = 0
            for byte in 0..<width.bytes(left) {
                word |= UInt32(source.load(fromByteOffset: whole &* 4 &+ byte, as: UInt8.self)) &<< (8 &* UInt32(truncatingIfNeeded: byte))
            }
            word &= (1 &<< UInt32(truncatingIfNeeded: left &* width.bits)) &- 1
            excess |= word & word &>> 1
            width.put(word, whole, lane: lane)
        }
        if tensor.scheme.kind == .ternary && excess & 0x5555_5555 != 0 {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "tensor.codes", .block(row: Int64(row)), expected: "TERNARY's codes, 0 to 2")
        }
    }

    private func packParameters(_ row: Int, _ block: UnsafeMutableRawPointer, _ lane: Int) throws(Failure) {
        let type = tensor.scheme.scaleType
        for packedGroup in 0..<Int(layout.groupCount) {
            let group = tensor.scheme.isPerRow ? 0 : packedGroup
            let source = tensor.groupIndex(row, group)
            let target = packedGroup * 16 + lane
            try copyFinite(tensor.scales, source, block + Int(layout.scalesOffset), target, type, row, group, "tensor.scales")
            let zeros = block + Int(layout.zerosOffset)
            if let zeroPoints = tensor.zeroPoints {
                try requireZeroPoint(zeroPoints[source], row, group)
                zeros.storeBytes(of: zeroPoints[source], toByteOffset: target, as: UInt8.self)
            }
            if let offsets = tensor.offsets {
                try copyFinite(offsets, source, zeros, target, type, row, group, "tensor.offsets")
            }
        }
    }

    private func copyFinite(_ values: UnsafeRawPointer, _ index: Int, _ target: UnsafeMutableRawPointer, _ targetIndex: Int,
                            _ type: ElementType, _ row: Int, _ group: Int, _ name: Text) throws(Failure) {
        let value = type.load(values, index)
        if !value.isFinite {
            throw Failure(INT4Q_ERROR_NOT_FINITE, name, .element(row: Int64(row), column: Int64(group), value), expected: "finite values")
        }
        (target + targetIndex * type.size).copyMemory(from: values + index * type.size, byteCount: type.size)
    }

    private func requireZeroPoint(_ zeroPoint: UInt8, _ row: Int, _ group: Int) throws(Failure) {
        let largest = tensor.scheme.width.largest
        if Int32(zeroPoint) > largest {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "tensor.zero_points",
                          .element(row: Int64(row), column: Int64(group), Float(zeroPoint)), expected: "at most", bound: UInt64(largest))
        }
    }
}
