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

@inline(never)
public func quantize(_ tensor: TwinTensor, _ source: Matrix, rows: Range<Int64>, _ kernels: i4q_kernels) throws(Failure) {
    try FloatRuns.with(source, "source", kernels) { (runs) throws(Failure) in
        let quantizer = TwinQuantizer(tensor: tensor, runs: runs)
        if tensor.layout.groupSize > QuantizingMemory.blockColumns {
            for row in rows { try quantizer.quantizeLong(Int(row)) }
            return
        }
        try QuantizingMemory.use { (memory) throws(Failure) in
            var scheme = tensor.scheme.blockQuantization(groupSize: tensor.layout.groupSize, table: nil)
            scheme.kind = Int64(I4Q_KIND_TWIN)
            let target = RowBlockTarget(layout: tensor.layout, codes: tensor.codes, scaleSize: tensor.scheme.scaleType.size,
                                        scales: tensor.negative, offsets: tensor.positive, zeroPoints: nil)
            try RowBlockQuantizer(careful: quantizer, target: target, source: source, kernels: kernels, memory: memory, scheme: scheme)
                .quantize(Int(rows.lowerBound)..<Int(rows.upperBound))
        }
    }
}

private struct TwinQuantizer: CarefulQuantizer {
    let tensor: TwinTensor
    let runs: FloatRuns

    func quantize(_ row: Int, _ group: Int) throws(Failure) {
        let column = group * tensor.layout.groupSize
        let count = runs.load(row, column, count: min(tensor.layout.groupSize, runs.source.columns - column))
        let range = try runs.range(count, row, column)
        encode(0, count, try twin(range.min, range.max, row, column, tensor.groupIndex(row, group)), row, column)
    }

    /// One group, the row.
    func quantizeLong(_ row: Int) throws(Failure) {
        var least = Float.infinity, largest = -Float.infinity
        var column = 0
        while column < runs.source.columns {
            let count = runs.load(row, column)
            let range = try runs.range(count, row, column)
            least = min(least, range.min)
            largest = max(largest, range.max)
            column += count
        }
        let twin = try twin(least, largest, row, 0, row)
        column = 0
        while column < runs.source.columns {
            let count = runs.load(row, column)
            encode(0, count, twin, row, column)
            column += count
        }
    }

    /// Stores a group's scales; how its values become codes.
    @inline(never)
    private func twin(_ least: Float, _ largest: Float, _ row: Int, _ column: Int, _ index: Int) throws(Failure) -> i4q_twin {
        let above = max(largest, 0)
        let negative = try rounded(max(-least, 0) / 8, row, column)
        let positive = try rounded(least == largest ? above : above / 7, row, column)
        tensor.scheme.scaleType.store(negative, tensor.negative, index)
        tensor.scheme.scaleType.store(positive, tensor.positive, index)
        // What is divided by infinity is zero.
        return i4q_twin(first: negative == 0 ? .infinity : negative, second: positive == 0 ? .infinity : positive, split: 0,
                        is_gelu: 1, by_error: 0)
    }

    @inline(never)
    private func rounded(_ scale: Float, _ row: Int, _ column: Int) throws(Failure) -> Float {
        let stored = tensor.scheme.scaleType.rounded(scale) + 0 // a zero without a sign
        if stored.isFinite { return stored }
        throw Failure(INT4Q_ERROR_NOT_FINITE, "source", .element(row: Int64(row), column: Int64(column), stored),
                      expected: "a group whose scales fit tensor.scale_type")
    }

    private func encode(_ begin: Int, _ count: Int, _ twin: i4q_twin, _ row: Int, _ column: Int) {
        Int4QCore.encode(twin, runs.floats + begin, count, through: runs.room.assumingMemoryBound(to: UInt8.self),
                         tensor.codesRow(row) + (column + begin) / 2)
    }
}

// MARK: Dequantizing

@inline(never)
public func dequantize(_ tensor: TwinTensor, into destination: Matrix, rows: Range<Int64>, _ kernels: i4q_kernels) {
    StackMemory<16>.use { memory in
        let floats = memory.assumingMemoryBound(to: Float.self)
        for row in rows { tensor.dequantize(Int(row), into: destination, floats, kernels) }
    }
}

extension TwinTensor {
    fileprivate func dequantize(_ row: Int, into destination: Matrix, _ floats: UnsafeMutablePointer<Float>,
                                _ kernels: i4q_kernels) {
        var steps = i4q_decoding(scale: 1, offset: -0.0, zero: 8, codebook: nil)
        var column = 0
        while column < destination.columns {
            let count = min(destination.columns - column, FloatRuns.length)
            for place in count..<(count + 15) & ~15 { floats[place] = 0 }
            kernels.decode.unsafelyUnwrapped(&steps, codesRow(row) + column / 2, Int64(count), floats)
            scale(floats, count, row, column)
            kernels.store.unsafelyUnwrapped(floats, Int64(count), Int64(destination.type.raw),
                                            destination.mutableRow(row) + column * destination.type.size)
            column += count
        }
    }

    /// Steps of a run to values, group by group.
    @inline(never)
    private func scale(_ floats: UnsafeMutablePointer<Float>, _ count: Int, _ row: Int, _ column: Int) {
        var begin = 0
        while begin < count {
            let length = min(layout.groupSize, count - begin)
            let index = groupIndex(row, (column + begin) / layout.groupSize)
            i4q_twin_scale_run(floats + begin, Int64((length + 15) & ~15), scheme.scaleType.load(negative, index),
                               scheme.scaleType.load(positive, index))
            begin += length
        }
    }
}
