// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Options that were checked, for a scheme that they fit, or for no quantizing at all.
public struct GptqOptions {
    let raw: int4q_gptq_options
    let cross: Cross?
    private(set) var isStatic = true
    private(set) var clearsDead = false
    private(set) var measuresNearest = false

    /// What is asked of them in any case.
    @inline(never)
    private init(checking raw: int4q_gptq_options, flags known: UInt32, lastOrder: Int32) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_gptq_options.self, "options.struct_size")
        if raw.flags & ~known != 0 { throw .invalid("options.flags", Int64(raw.flags), expected: "INT4Q_GPTQ_* added up, or 0") }
        if raw.order < int32(INT4Q_GPTQ_ORDER_COLUMNS) || raw.order > lastOrder {
            throw .invalid("options.order", Int64(raw.order), expected: "one of INT4Q_GPTQ_ORDER_*, or 0")
        }
        try requireWorkers(raw.worker_count, "options.worker_count")
        try requireDamping(raw.damping, "options.damping", least: 0)
        try requireDamping(raw.damping_step, "options.damping_step", least: .leastNonzeroMagnitude)
        if raw.attempts < 1 || raw.attempts > 1000 { throw .invalid("options.attempts", raw.attempts, expected: "1 to 1000") }
        let most = raw.cross == nil ? 0.0 : 1.0
        if !(raw.alpha >= 0 && raw.alpha <= most) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "options.alpha", .number(Float(raw.alpha)),
                          expected: "0 to 1, 0 without a cross matrix")
        }
        if raw.cross == nil && raw.cross_bytes != 0 {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "options.cross_bytes", .unsigned(raw.cross_bytes),
                          expected: "0 without a cross matrix")
        }
        self.raw = raw
        cross = raw.cross == nil ? nil : try Cross(raw.cross, bytes: raw.cross_bytes, .init("options.cross", "options.cross_bytes"))
    }

    /// For shifting weights.
    @inline(never)
    public init(shift raw: int4q_gptq_options) throws(Failure) {
        try self.init(checking: raw, flags: 0, lastOrder: int32(INT4Q_GPTQ_ORDER_COLUMNS))
        _ = try require(raw.cross, "options.cross", alignment: 1)
    }

    @inline(never)
    public init(_ raw: int4q_gptq_options, _ scheme: Scheme, k: Int64) throws(Failure) {
        let known = UInt32(INT4Q_GPTQ_STATIC_GROUPS) | UInt32(INT4Q_GPTQ_CLEAR_DEAD_CHANNELS) | UInt32(INT4Q_GPTQ_MEASURE_NEAREST)
        try self.init(checking: raw, flags: known, lastOrder: int32(INT4Q_GPTQ_ORDER_WITHIN_GROUPS))
        if scheme.isFew {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "tensor.scheme.kind", .integer(Int64(scheme.raw.kind)),
                          expected: "a kind with codes of 4 or 8 bits")
        }
        // A group that is the whole row is fitted before anything has changed.
        let isWhole = scheme.groupSize(k: k) >= k
        isStatic = raw.flags & UInt32(INT4Q_GPTQ_STATIC_GROUPS) != 0 || isWhole || scheme.hasGivenScales
        clearsDead = raw.flags & UInt32(INT4Q_GPTQ_CLEAR_DEAD_CHANNELS) != 0
        measuresNearest = raw.flags & UInt32(INT4Q_GPTQ_MEASURE_NEAREST) != 0
        if raw.order == int32(INT4Q_GPTQ_ORDER_ACTIVATIONS) && !isStatic {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "options.order", .integer(Int64(raw.order)),
                          expected: "another order, or INT4Q_GPTQ_STATIC_GROUPS: a tensor has no index of groups")
        }
    }

    public var hasCross: Bool { cross != nil }

    func reportProgress(_ done: Int, _ total: Int, _ parallel: ParallelFor) throws(Failure) {
        guard let progress = raw.progress else { return }
        if parallel.inHostMode({ progress(raw.progress_context, Int64(done), Int64(total)) }) != 0 {
            throw Failure(INT4Q_ERROR_CANCELLED, "options.progress", .text("a wish to end"), expected: "0 to go on")
        }
    }
}

private func requireDamping(_ value: Double, _ name: Text, least: Double) throws(Failure) {
    if !(value >= least && value <= 1e6) {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, name, .number(Float(value)),
                      expected: least == 0 ? "0 to 1e6" : "above 0 and at most 1e6")
    }
}

/// Where the parts of GPTQ's scratch are, each at a multiple of 64 bytes:
///
///     [columns in order] [their positions] [triangle of the factor] [inverses of squares on its diagonal] [outcomes of tasks]
///     GPTAQ: [triangle of the correction] [its products with the inverses]     for each worker [blocks of 16 rows: see GptqLanes]
public struct GptqScratch {
    /// Blocks of 16 rows that go together: what is read of the factor is used for all of them.
    static var laneBlocks: Int { 4 }
    static var taskRows: Int { laneBlocks * 16 }
    /// Tasks that a worker gets before progress is reported.
    static var tasksPerWave: Int { 4 }

    let k: Int
    let padded: Int
    let groups: Int
    let groupSize: Int
    /// Columns that are rounded before the others learn of their errors; whole groups, if those have a size.
    let blockColumns: Int
    let positions: Int
    let factor: Int
    let inverses: Int
    let outcomes: Int
    let correction: Int
    let corrections: Int
    let workers: Int
    let workerBytes: Int
    let lanes: GptqLanesLayout
    public let bytes: UInt64

    @inline(never)
    public init(_ scheme: Scheme, k: Int64, workers: UInt32, hasCross: Bool) throws(Failure) {
        try requireChannels(k)
        let size = Int(min(scheme.groupSize(k: k), k))
        groupSize = size
        blockColumns = size > 128 && size <= 256 && !scheme.isPerRow ? 256 : 128
        self.k = Int(k)
        padded = TrianglePanels(columns: Int(k)).columns
        groups = (Int(k) - 1) / size + 1
        positions = rounded(padded * 4)
        factor = positions * 2
        let triangle = try TrianglePanels.checkedCount(columns: k, "k").times(4)
        let square = UInt64(padded * blockColumns * 4), waves = UInt64(workers) * UInt64(GptqScratch.tasksPerWave * 64)
        let inverse = try triangle.plus(UInt64(factor)), outcome = try inverse.plus(square)
        let main = try outcome.plus(waves), more = hasCross ? try triangle.plus(main.value) : main
        inverses = Int(inverse.value)
        outcomes = Int(outcome.value)
        correction = Int(main.value)
        corrections = Int(more.value)
        self.workers = Int(hasCross ? try more.plus(square).value : main.value)
        lanes = GptqLanesLayout(padded: padded, blockColumns: blockColumns, groups: groups, hasCross: hasCross)
        workerBytes = lanes.bytes * GptqScratch.laneBlocks + blockColumns * (64 * 2 + 4) + 2048
        bytes = try CheckedSize(UInt64(workerBytes), "worker_count", argument: Int64(workers)).times(UInt64(workers))
            .plus(UInt64(self.workers)).value
    }
}

private func rounded(_ bytes: Int) -> Int { (bytes + 63) & ~63 }

/// Numbers of columns are kept in 32 bits.
@inline(never)
func requireChannels(_ k: Int64) throws(Failure) {
    try requireAtLeast(k, 1, "k")
    if k > Int64(Int32.max) {
        throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, "k", .integer(k), expected: "at most", bound: UInt64(Int32.max))
    }
}

/// What a block of 16 rows keeps while columns go by, in 16 lanes:
///
///     [padded] weights, and once a column has been rounded its error     [padded] errors of rounding to nearest
///     [padded] codes, a byte each     [groups] encodings     [groups] scales     [groups] offsets     [groups] zero points
///     [table] [blockColumns] sums of what earlier columns do to the block's, binary64
///     [2] sums of squares of what is left, [2] what damping has added to them, binary64     [2] what the cross matrix adds
///     GPTAQ: [padded] weights times the cross matrix, and once a column has been rounded its weight as it then was
///     [blockColumns] the sums of errors alone, binary64
struct GptqLanesLayout {
    let errors: Int
    let nearest: Int
    let codes: Int
    let encodings: Int
    let scales: Int
    let offsets: Int
    let zeroPoints: Int
    let table: Int
    let sums: Int
    let losses: Int
    let pulls: Int
    let kept: Int
    let bytes: Int

    init(padded: Int, blockColumns: Int, groups: Int, hasCross: Bool) {
        errors = 0
        nearest = padded * 64
        codes = nearest + padded * 64
        encodings = codes + padded * 16
        scales = encodings + groups * MemoryLayout<i4q_lane_encoding>.stride
        offsets = scales + groups * 64
        zeroPoints = offsets + groups * 64
        table = rounded(zeroPoints + groups * 16)
        sums = table + rounded(MemoryLayout<i4q_lane_table>.stride)
        losses = sums + blockColumns * 128
        pulls = losses + 6 * 128
        kept = pulls + (hasCross ? padded * 64 : 0)
        bytes = kept + (hasCross ? blockColumns * 128 : 0)
    }
}
