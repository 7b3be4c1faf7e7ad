// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// A block of a blob, zeroed, as a quantizer's sink.
struct BlockSink: QuantizationSink {
    let scheme: Scheme
    let codebooks: CallersCodebooks?
    let layout: BlobLayout
    let block: UnsafeMutableRawPointer
    let firstRow: Int

    func codebook(_ row: Int) -> UnsafePointer<Float>? { codebooks?.row(row) }

    /// Never asked for: such schemes are refused.
    func given(row: Int, group: Int) -> GivenParameters { GivenParameters(scale: 0, zeroPoint: 0, offset: 0) }

    func put(_ parameters: GroupParameters, row: Int, group: Int) {
        let type = scheme.scaleType
        // A row's only group is repeated for each packed group.
        for packedGroup in scheme.isPerRow ? 0..<Int(layout.groupCount) : group..<group + 1 {
            let index = packedGroup * lanes + row - firstRow
            type.store(parameters.scale, block + Int(layout.scalesOffset), index)
            let zeros = block + Int(layout.zerosOffset)
            if scheme.kind == .asymmetric { zeros.storeBytes(of: parameters.zeroPoint, toByteOffset: index, as: UInt8.self) }
            if scheme.kind == .offset { type.store(parameters.offset, zeros, index) }
        }
    }

    /// Columns start at the first code of 32 bits: groups and chunks do.
    func put(_ codes: UnsafePointer<UInt8>, count: Int, row: Int, column: Int) {
        let width = scheme.width, bytes = width.bytes(count)
        let lane = block + (row - firstRow) * 4
        var index = 0
        while index < bytes {
            var word: UInt32 = 0
            for byte in index..<min(index + 4, bytes) { word |= UInt32(codes[byte]) << (8 * UInt32(byte - index)) }
            width.put(word, column / width.wordCodes + index / 4, lane: lane)
            index += 4
        }
    }

    private var lanes: Int { Int(BlobLayout.blockRows) }
}

/// Quantizes rows of a matrix straight into a blob.
public struct BlobQuantizer {
    let scheme: Scheme
    let codebooks: CallersCodebooks?
    let layout: BlobLayout
    let source: Matrix
    let blob: UnsafeMutableRawPointer
    let kernels: i4q_kernels

    public init(_ scheme: Scheme, _ codebook: UnsafePointer<Float>?, _ layout: BlobLayout, _ source: Matrix,
                into blob: UnsafeMutableRawPointer, _ kernels: i4q_kernels) throws(Failure) {
        self.scheme = scheme
        self.layout = layout
        self.source = source
        self.blob = blob
        self.kernels = kernels
        if scheme.hasGivenScales {
            throw .invalid("scheme.scale_rule", Int64(scheme.raw.scale_rule), expected: "another INT4Q_SCALE_* here: none are given")
        }
        codebooks = try CallersCodebooks(scheme, codebook, n: layout.n, "codebook")
    }

    public func run(_ rows: Range<Int64>) throws(Failure) {
        if rows.isEmpty { return }
        try codebooks?.check(rows, "codebook")
        try QuantizingMemory.use { (memory) throws(Failure) in
            for block in rows.lowerBound / BlobLayout.blockRows..<(rows.upperBound - 1) / BlobLayout.blockRows + 1 {
                try quantize(block, memory)
            }
        }
        if rows.lowerBound == 0 {
            BlobHeader.writeStart(scheme, layout, codebook: scheme.hasRowCodebooks ? nil : codebooks?.row(0), to: blob)
        }
    }

    private func quantize(_ index: Int64, _ memory: QuantizingMemory) throws(Failure) {
        let block = UnsafeMutableRawPointer(mutating: layout.block(index, in: blob))
        block.initializeMemory(as: UInt8.self, repeating: 0, count: Int(layout.blockBytes))
        let firstRow = Int(index * BlobLayout.blockRows)
        let rows = firstRow..<min(firstRow + Int(BlobLayout.blockRows), Int(layout.n))
        let sink = BlockSink(scheme: scheme, codebooks: codebooks, layout: layout, block: block, firstRow: firstRow)
        let quantizer = RowQuantizer(sink, source, from: firstRow, kernels, memory)
        if scheme.hasRowCodebooks {
            for row in rows {
                quantizer.begin(row)
                try quantize(row..<row + 1, block, quantizer, memory)
                layout.store(codebook: codebooks?.row(row), lane: row - firstRow, in: block)
            }
        } else {
            try quantize(rows, block, quantizer, memory)
        }
        layout.storeChecksum(of: index, in: blob)
    }

    /// All 16 rows at once; groups that need care row by row.
    @inline(never)
    private func quantize(_ rows: Range<Int>, _ block: UnsafeMutableRawPointer, _ quantizer: RowQuantizer<BlockSink>,
                          _ memory: QuantizingMemory) throws(Failure) {
        let groups = scheme.isPerRow ? 1 : Int(layout.groupCount)
        var group = 0
        var quantization = scheme.blockQuantization(groupSize: Int(layout.groupSize), table: quantizer.table)
        quantization.take(source, rows, 0..<source.columns, block: block, scales: Int(layout.scalesOffset),
                          zeros: Int(layout.zerosOffset), scratch: memory.scratch)
        while group < groups {
            if canTakeBlocks {
                group = Int(kernels.quantize_block.unsafelyUnwrapped(&quantization, Int64(group)))
                if group >= groups { break }
            }
            for row in rows { try quantizer.quantize(row, group) }
            group += 1
        }
    }

    /// Rows of several packed groups have one scale, which the kernel does not know; nor does it know tables of single rows.
    private var canTakeBlocks: Bool {
        scheme.roundsInBlocks && !(scheme.isPerRow && layout.groupCount > 1)
    }
}
