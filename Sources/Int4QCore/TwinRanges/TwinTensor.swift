// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// A caller's twin-scale tensor that was checked.
public struct TwinTensor {
    public let layout: TensorLayout
    let scheme: Scheme
    let raw: int4q_twin_tensor
    let codes: UnsafeMutablePointer<UInt8>
    let negative: UnsafeMutableRawPointer
    let positive: UnsafeMutableRawPointer

    public init(_ raw: int4q_twin_tensor) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_twin_tensor.self, "tensor.struct_size")
        try requireZero(raw.reserved, "tensor.reserved")
        var scheme = int4q_scheme()
        scheme.kind = int32(INT4Q_KIND_SYMMETRIC)
        scheme.group_size = raw.group_size
        scheme.scale_type = raw.scale_type
        self.scheme = try Scheme(scheme)
        layout = try TensorLayout(self.scheme, n: raw.n, k: raw.k)
        let size = self.scheme.scaleType.size
        codes = try require(raw.codes, "tensor.codes", alignment: 1).assumingMemoryBound(to: UInt8.self)
        try requireBytes(raw.codes_bytes, needed: layout.codesBytes, "tensor.codes_bytes")
        negative = try require(raw.scales_negative, "tensor.scales_negative", alignment: size)
        try requireBytes(raw.scales_negative_bytes, needed: layout.scalesBytes, "tensor.scales_negative_bytes")
        positive = try require(raw.scales_positive, "tensor.scales_positive", alignment: size)
        try requireBytes(raw.scales_positive_bytes, needed: layout.scalesBytes, "tensor.scales_positive_bytes")
        self.raw = raw
    }

    func codesRow(_ row: Int) -> UnsafeMutablePointer<UInt8> { codes + row &* Int(layout.codesRowBytes) }
    func groupIndex(_ row: Int, _ group: Int) -> Int { row &* Int(layout.groupsPerRow) &+ group }

    func elements(of group: Int) -> Range<Int> {
        let begin = group * layout.groupSize
        return begin..<begin + min(layout.groupSize, Int(layout.k) - begin)
    }

    /// Codebook tensors over the same codes, of which one has the negative and one the positive weights.
    public func write(negative: UnsafeMutablePointer<int4q_tensor>, positive: UnsafeMutablePointer<int4q_tensor>) {
        write(raw.scales_negative, raw.scales_negative_bytes, i4q_half_of_steps(0), to: negative)
        write(raw.scales_positive, raw.scales_positive_bytes, i4q_half_of_steps(1), to: positive)
    }

    private func write(_ scales: UnsafeMutableRawPointer?, _ scalesBytes: UInt64, _ codebook: UnsafePointer<Float>?,
                       to tensor: UnsafeMutablePointer<int4q_tensor>) {
        var result = int4q_tensor()
        result.struct_size = tensor.pointee.struct_size
        result.scheme.kind = int32(INT4Q_KIND_CODEBOOK)
        result.scheme.group_size = raw.group_size
        result.scheme.scale_type = raw.scale_type
        result.n = raw.n
        result.k = raw.k
        result.codes = raw.codes
        result.codes_bytes = raw.codes_bytes
        result.scales = scales
        result.scales_bytes = scalesBytes
        result.codebook = codebook
        tensor.pointee = result
    }
}

// MARK: Quantizing

public func quantize(_ tensor: TwinTensor, _ source: Matrix, rows: Range<Int64>, _ kernels: i4q_kernels) throws(Failure) {
    try FloatRuns.with(source, "source", kernels, room: FloatRuns.length) { (runs) throws(Failure) in
        let quantizer = TwinQuantizer(tensor: tensor, runs: runs)
        for row in rows {
            for group in 0..<Int(tensor.layout.groupsPerRow) { try quantizer.quantize(Int(row), group) }
        }
    }
}

private struct TwinQuantizer {
    let tensor: TwinTensor
    let runs: FloatRuns

    private var below: UnsafeMutablePointer<UInt8> { runs.room.assumingMemoryBound(to: UInt8.self) }
    private var above: UnsafeMutablePointer<UInt8> { below + FloatRuns.length / 2 }

    func quantize(_ row: Int, _ group: Int) throws(Failure) {
        let elements = tensor.elements(of: group)
        let range = try findRange(row, elements)
        let negative = try rounded(max(-range.min, 0) / 8, row, elements)
        let isConstant = range.min == range.max
        let positive = try rounded(isConstant ? max(range.max, 0) : max(range.max, 0) / 7, row, elements)
        let index = tensor.groupIndex(row, group)
        tensor.scheme.scaleType.store(negative, tensor.negative, index)
        tensor.scheme.scaleType.store(positive, tensor.positive, index)
        encode(row, elements, negative, positive)
    }

    private func findRange(_ row: Int, _ elements: Range<Int>) throws(Failure) -> (min: Float, max: Float) {
        var least = Float.infinity, largest = -Float.infinity
        var column = elements.lowerBound
        while column < elements.upperBound {
            let count = runs.load(row, column, count: min(elements.upperBound - column, FloatRuns.length))
            let range = try runs.range(count, row, column)
            least = min(least, range.min)
            largest = max(largest, range.max)
            column += count
        }
        return (least, largest)
    }

    private func rounded(_ scale: Float, _ row: Int, _ elements: Range<Int>) throws(Failure) -> Float {
        let stored = tensor.scheme.scaleType.rounded(scale) + 0 // a zero without a sign
        if stored.isFinite { return stored }
        throw Failure(INT4Q_ERROR_NOT_FINITE, "source",
                      .element(row: Int64(row), column: Int64(elements.lowerBound), stored),
                      expected: "a group whose scales fit tensor.scale_type")
    }

    private func encode(_ row: Int, _ elements: Range<Int>, _ negative: Float, _ positive: Float) {
        var column = elements.lowerBound
        while column < elements.upperBound {
            let count = min(elements.upperBound - column, FloatRuns.length)
            if elements.count > FloatRuns.length { _ = runs.load(row, column, count: count) } // else it is still there
            encodeHalf(count, negative, low: 0, high: 8, below)
            encodeHalf(count, positive, low: 8, high: 15, above)
            join(count, tensor.codesRow(row) + column / 2)
            column += count
        }
    }

    /// Codes of the values on one side of zero; 8 for the others.
    private func encodeHalf(_ count: Int, _ scale: Float, low: Int32, high: Int32, _ codes: UnsafeMutablePointer<UInt8>) {
        if scale == 0 {
            for index in 0..<count / 2 { codes[index] = 0x88 }
            if count & 1 == 1 { codes[count / 2] = 8 }
            return
        }
        var encoding = i4q_encoding(scale: scale, offset: 0, gain: 1, zero: 8, low: low, high: high, reciprocal: 0,
                                    ggml_bias: 0, table: nil)
        runs.kernels.encode.unsafelyUnwrapped(&encoding, runs.floats, Int64(count), codes)
    }

    /// One of two nibbles is 8, so their sum less 8 is the other.
    private func join(_ count: Int, _ codes: UnsafeMutablePointer<UInt8>) {
        for index in 0..<count / 2 { codes[index] = below[index] &+ above[index] &- 0x88 }
        if count & 1 == 1 { codes[count / 2] = (below[count / 2] &+ above[count / 2] &- 8) & 15 }
    }
}

// MARK: Dequantizing

public func dequantize(_ tensor: TwinTensor, into destination: Matrix, rows: Range<Int64>, _ kernels: i4q_kernels) {
    withUnsafeTemporaryAllocation(byteCount: FloatRuns.length * 4, alignment: 64) { buffer in
        let floats = buffer.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: Float.self)
        for row in rows {
            for group in 0..<Int(tensor.layout.groupsPerRow) {
                tensor.dequantize(Int(row), group, into: destination, floats, kernels)
            }
        }
    }
}

extension TwinTensor {
    fileprivate func dequantize(_ row: Int, _ group: Int, into destination: Matrix, _ floats: UnsafeMutablePointer<Float>,
                                _ kernels: i4q_kernels) {
        let index = groupIndex(row, group), type = scheme.scaleType
        let negativeScale = type.load(negative, index), positiveScale = type.load(positive, index)
        var column = elements(of: group).lowerBound
        let end = elements(of: group).upperBound
        while column < end {
            let count = min(end - column, FloatRuns.length), padded = (count + 15) & ~15
            for place in count..<padded { floats[place] = 0 }
            var steps = i4q_decoding(scale: 1, offset: -0.0, zero: 8, codebook: nil)
            kernels.decode.unsafelyUnwrapped(&steps, codesRow(row) + column / 2, Int64(count), floats)
            i4q_twin_scale_run(floats, Int64(padded), negativeScale, positiveScale)
            kernels.store.unsafelyUnwrapped(floats, Int64(count), Int64(destination.type.raw),
                                            destination.mutableRow(row) + column * destination.type.size)
            column += count
        }
    }
}
