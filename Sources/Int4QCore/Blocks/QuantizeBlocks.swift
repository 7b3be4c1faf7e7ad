// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// How blocks are quantized; checked.
public struct BlockOptions {
    var search: Int32 = 0
    var importance: UnsafePointer<Float>?
    var globalScale: Float = 1

    /// The importance's values are checked later, by checkImportance().
    public init(_ raw: UnsafePointer<int4q_block_options>?, _ layout: BlockLayout) throws(Failure) {
        guard let raw else { return }
        let options = try require(raw, "options").pointee
        try requireStructSize(options.struct_size, of: int4q_block_options.self, "options.struct_size")
        try requireZero(options.reserved, "options.reserved")
        search = options.search
        if search != int32(INT4Q_SEARCH_REFERENCE) && search != int32(INT4Q_SEARCH_BEST) {
            throw .invalid("options.search", Int64(search), expected: "one of INT4Q_SEARCH_*")
        }
        globalScale = try checkedGlobalScale(options.global_scale, layout.format, "options.global_scale")
        if options.importance != nil { importance = try require(options.importance, "options.importance") }
    }

    /// Reads k numbers: to be called when everything else that tells k has been checked.
    public func checkImportance(_ layout: BlockLayout) throws(Failure) {
        guard let importance else { return }
        for column in 0..<Int(layout.k) where !(importance[column].isFinite && importance[column] >= 0) {
            let status = importance[column].isFinite ? Int(INT4Q_ERROR_INVALID_ARGUMENT) : Int(INT4Q_ERROR_NOT_FINITE)
            throw Failure(status, "options.importance", .element(row: 0, column: Int64(column), importance[column]),
                          expected: "finite numbers of 0 or more")
        }
    }
}

/// Quantizes rows in batches of 16 lanes; a lane is what shares a scale, and lanes run on from row to row.
public struct BlocksQuantizer {
    static let lanes = Int(I4Q_BATCH_LANES)

    let layout: BlockLayout
    let options: BlockOptions
    let source: Matrix
    let blocks: UnsafeMutableRawPointer
    let kernels: i4q_kernels

    public init(_ layout: BlockLayout, _ options: BlockOptions, _ source: Matrix, into blocks: UnsafeMutableRawPointer,
                _ kernels: i4q_kernels) {
        self.layout = layout
        self.options = options
        self.source = source
        self.blocks = blocks
        self.kernels = kernels
    }

    private struct Memory {
        let values: UnsafeMutablePointer<UnsafeRawPointer?>
        let importance: UnsafeMutablePointer<UnsafeRawPointer?>
        /// One for each lane, and a run of a row.
        let meanSquares: UnsafeMutablePointer<Float>
        let floats: UnsafeMutablePointer<Float>
        let scratch: UnsafeMutableRawPointer

        init(_ memory: UnsafeMutableRawPointer) {
            values = memory.assumingMemoryBound(to: UnsafeRawPointer?.self)
            importance = (memory + 128).assumingMemoryBound(to: UnsafeRawPointer?.self)
            meanSquares = (memory + 256).assumingMemoryBound(to: Float.self)
            floats = (memory + 384).assumingMemoryBound(to: Float.self)
            scratch = memory + 384 + RunDecoder.chunk * 4
        }
    }

    /// A lane's place in the matrix.
    private struct Place {
        var row: Int
        var group: Int
    }

    public func run(_ rows: Range<Int64>) throws(Failure) {
        if rows.isEmpty { return }
        try StackMemory<294>.use { (memory) throws(Failure) in
            try run(Int(rows.lowerBound)..<Int(rows.upperBound), Memory(memory))
        }
    }

    private func run(_ rows: Range<Int>, _ memory: Memory) throws(Failure) {
        let total = rows.count * layout.groupsPerRow
        var batch = i4q_block_batch()
        batch.values = UnsafePointer(memory.values)
        batch.importance = options.importance == nil ? nil : UnsafePointer(memory.importance)
        batch.mean_squares = UnsafePointer(memory.meanSquares)
        batch.source_type = Int64(source.type.raw)
        batch.format = Int64(layout.format.rawValue)
        batch.search = Int64(options.search)
        batch.global_scale = options.globalScale
        batch.scratch = memory.scratch
        var target = (blocks + rows.lowerBound * layout.rowBytes).assumingMemoryBound(to: UInt8.self)
        var next = Place(row: rows.lowerBound, group: 0), meanSquare: Float = 0
        var done = 0
        while done < total {
            let first = next
            let count = min(total - done, BlocksQuantizer.lanes)
            for lane in 0..<count { place(lane, &next, &meanSquare, memory) }
            batch.lane_count = Int64(count)
            batch.blocks = target
            let bad = kernels.quantize_batch.unsafelyUnwrapped(&batch)
            if bad != 0 { throw failure(first, bad) }
            target += count * layout.format.groupBytes
            done += count
        }
    }

    private func place(_ lane: Int, _ next: inout Place, _ meanSquare: inout Float, _ memory: Memory) {
        let begin = next.group * layout.format.groupSize
        memory.values[lane] = source.row(next.row) + begin * source.type.size
        if let importance = options.importance {
            memory.importance[lane] = UnsafeRawPointer(importance + begin)
            if next.group == 0 && needsMeanSquares { meanSquare = rowMeanSquare(next.row, memory.floats) }
            memory.meanSquares[lane] = meanSquare
        }
        next.group += 1
        if next.group == layout.groupsPerRow { next = Place(row: next.row + 1, group: 0) }
    }

    private var needsMeanSquares: Bool {
        options.search == int32(INT4Q_SEARCH_REFERENCE) && (layout.format == .q4_0 || layout.format == .q4_1)
    }

    /// Summed in binary32 in the order of k, as ggml does.
    private func rowMeanSquare(_ row: Int, _ floats: UnsafeMutablePointer<Float>) -> Float {
        var sum: Float = 0
        var index = 0
        while index < source.columns {
            let count = min(source.columns - index, RunDecoder.chunk)
            kernels.load.unsafelyUnwrapped(source.row(row) + index * source.type.size, Int64(source.type.raw), Int64(count), floats)
            for i in 0..<count { sum += floats[i] * floats[i] }
            index += count
        }
        return sum / Float(source.columns)
    }

    /// What is wrong with a batch's first bad lane: a value that is not finite, or one too large.
    private func failure(_ first: Place, _ bad: Int64) -> Failure {
        // Counting trailing zeros would take an instruction that older processors read as another.
        var lane = 0
        for other in stride(from: BlocksQuantizer.lanes - 1, through: 0, by: -1) where bad & (1 &<< Int64(other)) != 0 { lane = other }
        let index = first.group + lane
        let row = first.row + index / layout.groupsPerRow
        let begin = index % layout.groupsPerRow * layout.format.groupSize
        var largest = begin
        for column in begin..<begin + layout.format.groupSize {
            let value = source.type.load(source.row(row), column)
            if !value.isFinite {
                return Failure(INT4Q_ERROR_NOT_FINITE, "source", .element(row: Int64(row), column: Int64(column), value),
                               expected: "finite weights")
            }
            if value.magnitude > source.type.load(source.row(row), largest).magnitude { largest = column }
        }
        let value = source.type.load(source.row(row), largest)
        return Failure(INT4Q_ERROR_NOT_FINITE, "source", .element(row: Int64(row), column: Int64(largest), value),
                       expected: "a block whose scale fits the format")
    }
}
