// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// One product on one plan: checked operands, and the two steps that work on them. Any thread may run any step.
public struct Product {
    let plan: MatmulPlan
    let workerCount: UInt32
    let kernels: i4q_kernels
    let scratch: UnsafeMutableRawPointer
    // Of prepare.
    var x: Matrix?
    var steps: UnsafePointer<Float>?
    var rowExperts: UnsafePointer<Int32>?
    // Of both.
    var parts: BlobParts?
    var upParts: BlobParts?
    // Of tiles.
    var y: Matrix?
    var weights: Weights?
    var bias: Bias?
    var residual: Matrix?

    public var prepareCount: Int64 { plan.prepareCount }
    public var tileCount: Int64 { plan.tileCount }
    public var workers: UInt32 { workerCount }

    /// `usesScratch` is false where neither step will be run.
    public init(_ plan: UnsafePointer<int4q_matmul_plan>, _ args: int4q_matmul_args, usesScratch: Bool = true) throws(Failure) {
        self.plan = try MatmulPlan(plan)
        try requireStructSize(args.struct_size, of: int4q_matmul_args.self, "args.struct_size")
        try requireZero(args.reserved, "args.reserved")
        guard let isa = InstructionSet(rawValue: plan.pointee.isa), isa.isDetected else {
            throw Failure(INT4Q_ERROR_MISMATCH, "plan.isa", .integer(Int64(plan.pointee.isa)),
                          expected: "a plan made on this machine")
        }
        kernels = isa.kernels
        workerCount = plan.pointee.worker_count
        if usesScratch {
            scratch = try require(args.scratch, "args.scratch", alignment: Int(INT4Q_ALIGNMENT))
            try requireBytes(args.scratch_bytes, needed: plan.pointee.scratch_bytes, "args.scratch_bytes")
        } else {
            scratch = UnsafeMutableRawPointer(bitPattern: Int(INT4Q_ALIGNMENT)).unsafelyUnwrapped // never read
        }
    }

    /// Whether BF16 mode rounds weights as well as activations.
    var roundsWeights: Bool { kernels.roundsWeights(groupSize: groups.size, kind: plan.kind) }

    /// Whether BF16 mode multiplies codes less their zero points, and not codes less 8.
    var subtractsZeroPoints: Bool { kernels.bf16_rounds_groups_below > 0 && !roundsWeights }

    var experts: ExpertRows? { plan.expertCount == 0 ? nil : ExpertRows(plan, in: scratch) }

    /// As BlobLayout has them.
    var groups: (kPadded: Int64, size: Int64, count: Int64) {
        let kPadded = (plan.k + 31) & ~31
        let isPerRow = plan.groupSizeField == Int64(INT4Q_GROUP_PER_ROW)
        let size = isPerRow ? min(kPadded, BlobLayout.longestGroup) : plan.groupSizeField
        return (kPadded, size, (plan.k - 1) / size + 1)
    }

    // MARK: Prepare

    /// Prepares rows of x for prepare tasks begin..<end.
    public func prepare(_ tasks: Range<Int64>) {
        guard let x else { return }
        if let parts { return prepare(tasks, parts, x) }
        let experts = self.experts
        if let experts, let rowExperts, tasks.contains(0) { experts.writeSegments(rowExperts) }
        let firstRow = tasks.lowerBound * plan.rowsPerPrepare
        let lastRow = min(tasks.upperBound * plan.rowsPerPrepare, plan.m)
        for row in firstRow..<max(lastRow, firstRow) {
            var slot = Int(row)
            if let experts, let rowExperts {
                guard let taken = experts.takeSlot(of: Int(row), rowExperts) else { continue }
                slot = taken
            }
            prepareRow(x.row(Int(row)), plan.xType, slot)
        }
    }

    func prepareRow(_ source: UnsafeRawPointer, _ type: Int64, _ slot: Int) {
        var activations = describe(source, type, slot)
        switch plan.mode {
        case Int64(INT4Q_MODE_F32): kernels.prepare_f32.unsafelyUnwrapped(&activations)
        case Int64(INT4Q_MODE_BF16): kernels.prepare_bf16.unsafelyUnwrapped(&activations)
        case Int64(INT4Q_MODE_BINARY): kernels.prepare_binary.unsafelyUnwrapped(&activations)
        default: kernels.prepare_int8.unsafelyUnwrapped(&activations)
        }
    }

    private func describe(_ source: UnsafeRawPointer, _ type: Int64, _ slot: Int) -> i4q_activations {
        let sizes = groups
        // Of what has neither zero points nor offsets, sums of x are not asked for.
        let isCentred = plan.kind != Int64(INT4Q_KIND_ASYMMETRIC) && plan.kind != Int64(INT4Q_KIND_OFFSET)
        let isShifted = plan.kind == Int64(INT4Q_KIND_SYMMETRIC) || plan.kind == Int64(INT4Q_KIND_OFFSET)
        return i4q_activations(
            source: source, source_type: type, k: plan.k, k_padded: sizes.kPadded, group_size: sizes.size,
            group_count: sizes.count,
            prepared: (scratch + plan.preparedOffset(slot)).assumingMemoryBound(to: UInt8.self), line_stride: plan.preparedLineStride,
            scales_offset: plan.preparedScalesOffset, sums_offset: isCentred ? -1 : plan.preparedSumsOffset, steps: steps,
            steps_stride: plan.groupSizeField == Int64(INT4Q_GROUP_PER_ROW) ? 0 : 1,
            share_factor: isShifted ? -(1 << Int32(plan.codeBits - 1)) : -1, code_bits: Int32(plan.codeBits))
    }

    // MARK: Tiles

    /// Runs tiles; `worker` names the part of the scratch that this call alone may use. Neighbouring tiles share weights.
    public func runTiles(_ tiles: Range<Int64>, worker: UInt32) {
        guard let weights else { return }
        let panel = scratch + Int(plan.workersOffset) + Int(plan.workerBytes) * Int(worker)
        let out = (panel + Int(MatmulPlan.panelBytes)).assumingMemoryBound(to: Float.self)
        for index in tiles {
            guard let rows = rowsOfTile(index % plan.rowTiles) else { continue }
            let block = index / plan.rowTiles * plan.blocksPerTile
            var tile = i4q_tile(row_begin: rows.first, row_count: rows.count, block_begin: block,
                                block_count: min(plan.blocksPerTile, plan.blockCount - block), out: out,
                                out_stride: plan.totalsStride, panel: panel)
            multiply(weights.gate(rows.expert), weights.layout, weights.integers, &tile)
            if let parts { addParts(parts, &tile) }
            if plan.isGated != 0 {
                tile.out = upTotals(tile)
                multiply(weights.up(rows.expert), weights.layout, weights.upIntegers, &tile)
                if let upParts { addParts(upParts, &tile, isUp: true) }
                tile.out = out
            }
            finish(tile, rows.expert)
        }
    }

    private struct TileRows {
        var expert: Int
        var first: Int64
        var count: Int64
    }

    /// Nil if there is nothing to do; so nothing outside the scratch is touched if a caller ran tiles without prepare.
    private func rowsOfTile(_ index: Int64) -> TileRows? {
        guard let experts else {
            let first = index * plan.rowsPerTile
            return TileRows(expert: 0, first: first, count: min(plan.rowsPerTile, plan.m - first))
        }
        let segment = experts.segments[Int(index)]
        let first = Int64(segment.firstSlot), count = Int64(segment.count), expert = Int64(segment.expert)
        let isSound = first >= 0 && count > 0 && count <= plan.rowsPerTile && first + count <= plan.m
        return isSound && expert >= 0 && expert < plan.expertCount ? TileRows(expert: Int(expert), first: first, count: count) : nil
    }

    /// Where the second matrix's totals stand, behind the first one's.
    private func upTotals(_ tile: i4q_tile) -> UnsafeMutablePointer<Float> {
        tile.out.unsafelyUnwrapped + Int(plan.rowsPerTile) * Int(tile.out_stride)
    }

    /// What INT8 mode makes of a blob's codebook, if it has one.
    func integerCodebook(_ blob: UnsafeRawPointer) -> IntegerCodebook? {
        if plan.mode != Int64(INT4Q_MODE_INT8) || plan.kind != Int64(INT4Q_KIND_CODEBOOK) { return nil }
        return IntegerCodebook(codebook(of: blob))
    }

    private var hasTensorCodebook: Bool {
        plan.kind == Int64(INT4Q_KIND_CODEBOOK) && plan.codebookScope == Int64(INT4Q_CODEBOOK_PER_TENSOR)
    }

    private func codebook(of blob: UnsafeRawPointer) -> UnsafePointer<Float> {
        (blob + BlobHeader.Offset.codebook).assumingMemoryBound(to: Float.self)
    }

    private func multiply(_ blob: UnsafeRawPointer, _ layout: BlobLayout, _ known: IntegerCodebook?, _ tile: inout i4q_tile) {
        var product = i4q_product(
            blocks: layout.block(0, in: blob).assumingMemoryBound(to: UInt8.self),
            block_bytes: Int64(layout.blockBytes), scales_offset: Int64(layout.scalesOffset),
            zeros_offset: Int64(layout.zerosOffset), scale_type: plan.scaleType, kind: plan.kind, code_bits: plan.codeBits,
            k_padded: layout.kPadded, group_size: layout.groupSize, group_count: layout.groupCount,
            codebook: hasTensorCodebook ? codebook(of: blob) : nil, codebooks_offset: Int64(layout.codebooksOffset),
            prepared: UnsafePointer(scratch.assumingMemoryBound(to: UInt8.self)),
            prepared_row_bytes: plan.preparedRowBytes, prepared_line_stride: plan.preparedLineStride, prepared_scales_offset: plan.preparedScalesOffset,
            prepared_sums_offset: plan.preparedSumsOffset, int8_codebook: nil, int8_codebook_step: 1, rounds_weights: roundsWeights ? 1 : 0)
        switch plan.mode {
        case Int64(INT4Q_MODE_F32): kernels.tile_f32.unsafelyUnwrapped(&product, &tile)
        case Int64(INT4Q_MODE_BF16): kernels.tile_bf16.unsafelyUnwrapped(&product, &tile)
        case Int64(INT4Q_MODE_BINARY): kernels.tile_binary.unsafelyUnwrapped(&product, &tile)
        default: multiplyInt8(&product, known ?? integerCodebook(blob), &tile)
        }
    }

    private func multiplyInt8(_ product: inout i4q_product, _ codebook: IntegerCodebook?, _ tile: inout i4q_tile) {
        guard let codebook else { return kernels.tile_int8.unsafelyUnwrapped(&product, &tile) }
        product.int8_codebook_step = codebook.step
        withUnsafePointer(to: codebook.bytes) { bytes in
            product.int8_codebook = UnsafeRawPointer(bytes).assumingMemoryBound(to: Int8.self)
            kernels.tile_int8.unsafelyUnwrapped(&product, &tile)
        }
    }

    private func finish(_ tile: i4q_tile, _ expert: Int) {
        guard let y else { return }
        let column = Int(tile.block_begin * BlobLayout.blockRows)
        let count = min(tile.block_count * BlobLayout.blockRows, plan.n - Int64(column))
        let experts = self.experts
        for index in 0..<Int(tile.row_count) {
            var row = Int(tile.row_begin) + index
            if let experts {
                row = Int(experts.rowOfSlot[row])
                if row < 0 || row >= Int(plan.m) { continue }
            }
            let totals = tile.out.unsafelyUnwrapped + index * Int(tile.out_stride)
            let destination = y.mutableRow(row) + column * y.type.size
            if plan.hasEpilogue {
                var epilogue = describeEpilogue(tile, index, row, column, expert)
                kernels.finish_row.unsafelyUnwrapped(&epilogue, totals, count, Int64(y.type.raw), destination)
            } else {
                kernels.store.unsafelyUnwrapped(totals, count, Int64(y.type.raw), destination)
            }
        }
    }

    private func describeEpilogue(_ tile: i4q_tile, _ index: Int, _ row: Int, _ column: Int, _ expert: Int) -> i4q_epilogue {
        let start = expert * Int(plan.n) + column
        return i4q_epilogue(
            activation: plan.activation, bias: bias?.gate.map { $0 + start * (bias?.type.size ?? 0) },
            up_bias: bias?.up.map { $0 + start * (bias?.type.size ?? 0) }, bias_type: plan.biasType,
            up: plan.isGated == 0 ? nil : UnsafePointer(upTotals(tile) + index * Int(tile.out_stride)),
            residual: residual.map { $0.row(row) + column * $0.type.size }, residual_type: plan.residualType)
    }
}

extension i4q_kernels {
    /// Whether BF16 mode dequantizes weights and rounds them.
    func roundsWeights(groupSize: Int64, kind: Int64) -> Bool {
        bf16_rounds_groups_below > groupSize || (bf16_rounds_groups_below > 0 && kind == Int64(INT4Q_KIND_OFFSET))
    }
}
