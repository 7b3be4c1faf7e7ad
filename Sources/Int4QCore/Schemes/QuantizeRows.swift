// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Where a quantizer's results go: a tensor, or a blob.
protocol QuantizationSink {
    var scheme: Scheme { get }
    /// CODEBOOK's alone: the row's own, or the tensor's.
    func codebook(_ row: Int) -> UnsafePointer<Float>?
    /// Parameters of a group of the scheme, all finite.
    func put(_ parameters: GroupParameters, row: Int, group: Int)
    /// SCALE_GIVEN alone: what the caller put there.
    func given(row: Int, group: Int) -> GivenParameters
    /// `count` codes from a column on that begins 32 bits of codes, packed as in tensors, unused bits zero.
    func put(_ codes: UnsafePointer<UInt8>, count: Int, row: Int, column: Int)
}

/// What quantizing rows needs besides: a run's floats and codes, a table, the kernels' scratch, and a piece of a block.
struct QuantizingMemory {
    private let base: UnsafeMutableRawPointer

    static func use(_ body: (QuantizingMemory) throws(Failure) -> Void) throws(Failure) {
        try StackMemory<625>.use { (base) throws(Failure) in try body(QuantizingMemory(base: base)) }
    }

    static var blockColumns: Int { 256 }

    var scratch: UnsafeMutableRawPointer { base }
    /// 4096 bytes, for 16 rows of 256 columns.
    var block: UnsafeMutableRawPointer { base + Int(I4Q_QUANTIZING_SCRATCH) }
    var floats: UnsafeMutablePointer<Float> { (block + 4096).assumingMemoryBound(to: Float.self) }
    var codes: UnsafeMutablePointer<UInt8> { (block + 4096 + 1024).assumingMemoryBound(to: UInt8.self) }
    /// 192 bytes.
    var table: UnsafeMutableRawPointer { block + 4096 + 1024 + 256 }
}

/// Quantizes rows of a matrix, a group at a time, through buffers that hold the largest fixed group.
struct RowQuantizer<Sink: QuantizationSink> {
    /// Floats handled at once; a group of up to this length is loaded only once.
    static var chunk: Int { 256 }

    let sink: Sink
    let source: Matrix
    let kernels: i4q_kernels
    let floats: UnsafeMutablePointer<Float>
    let codes: UnsafeMutablePointer<UInt8>
    /// CODEBOOK's, of the row that was begun, and BINARY's.
    let table: UnsafePointer<i4q_code_table>?

    /// `row` is the first one that it begins with.
    init(_ sink: Sink, _ source: Matrix, from row: Int, _ kernels: i4q_kernels, _ memory: QuantizingMemory) {
        self.sink = sink
        self.source = source
        self.kernels = kernels
        floats = memory.floats
        codes = memory.codes
        table = sink.scheme.kind == .binary ? makeSignTable(at: memory.table)
            : sink.codebook(row).map { sink.scheme.makeTable($0, at: memory.table) }
    }

    /// Before a row's groups: makes the table of its codebook, if it has one of its own.
    func begin(_ row: Int) {
        guard sink.scheme.hasRowCodebooks, let table, let codebook = sink.codebook(row) else { return }
        _ = sink.scheme.makeTable(codebook, at: UnsafeMutableRawPointer(mutating: table))
    }

    func quantize(_ row: Int, _ group: Int) throws(Failure) { put(try parameters(row, group), row, group) }

    @inline(never)
    func put(_ parameters: GroupParameters, _ row: Int, _ group: Int) {
        let columns = columns(group)
        if !sink.scheme.hasGivenScales { sink.put(parameters, row: row, group: group) }
        encode(parameters, row, columns.lowerBound, columns.upperBound)
    }

    func columns(_ group: Int) -> Range<Int> {
        let size = Int(sink.scheme.groupSize(k: Int64(source.columns)))
        return group * size..<min(group * size + size, source.columns)
    }

    /// What a group would store, and how its codes would be chosen.
    @inline(never)
    func parameters(_ row: Int, _ group: Int) throws(Failure) -> GroupParameters {
        let columns = columns(group)
        let range = try findRange(row, columns.lowerBound, columns.upperBound)
        if sink.scheme.hasGivenScales {
            let given = sink.given(row: row, group: group)
            try require(given, row, group)
            return sink.scheme.parameters(given, range, table: table)
        }
        let parameters = sink.scheme.parameters(for: range, table: table)
        try requireFits(parameters.scale, row, columns.lowerBound)
        try requireFits(parameters.offset, row, columns.lowerBound)
        return parameters
    }

    func load(_ row: Int, _ begin: Int, _ count: Int) {
        let pointer = source.row(row) + begin * source.type.size
        kernels.load.unsafelyUnwrapped(pointer, Int64(source.type.raw), Int64(count), floats)
    }

    private func require(_ given: GivenParameters, _ row: Int, _ group: Int) throws(Failure) {
        let largest = sink.scheme.width.largest
        if !given.scale.isFinite || !given.offset.isFinite {
            throw Failure(INT4Q_ERROR_NOT_FINITE, given.scale.isFinite ? "tensor.offsets" : "tensor.scales",
                          .element(row: Int64(row), column: Int64(group), given.scale.isFinite ? given.offset : given.scale),
                          expected: "finite values")
        }
        if Int32(given.zeroPoint) > largest {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "tensor.zero_points",
                          .element(row: Int64(row), column: Int64(group), Float(given.zeroPoint)), expected: "at most", bound: UInt64(largest))
        }
    }

    // MARK: Range

    @inline(never)
    @_optimize(speed)
    private func findRange(_ row: Int, _ begin: Int, _ end: Int) throws(Failure) -> GroupRange {
        var range = GroupRange(min: .infinity, max: -.infinity)
        var sums = SIMD4<Double>(repeating: 0)
        var index = begin
        while index < end {
            let count = min(end - index, RowQuantizer.chunk)
            load(row, index, count)
            var part = i4q_group_range()
            kernels.group_range.unsafelyUnwrapped(floats, Int64(count), &part)
            if part.first_not_finite >= 0 {
                let column = Int64(index) + part.first_not_finite
                throw Failure(INT4Q_ERROR_NOT_FINITE, "source",
                              .element(row: Int64(row), column: column, floats[Int(part.first_not_finite)]),
                              expected: "finite weights")
            }
            range.min = min(range.min, part.min)
            range.max = max(range.max, part.max)
            if sink.scheme.isFew { sums += sumOfMagnitudes(count) }
            index += count
        }
        range.meanMagnitude = Float((sums[0] + sums[1] + (sums[2] + sums[3])) / Double(end - begin))
        findFirsts(&range, row, begin, end)
        return range
    }

    /// Element i to sum i mod 4; chunks are a multiple of 4.
    @_optimize(speed)
    private func sumOfMagnitudes(_ count: Int) -> SIMD4<Double> {
        var sums = SIMD4<Double>(repeating: 0)
        for index in count..<(count + 3) & ~3 { floats[index] = 0 }
        var index = 0
        while index < count {
            sums += SIMD4(Double(floats[index].magnitude), Double(floats[index + 1].magnitude), Double(floats[index + 2].magnitude),
                          Double(floats[index + 3].magnitude))
            index += 4
        }
        return sums
    }

    /// The sign of the first element of largest magnitude, where both signs occur; and, for ggml, of the first smallest,
    /// where that is a zero.
    private func findFirsts(_ range: inout GroupRange, _ row: Int, _ begin: Int, _ end: Int) {
        let largest = range.largestMagnitude
        range.signedLargest = range.max == largest ? largest : -largest
        range.firstSmallest = range.min
        if range.max == -range.min { range.signedLargest = first(row, begin, end) { $0.magnitude == largest } }
        if range.min == 0 { range.firstSmallest = first(row, begin, end) { $0 == 0 } }
    }

    private func first(_ row: Int, _ begin: Int, _ end: Int, where matches: (Float) -> Bool) -> Float {
        for index in begin..<end {
            let value = source.type.load(source.row(row), index)
            if matches(value) { return value }
        }
        return 0
    }

    // MARK: Codes

    private func requireFits(_ value: Float, _ row: Int, _ column: Int) throws(Failure) {
        if value.isFinite { return }
        throw Failure(INT4Q_ERROR_NOT_FINITE, "source", .element(row: Int64(row), column: Int64(column), value),
                      expected: "a group whose scale and offset fit scheme.scale_type")
    }

    @_optimize(speed)
    private func encode(_ parameters: GroupParameters, _ row: Int, _ begin: Int, _ end: Int) {
        let isLoaded = end - begin <= RowQuantizer.chunk
        var index = begin
        while index < end {
            let count = min(end - index, RowQuantizer.chunk)
            if var encoding = parameters.encoding {
                if !isLoaded { load(row, index, count) }
                encoding.makes_bytes = sink.scheme.width.isNibble ? 0 : 1
                kernels.encode.unsafelyUnwrapped(&encoding, floats, Int64(count), codes)
                if !sink.scheme.width.isNibble { sink.scheme.width.pack(codes, count: count) }
            } else {
                fill(parameters.onlyCode, count)
            }
            sink.put(codes, count: count, row: row, column: index)
            index += count
        }
    }

    private func fill(_ code: UInt8, _ count: Int) {
        let width = sink.scheme.width, bytes = width.bytes(count)
        for index in 0..<bytes { codes[index] = width.repeated(code) }
        let used = count &* width.bits & 7
        if used != 0 { codes[bytes - 1] &= (1 &<< UInt8(truncatingIfNeeded: used)) &- 1 }
    }
}

/// A tensor's codes, scales, zero points and offsets.
struct TensorSink: QuantizationSink {
    let tensor: QuantizedTensor
    var scheme: Scheme { tensor.scheme }
    func codebook(_ row: Int) -> UnsafePointer<Float>? { tensor.codebook(row) }

    func put(_ parameters: GroupParameters, row: Int, group: Int) {
        let index = tensor.groupIndex(row, group)
        let type = tensor.scheme.scaleType
        type.store(parameters.scale, tensor.scales, index)
        if let zeroPoints = tensor.zeroPoints { zeroPoints[index] = parameters.zeroPoint }
        if let offsets = tensor.offsets { type.store(parameters.offset, offsets, index) }
    }

    func given(row: Int, group: Int) -> GivenParameters {
        let index = tensor.groupIndex(row, group), type = tensor.scheme.scaleType
        return GivenParameters(scale: type.load(tensor.scales, index), zeroPoint: tensor.zeroPoints?[index] ?? 0,
                               offset: tensor.offsets.map { type.load($0, index) } ?? 0)
    }

    func put(_ codes: UnsafePointer<UInt8>, count: Int, row: Int, column: Int) {
        let width = tensor.scheme.width
        // As memory: copying elements one by one took half of the quantizer's time.
        UnsafeMutableRawPointer(tensor.codesRow(row) + width.bytes(column)).copyMemory(from: codes, byteCount: width.bytes(count))
    }
}

@inline(never)
public func quantize(_ tensor: QuantizedTensor, _ source: Matrix, rows: Range<Int64>, _ kernels: i4q_kernels) throws(Failure) {
    if rows.isEmpty { return }
    let rows = Int(rows.lowerBound)..<Int(rows.upperBound)
    try QuantizingMemory.use { (memory) throws(Failure) in
        let quantizer = RowQuantizer(TensorSink(tensor: tensor), source, from: rows.lowerBound, kernels, memory)
        let layout = tensor.layout
        if !tensor.scheme.roundsInBlocks || layout.groupSize > QuantizingMemory.blockColumns {
            return try quantizer.quantize(rows, groups: Int(layout.groupsPerRow))
        }
        let target = RowBlockTarget(layout: layout, codes: tensor.codes, scaleSize: tensor.scheme.scaleType.size, scales: tensor.scales,
                                    offsets: tensor.offsets, zeroPoints: tensor.zeroPoints)
        let scheme = tensor.scheme.blockQuantization(groupSize: layout.groupSize, table: quantizer.table)
        try RowBlockQuantizer(careful: quantizer, target: target, source: source, kernels: kernels, memory: memory, scheme: scheme)
            .quantize(rows)
    }
}

extension RowQuantizer {
    fileprivate func quantize(_ rows: Range<Int>, groups: Int) throws(Failure) {
        for row in rows {
            begin(row)
            for group in 0..<groups { try quantize(row, group) }
        }
    }
}
