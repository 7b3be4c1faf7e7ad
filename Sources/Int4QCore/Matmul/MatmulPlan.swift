// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// How one product is cut up and where its scratch memory goes: what stands in int4q_matmul_plan.opaque.
///
///     scratch:  [prepared rows of x: m * preparedRowBytes] [experts: see ExpertRows, or parts: see Product+Parts]
///               [worker 0's panel and tiles of floats] ...
///
/// The planner knows sizes, not instruction sets: tiles are so large that a tile's activations stay in the second-level
/// cache and its floats in the first, and so many that workers of uneven speed end together.
public struct MatmulPlan {
    // Of the product.
    var mode: Int64
    var m: Int64
    var n: Int64
    var k: Int64
    var xType: Int64
    var yType: Int64
    var kind: Int64
    var groupSizeField: Int64
    var scaleType: Int64
    var codebookScope: Int64
    var codeBits: Int64
    // Of what goes with it; types are 0 where there is none.
    var activation: Int64
    var isGated: Int64
    var hasStaticScales: Int64
    var biasType: Int64
    var residualType: Int64
    var expertCount: Int64
    var partFlags: Int64
    var partRank: Int64
    // Of prepared activations.
    var preparedRowBytes: Int64
    /// From one 64 bytes of a row to the next: 64, or 64 for each of the rows that are interleaved.
    var preparedLineStride: Int64
    var preparedScalesOffset: Int64
    var preparedSumsOffset: Int64
    var rowsPerPrepare: Int64
    // Of tiles.
    var rowsPerTile: Int64
    var blocksPerTile: Int64
    /// Floats from one row of a tile's totals to the next.
    var totalsStride: Int64
    var expertsOffset: Int64
    var partsOffset: Int64
    var sparseOffset: Int64
    var projectedOffset: Int64
    var workersOffset: Int64
    var workerBytes: Int64

    static let panelBytes = Int64(I4Q_PANEL_BYTES)
    static let widestTile: Int64 = 64
    static let interleavedRows: Int64 = 32

    /// What kernels want of many rows: the largest tile's rows and blocks of columns, and how activations stand.
    public struct TileLimit {
        public var rows: Int64
        public var blocks: Int64
        public var interleavesRows: Bool

        public init(rows: Int64 = 128, blocks: Int64 = 4, interleavesRows: Bool = false) {
            self.rows = rows
            self.blocks = blocks
            self.interleavesRows = interleavesRows
        }
    }

    /// As some kernels want it.
    public init(_ shape: MatmulShape, _ kernels: i4q_kernels) throws(Failure) {
        let limit = switch shape.mode {
        case .f32: TileLimit(rows: 256, blocks: 16) // a tile's activations come from the third-level cache: the fewer tiles, the less often
        case .int8, .bf16: TileLimit(rows: kernels.largest_tile_rows, blocks: kernels.largest_tile_blocks,
                                     interleavesRows: kernels.interleaves_rows != 0)
        case .binary: TileLimit()
        }
        try self.init(shape, bfloatBytes: kernels.bf16_element_bytes, limit)
    }

    /// `bfloatBytes` is what a prepared activation takes in BF16 mode.
    public init(_ shape: MatmulShape, bfloatBytes: Int64, _ limit: TileLimit = TileLimit()) throws(Failure) {
        let layout = shape.layout
        mode = shape.mode.raw
        m = shape.m
        n = layout.n
        k = layout.k
        xType = Int64(shape.xType.raw)
        yType = Int64(shape.yType.raw)
        kind = Int64(shape.scheme.raw.kind)
        groupSizeField = Int64(shape.scheme.raw.group_size)
        scaleType = Int64(shape.scheme.scaleType.raw)
        codebookScope = Int64(shape.scheme.raw.codebook_scope)
        codeBits = Int64(shape.scheme.width.bits)
        activation = Int64(shape.activation)
        isGated = shape.isGated ? 1 : 0
        hasStaticScales = shape.hasStaticScales ? 1 : 0
        biasType = Int64(shape.biasType?.raw ?? 0)
        residualType = Int64(shape.residualType?.raw ?? 0)
        expertCount = Int64(shape.expertCount)
        partFlags = Int64(shape.partFlags)
        partRank = Int64(shape.partRank)

        let bits: Int64 = switch shape.mode {
        case .f32: 32
        case .bf16: bfloatBytes * 8
        case .int8: 8
        case .binary: codeBits
        }
        let hasPairs = shape.mode == .int8 || shape.mode == .binary
        let codes = try CheckedSize(UInt64(layout.kPadded / 8), "desc.k", argument: layout.k).times(UInt64(bits))
        let groups = try CheckedSize(UInt64(layout.groupCount), "desc.k", argument: layout.k).times(hasPairs ? 8 : 4)
        let row = try codes.plus(groups.value).roundedUp(to: 64).plus(64)
        preparedRowBytes = MatmulPlan.spread(Int64(row.value) - 64, rows: shape.m)
        let isInterleaved = limit.interleavesRows && shape.m >= 16 && shape.expertCount == 0
        preparedLineStride = isInterleaved ? 64 * MatmulPlan.interleavedRows : 64
        preparedScalesOffset = Int64(codes.value)
        preparedSumsOffset = Int64(codes.value)
        let hasSparse = shape.partFlags & PartsShape.sparse != 0
        // Rows that share lines of the sparse part's operand belong to one task.
        rowsPerPrepare = shape.m >= (hasSparse ? 16 : 64) && partFlags != 0 ? 16 : max(1, 16384 / layout.kPadded)

        rowsPerTile = MatmulPlan.rowsPerTile(m: shape.m, limit)
        blocksPerTile = MatmulPlan.blocksPerTile(m: shape.m, blocks: layout.blockCount, workers: Int64(shape.workerCount), limit,
                                                 rowTiles: (shape.m - 1) / rowsPerTile + 1)
        let rows = isInterleaved ? (shape.m + MatmulPlan.interleavedRows - 1) / MatmulPlan.interleavedRows * MatmulPlan.interleavedRows : shape.m
        expertsOffset = Int64(try CheckedSize(UInt64(rows), "desc.m").times(UInt64(preparedRowBytes)).value)
        let experts = shape.expertCount == 0 ? 0 : ExpertRows.bytes(rows: shape.m, experts: Int64(shape.expertCount), rowsPerTile: rowsPerTile)
        partsOffset = Int64(try CheckedSize(UInt64(expertsOffset), "desc.m", argument: shape.m).plus(UInt64(experts)).value)
        sparseOffset = partsOffset
        projectedOffset = partsOffset
        workersOffset = partsOffset
        totalsStride = MatmulPlan.spread(blocksPerTile * 64, rows: rowsPerTile) / 4
        workerBytes = rowsPerTile * totalsStride * 4 * (shape.isGated ? 2 : 1) + MatmulPlan.panelBytes
        if partFlags != 0 { try makeRoomForParts() }
        _ = try CheckedSize(UInt64(workerBytes), "desc.m", argument: m).times(UInt64(shape.workerCount)).plus(UInt64(workersOffset))
        _ = try CheckedSize(UInt64(rowTiles), "desc.m", argument: m).times(UInt64(blockTiles))
    }

    /// Tiles of more rows than are usual are of equal height, but for the last.
    private static func rowsPerTile(m: Int64, _ limit: TileLimit) -> Int64 {
        if limit.rows <= TileLimit().rows { return min(m, limit.rows) }
        let tiles = (m - 1) / limit.rows + 1
        return min(m, ((m - 1) / tiles + 32) / 32 * 32)
    }

    /// Few rows: wide tiles, whose streams are long, but at least four for each of several workers. Many rows: as the kernels want it,
    /// and again at least four, if they want more than 64 columns, which leave decoded weights in the first-level cache.
    private static func blocksPerTile(m: Int64, blocks: Int64, workers: Int64, _ limit: TileLimit, rowTiles: Int64) -> Int64 {
        let widest = m > 8 ? limit.blocks : widestTile
        let share = workers == 1 ? blocks : blocks * (m > 8 ? rowTiles : 1) / (4 * workers) / 4 * 4
        return min(max(share, 4), min(widest, blocks))
    }

    /// Lines of 64 bytes from one row to the next are odd in number where many rows are used at a time: then neighbouring rows do not
    /// meet in a few sets of a cache.
    private static func spread(_ bytes: Int64, rows: Int64) -> Int64 { rows > 8 ? bytes | 64 : bytes }

    /// Where a prepared row begins.
    func preparedOffset(_ row: Int) -> Int {
        let isInterleaved = preparedLineStride != 64, rows = Int(MatmulPlan.interleavedRows)
        return isInterleaved ? row / rows * rows * Int(preparedRowBytes) + row % rows * 64 : row * Int(preparedRowBytes)
    }

    public var blockCount: Int64 { (n - 1) / BlobLayout.blockRows + 1 }
    /// With experts the most that there can be.
    public var rowTiles: Int64 {
        expertCount == 0 ? (m - 1) / rowsPerTile + 1 : ExpertRows.mostSegments(rows: m, experts: expertCount, rowsPerTile: rowsPerTile)
    }
    public var blockTiles: Int64 { (blockCount - 1) / blocksPerTile + 1 }
    public var tileCount: Int64 { rowTiles * blockTiles }
    public var prepareCount: Int64 { (m - 1) / rowsPerPrepare + 1 }
    public var rowsInTile: Int64 { rowsPerTile }
    public var columnsInTile: Int64 { blocksPerTile * BlobLayout.blockRows }
    /// Whether anything is left to do between the product and y's type.
    var hasEpilogue: Bool { activation != 0 || isGated != 0 || biasType != 0 || residualType != 0 }

    public func scratchBytes(workers: UInt32) -> UInt64 { UInt64(workersOffset) + UInt64(workerBytes) * UInt64(workers) }
}

/// The plan as the caller holds it.
extension MatmulPlan {
    /// The last word of `opaque` checks all before it.
    private static var checksumOffset: Int { MemoryLayout<int4q_matmul_plan>.stride - 8 }
    private static var recordOffset: Int { MemoryLayout<int4q_matmul_plan>.offset(of: \.opaque)! }

    public func write(_ isa: InstructionSet, workers: UInt32, to plan: UnsafeMutablePointer<int4q_matmul_plan>) {
        var filled = int4q_matmul_plan()
        filled.struct_size = UInt32(MemoryLayout<int4q_matmul_plan>.stride)
        filled.isa = isa.rawValue
        filled.scratch_bytes = scratchBytes(workers: workers)
        filled.prepare_count = prepareCount
        filled.tile_count = tileCount
        filled.worker_count = workers
        plan.pointee = filled
        let raw = UnsafeMutableRawPointer(plan)
        raw.storeBytes(of: self, toByteOffset: MatmulPlan.recordOffset, as: MatmulPlan.self)
        raw.storeBytes(of: checksum(raw, count: MatmulPlan.checksumOffset), toByteOffset: MatmulPlan.checksumOffset, as: UInt64.self)
    }

    /// Reads a plan that write() wrote; anything else is refused.
    public init(_ plan: UnsafePointer<int4q_matmul_plan>) throws(Failure) {
        try requireStructSize(plan.pointee.struct_size, of: int4q_matmul_plan.self, "plan.struct_size")
        let raw = UnsafeRawPointer(plan)
        let stored = raw.load(fromByteOffset: MatmulPlan.checksumOffset, as: UInt64.self)
        if stored != checksum(raw, count: MatmulPlan.checksumOffset) {
            throw Failure(INT4Q_ERROR_CORRUPT, "plan", .unsigned(stored), expected: "a plan as int4q_matmul_plan_init() wrote it")
        }
        self = raw.load(fromByteOffset: MatmulPlan.recordOffset, as: MatmulPlan.self)
    }
}
