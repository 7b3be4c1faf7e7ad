// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

@_optimize(speed)
public func dequantize(_ layout: BlockLayout, _ blocks: UnsafeRawPointer, globalScale: Float, into destination: Matrix,
                       rows: Range<Int64>, _ kernels: i4q_kernels) throws(Failure) {
    let format = layout.format
    // Checked already; and -0 where a value has nothing added.
    let scheme = try Scheme(format.scheme)
    StackMemory<18>.use { memory in
        let codebook = (memory + RunDecoder.chunk * 4).assumingMemoryBound(to: Float.self)
        let codes = memory + RunDecoder.chunk * 4 + 64
        format.write(codebook: codebook)
        let decoder = RunDecoder(kernels: kernels, type: destination.type, floats: memory.assumingMemoryBound(to: Float.self))
        for row in rows {
            for index in 0..<layout.groupsPerRow {
                let group = layout.group(index, ofRow: Int(row), in: blocks)
                for eighth in 0..<format.groupSize / 8 { codes.storeBytes(of: group.codes(eighth), toByteOffset: 4 &* eighth, as: UInt32.self) }
                let decoding = scheme.decoding(scale: group.scale(globalScale), zeroPoint: 0, offset: group.offset, codebook: codebook)
                decoder.decode(decoding, codes.assumingMemoryBound(to: UInt8.self), count: format.groupSize,
                               into: destination.mutableRow(Int(row)) + index &* format.groupSize &* destination.type.size)
            }
        }
    }
}

@_optimize(speed)
public func convert(_ layout: BlockLayout, _ blocks: UnsafeRawPointer, globalScale: Float, to tensor: QuantizedTensor,
                    rows: Range<Int64>) throws(Failure) {
    let size = layout.format.groupSize
    let type = tensor.scheme.scaleType
    for row in rows {
        let codes = UnsafeMutableRawPointer(tensor.codesRow(Int(row)))
        for index in 0..<layout.groupsPerRow {
            let group = layout.group(index, ofRow: Int(row), in: blocks)
            for eighth in 0..<size / 8 {
                codes.storeBytes(of: group.codes(eighth), toByteOffset: index &* size / 2 &+ 4 &* eighth, as: UInt32.self)
            }
            let scale = group.scale(globalScale), offset = group.offset
            try requireFinite(scale, row, index &* size)
            try requireFinite(offset, row, index &* size)
            let target = tensor.groupIndex(Int(row), index)
            type.store(scale, tensor.scales, target)
            if let offsets = tensor.offsets { type.store(offset, offsets, target) }
        }
    }
}

private func requireFinite(_ value: Float, _ row: Int64, _ column: Int) throws(Failure) {
    if value.isFinite { return }
    throw Failure(INT4Q_ERROR_NOT_FINITE, "blocks", .element(row: row, column: Int64(column), value),
                  expected: "finite scales and minimums")
}

@_optimize(speed)
public func convert(_ tensor: QuantizedTensor, to layout: BlockLayout, _ blocks: UnsafeMutableRawPointer,
                    rows: Range<Int64>) throws(Failure) {
    for row in rows {
        let codes = UnsafeRawPointer(tensor.codesRow(Int(row)))
        for index in 0..<layout.groupsPerRow {
            let group = layout.group(index, ofRow: Int(row), in: blocks)
            try copyScales(tensor, Int(row), index, to: UnsafeMutableRawPointer(mutating: group.block), layout.format)
            for eighth in 0..<4 { group.set(codes: codes.loadUnaligned(fromByteOffset: index &* 16 &+ 4 &* eighth, as: UInt32.self), eighth) }
        }
    }
}

private func copyScales(_ tensor: QuantizedTensor, _ row: Int, _ group: Int, to block: UnsafeMutableRawPointer,
                        _ format: BlockFormat) throws(Failure) {
    let source = tensor.groupIndex(row, group)
    if format == .mxfp4 {
        let scale = tensor.scheme.scaleType.load(tensor.scales, source)
        guard let code = BlockGroup.e8m0(scale) else {
            throw Failure(INT4Q_ERROR_MISMATCH, "tensor.scales", .element(row: Int64(row), column: Int64(group), scale),
                          expected: "a power of two from 2^-128 to 2^127")
        }
        block.storeBytes(of: code, as: UInt8.self)
        return
    }
    block.copyMemory(from: tensor.scales + 2 &* source, byteCount: 2)
    if let offsets = tensor.offsets { (block + 2).copyMemory(from: offsets + 2 &* source, byteCount: 2) }
}
