// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// A caller's double-quantized scales that were checked.
public struct DoubleScales {
    public let count: Int64
    public let blockCount: Int64
    let blockSize: Int64
    let rounds: Bool
    let offset: Float
    let codes: UnsafeMutablePointer<UInt8>
    let nestedScales: UnsafeMutablePointer<Float>

    public init(_ raw: int4q_double_scales) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_double_scales.self, "doubled.struct_size")
        try requireZero(raw.reserved, "doubled.reserved")
        if raw.rule != int32(INT4Q_DOUBLE_NEAREST) && raw.rule != int32(INT4Q_DOUBLE_BITSANDBYTES) {
            throw .invalid("doubled.rule", Int64(raw.rule), expected: "one of INT4Q_DOUBLE_*")
        }
        let sizes = try DoubleSizes(count: raw.count, blockSize: raw.block_size)
        count = raw.count
        blockSize = raw.block_size
        blockCount = sizes.blockCount
        rounds = raw.rule == int32(INT4Q_DOUBLE_BITSANDBYTES)
        if !raw.offset.isFinite {
            throw Failure(INT4Q_ERROR_NOT_FINITE, "doubled.offset", .element(row: 0, column: 0, raw.offset), expected: "a finite offset")
        }
        offset = raw.offset
        codes = try require(raw.codes, "doubled.codes")
        try requireBytes(raw.codes_bytes, needed: sizes.codesBytes, "doubled.codes_bytes")
        nestedScales = try require(raw.nested_scales, "doubled.nested_scales")
        try requireBytes(raw.nested_scales_bytes, needed: sizes.nestedScalesBytes, "doubled.nested_scales_bytes")
    }

    func elements(of block: Int) -> Range<Int> {
        let begin = block * Int(blockSize)
        return begin..<begin + min(Int(blockSize), Int(count) - begin)
    }
}

public struct DoubleSizes {
    public let blockCount: Int64
    public let codesBytes: UInt64
    public let nestedScalesBytes: UInt64

    public init(count: Int64, blockSize: Int64) throws(Failure) {
        try requireAtLeast(count, 1, "count")
        try requireAtLeast(blockSize, 1, "block_size")
        blockCount = (count - 1) / blockSize + 1
        codesBytes = UInt64(count)
        nestedScalesBytes = try CheckedSize(UInt64(blockCount), "count", argument: count).times(4).value
    }
}

/// The mean of a list, in order, in binary64.
@inline(never)
public func mean(_ scales: Matrix, _ kernels: i4q_kernels) throws(Failure) -> Float {
    var sum = 0.0
    try FloatRuns.with(scales, "scales", kernels) { (runs) throws(Failure) in
        var column = 0
        while column < scales.columns {
            let count = runs.load(0, column)
            _ = try runs.range(count, 0, column)
            for index in 0..<count { sum += Double(runs.floats[index]) }
            column += count
        }
    }
    return Float(sum / Double(scales.columns))
}

@inline(never)
public func quantize(_ target: DoubleScales, _ scales: Matrix, blocks: Range<Int64>, _ kernels: i4q_kernels) throws(Failure) {
    try FloatRuns.with(scales, "scales", kernels) { (runs) throws(Failure) in
        try StackMemory<80>.use { (memory) throws(Failure) in // 256 floats, and twice as many and 1024 bytes
            let map = memory.assumingMemoryBound(to: Float.self)
            DynamicMap.write(to: map)
            let edges = DynamicMapEdges(map, in: map + DynamicMap.count)
            let steps = DynamicMapSteps(edges, in: memory + DynamicMap.count * 4 + DynamicMapEdges.bytes)
            let quantizer = DoubleQuantizer(target: target, runs: runs, edges: edges, steps: steps)
            for block in blocks { try quantizer.quantize(Int(block)) }
        }
    }
}

private struct DoubleQuantizer {
    let target: DoubleScales
    let runs: FloatRuns
    let edges: DynamicMapEdges
    let steps: DynamicMapSteps

    func quantize(_ block: Int) throws(Failure) {
        let elements = target.elements(of: block)
        let nested = try largest(elements)
        target.nestedScales[block] = nested
        if nested == 0 {
            for index in elements { target.codes[index] = 0 }
            return
        }
        var begin = elements.lowerBound
        while begin < elements.upperBound {
            let count = min(elements.upperBound - begin, FloatRuns.length)
            if elements.count > FloatRuns.length { _ = load(begin, count) } // else it is still there
            encode(count, nested, target.codes + begin)
            begin += count
        }
    }

    private func largest(_ elements: Range<Int>) throws(Failure) -> Float {
        var largest: UInt32 = 0
        var begin = elements.lowerBound
        while begin < elements.upperBound {
            let count = min(elements.upperBound - begin, FloatRuns.length)
            let magnitude = load(begin, count)
            if magnitude >= Float.infinity.bitPattern { throw notFinite(begin, count) }
            largest = max(largest, magnitude)
            begin += count
        }
        return Float(bitPattern: largest)
    }

    /// Distances from the offset into the buffer; the bits of the largest magnitude.
    private func load(_ begin: Int, _ count: Int) -> UInt32 {
        _ = runs.load(0, begin, count: count)
        for index in count..<runs.padded(count) { runs.floats[index] = target.offset }
        return i4q_shift_run(runs.floats, Int64(runs.padded(count)), target.offset)
    }

    private func notFinite(_ begin: Int, _ count: Int) -> Failure {
        var index = 0
        while index < count - 1 && runs.floats[index].isFinite { index += 1 }
        return runs.notFinite(runs.source.type.load(runs.source.row(0), begin + index), 0, begin + index)
    }

    @inline(never)
    private func encode(_ count: Int, _ nested: Float, _ codes: UnsafeMutablePointer<UInt8>) {
        let reciprocal = 1 / nested
        if !reciprocal.isFinite { // of a denormal
            for index in 0..<count { codes[index] = edges.code(runs.floats[index] / nested) }
        } else if target.rounds {
            for index in 0..<count { codes[index] = steps.code(runs.floats[index] * reciprocal) }
        } else {
            for index in 0..<count { codes[index] = edges.code(runs.floats[index] * reciprocal) }
        }
    }
}

@inline(never)
public func dequantize(_ source: DoubleScales, into scales: Matrix, blocks: Range<Int64>, _ kernels: i4q_kernels) {
    StackMemory<32>.use { memory in
        let map = memory.assumingMemoryBound(to: Float.self)
        let floats = map + DynamicMap.count
        DynamicMap.write(to: map)
        for block in blocks {
            let nested = source.nestedScales[Int(block)]
            var begin = source.elements(of: Int(block)).lowerBound
            let end = source.elements(of: Int(block)).upperBound
            while begin < end {
                let count = min(end - begin, FloatRuns.length)
                for index in 0..<count {
                    let product = map[Int(source.codes[begin &+ index])] * nested
                    floats[index] = product + source.offset
                }
                kernels.store.unsafelyUnwrapped(floats, Int64(count), Int64(scales.type.raw),
                                                scales.mutableRow(0) + begin * scales.type.size)
                begin += count
            }
        }
    }
}
