// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// One product on one plan: checked operands, and the two steps that work on them. Any thread may run any step.
public struct Product {
    let plan: MatmulPlan
    let workerCount: UInt32
    let kernels: i4q_kernels
    let scratch: UnsafeMutableRawPointer
    var x: Matrix?
    var y: Matrix?
    var blob: Blob?

    public var prepareCount: Int64 { plan.prepareCount }
    public var tileCount: Int64 { plan.tileCount }
    public var workers: UInt32 { workerCount }

    public init(_ plan: UnsafePointer<int4q_matmul_plan>, _ args: int4q_matmul_args) throws(Failure) {
        self.plan = try MatmulPlan(plan)
        try requireStructSize(args.struct_size, of: int4q_matmul_args.self, "args.struct_size")
        try requireZero(args.reserved, "args.reserved")
        guard let isa = InstructionSet(rawValue: plan.pointee.isa), isa.isDetected else {
            throw Failure(INT4Q_ERROR_MISMATCH, "plan.isa", .integer(Int64(plan.pointee.isa)),
                          expected: "a plan made on this machine")
        }
        kernels = isa.kernels
        workerCount = plan.pointee.worker_count
        scratch = try require(args.scratch, "args.scratch", alignment: Int(INT4Q_ALIGNMENT))
        try requireBytes(args.scratch_bytes, needed: plan.pointee.scratch_bytes, "args.scratch_bytes")
    }

    public mutating func take(x args: int4q_matmul_args) throws(Failure) {
        let type = try ElementType(int4q_type(truncatingIfNeeded: plan.xType), "plan.x_type")
        x = try Matrix(args.x, type, rows: plan.m, columns: plan.k, stride: args.ldx, .init("args.x", stride: "args.ldx"))
    }

    public mutating func take(blobAndY args: int4q_matmul_args) throws(Failure) {
        let blob = try Blob(args.blob, bytes: args.blob_bytes)
        try requireAgreement(blob)
        let type = try ElementType(int4q_type(truncatingIfNeeded: plan.yType), "plan.y_type")
        y = try Matrix(args.y, type, rows: plan.m, columns: plan.n, stride: args.ldy, .init("args.y", stride: "args.ldy"))
        self.blob = blob
    }

    private func requireAgreement(_ blob: Blob) throws(Failure) {
        typealias Pair = (blob: Int64, plan: Int64, name: StaticString)
        let raw = blob.scheme.raw
        let pairs: InlineArray<5, Pair> = [
            (blob.layout.n, plan.n, "args.blob (n)"), (blob.layout.k, plan.k, "args.blob (k)"),
            (Int64(raw.kind), plan.kind, "args.blob (scheme.kind)"),
            (Int64(raw.group_size), plan.groupSizeField, "args.blob (scheme.group_size)"),
            (Int64(raw.scale_type), plan.scaleType, "args.blob (scheme.scale_type)"),
        ]
        for index in 0..<5 where pairs[index].blob != pairs[index].plan {
            throw Failure(INT4Q_ERROR_MISMATCH, pairs[index].name, .integer(pairs[index].blob),
                          expected: "what the plan was made for,", bound: UInt64(bitPattern: pairs[index].plan))
        }
    }

    // MARK: Steps

    /// Prepares rows of x for prepare tasks begin..<end.
    public func prepare(_ tasks: Range<Int64>) {
        guard let x else { return }
        let lastRow = min(tasks.upperBound * plan.rowsPerPrepare, plan.m)
        for row in tasks.lowerBound * plan.rowsPerPrepare..<max(lastRow, tasks.lowerBound * plan.rowsPerPrepare) {
            var activations = describe(x.row(Int(row)), row)
            if plan.mode == Int64(INT4Q_MODE_F32) {
                kernels.prepare_f32.unsafelyUnwrapped(&activations)
            } else {
                kernels.prepare_int8.unsafelyUnwrapped(&activations)
            }
        }
    }

    private func describe(_ source: UnsafeRawPointer, _ row: Int64) -> i4q_activations {
        let sizes = groups
        return i4q_activations(
            source: source, source_type: plan.xType, k: plan.k, k_padded: sizes.kPadded, group_size: sizes.size,
            group_count: sizes.count,
            prepared: (scratch + Int(row * plan.preparedRowBytes)).assumingMemoryBound(to: UInt8.self),
            scales_offset: plan.preparedScalesOffset, sums_offset: plan.preparedSumsOffset)
    }

    /// As BlobLayout has them.
    private var groups: (kPadded: Int64, size: Int64, count: Int64) {
        let kPadded = (plan.k + 31) & ~31
        let isPerRow = plan.groupSizeField == Int64(INT4Q_GROUP_PER_ROW)
        let size = isPerRow ? min(kPadded, BlobLayout.longestGroup) : plan.groupSizeField
        return (kPadded, size, (plan.k - 1) / size + 1)
    }

    /// Runs tiles; `worker` names the part of the scratch that this call alone may use. Neighbouring tiles share weights.
    public func runTiles(_ tiles: Range<Int64>, worker: UInt32) {
        guard let blob, let y else { return }
        var product = describe(blob)
        let out = (scratch + Int(plan.workersOffset) + Int(plan.workerBytes) * Int(worker)).assumingMemoryBound(to: Float.self)
        for index in tiles {
            var tile = describeTile(index, out)
            if plan.mode == Int64(INT4Q_MODE_F32) {
                kernels.tile_f32.unsafelyUnwrapped(&product, &tile)
            } else {
                kernels.tile_int8.unsafelyUnwrapped(&product, &tile)
            }
            store(tile, into: y)
        }
    }

    private func describe(_ blob: Blob) -> i4q_product {
        let layout = blob.layout
        return i4q_product(
            blocks: layout.block(0, in: blob.base).assumingMemoryBound(to: UInt8.self),
            block_bytes: Int64(layout.blockBytes), scales_offset: Int64(layout.scalesOffset),
            zeros_offset: Int64(layout.zerosOffset), scale_type: plan.scaleType, kind: plan.kind,
            k_padded: layout.kPadded, group_size: layout.groupSize, group_count: layout.groupCount,
            codebook: blob.codebookIfAny, prepared: UnsafePointer(scratch.assumingMemoryBound(to: UInt8.self)),
            prepared_row_bytes: plan.preparedRowBytes, prepared_scales_offset: plan.preparedScalesOffset,
            prepared_sums_offset: plan.preparedSumsOffset)
    }

    private func describeTile(_ index: Int64, _ out: UnsafeMutablePointer<Float>) -> i4q_tile {
        let row = index % plan.rowTiles * plan.rowsPerTile
        let block = index / plan.rowTiles * plan.blocksPerTile
        return i4q_tile(row_begin: row, row_count: min(plan.rowsPerTile, plan.m - row), block_begin: block,
                        block_count: min(plan.blocksPerTile, plan.blockCount - block), out: out,
                        out_stride: plan.blocksPerTile * BlobLayout.blockRows)
    }

    private func store(_ tile: i4q_tile, into y: Matrix) {
        let column = tile.block_begin * BlobLayout.blockRows
        let count = min(tile.block_count * BlobLayout.blockRows, plan.n - column)
        for row in 0..<Int(tile.row_count) {
            kernels.store.unsafelyUnwrapped(
                tile.out.unsafelyUnwrapped + row * Int(tile.out_stride), count, Int64(y.type.raw),
                y.mutableRow(Int(tile.row_begin) + row) + Int(column) * y.type.size)
        }
    }
}
