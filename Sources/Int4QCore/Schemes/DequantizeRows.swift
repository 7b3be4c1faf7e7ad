// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// The values of one group of codes. Kinds without an offset have -0, which adds nothing, not even a sign.
extension Scheme {
    func decoding(scale: Float, zeroPoint: UInt8, offset: Float, codebook: UnsafePointer<Float>?) -> i4q_decoding {
        var decoding = i4q_decoding(scale: scale, offset: -0.0, zero: 0, codebook: nil)
        decoding.code_bits = Int32(truncatingIfNeeded: width.bits)
        switch kind {
        case .symmetric: decoding.zero = width.middle
        case .asymmetric: decoding.zero = Int32(zeroPoint)
        case .offset: decoding.offset = offset
        case .codebook: decoding.codebook = codebook
        case .binary:
            decoding.shift = 1
            decoding.zero = 1
        case .ternary: decoding.zero = 1
        }
        return decoding
    }
}

extension i4q_decoding {
    /// Nibbles.
    init(scale: Float, offset: Float, zero: Int32, codebook: UnsafePointer<Float>?) {
        self.init(scale: scale, offset: offset, zero: zero, codebook: codebook, code_bits: 4, shift: 0)
    }
}

/// Decodes a run of codes into a destination of any type, through a small buffer.
struct RunDecoder {
    static let chunk = 256
    let kernels: i4q_kernels
    let type: ElementType
    let floats: UnsafeMutablePointer<Float>

    /// `codes` starts at a whole byte.
    @_optimize(speed)
    func decode(_ decoding: i4q_decoding, _ codes: UnsafePointer<UInt8>, count: Int, into destination: UnsafeMutableRawPointer) {
        var decoding = decoding
        var index = 0
        while index < count {
            let part = min(count - index, RunDecoder.chunk)
            kernels.decode.unsafelyUnwrapped(&decoding, codes + index &* Int(decoding.code_bits) / 8, Int64(part), floats)
            kernels.store.unsafelyUnwrapped(floats, Int64(part), Int64(type.raw), destination + index * type.size)
            index += part
        }
    }
}

public func dequantize(_ tensor: QuantizedTensor, into destination: Matrix, rows: Range<Int64>,
                       _ kernels: i4q_kernels) {
    StackMemory<16>.use { memory in
        let floats = memory.assumingMemoryBound(to: Float.self)
        let decoder = RunDecoder(kernels: kernels, type: destination.type, floats: floats)
        for row in rows { dequantize(tensor, Int(row), destination.mutableRow(Int(row)), decoder) }
    }
}

@_optimize(speed)
private func dequantize(_ tensor: QuantizedTensor, _ row: Int, _ destination: UnsafeMutableRawPointer, _ decoder: RunDecoder) {
    let type = tensor.scheme.scaleType
    for group in 0..<Int(tensor.layout.groupsPerRow) {
        let begin = group * tensor.layout.groupSize
        let end = min(begin + tensor.layout.groupSize, Int(tensor.layout.k))
        let index = tensor.groupIndex(row, group)
        let decoding = tensor.scheme.decoding(scale: type.loadInline(tensor.scales, index),
                                              zeroPoint: tensor.zeroPoints?[index] ?? 0,
                                              offset: tensor.offsets.map { type.loadInline($0, index) } ?? 0,
                                              codebook: tensor.codebook(row))
        decoder.decode(decoding, tensor.codesRow(row) + tensor.scheme.width.bytes(begin), count: end - begin,
                       into: destination + begin * decoder.type.size)
    }
}
