// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Options that were checked, for a scheme that they fit.
public struct GptqOptions {
    let raw: int4q_gptq_options
    let isStatic: Bool
    let clearsDead: Bool
    let measuresNearest: Bool

    @inline(never)
    public init(_ raw: int4q_gptq_options, _ scheme: Scheme, k: Int64) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_gptq_options.self, "options.struct_size")
        let known = UInt32(INT4Q_GPTQ_STATIC_GROUPS) | UInt32(INT4Q_GPTQ_CLEAR_DEAD_CHANNELS) | UInt32(INT4Q_GPTQ_MEASURE_NEAREST)
        if raw.flags & ~known != 0 { throw .invalid("options.flags", Int64(raw.flags), expected: "INT4Q_GPTQ_* added up") }
        if raw.order < int32(INT4Q_GPTQ_ORDER_COLUMNS) || raw.order > int32(INT4Q_GPTQ_ORDER_WITHIN_GROUPS) {
            throw .invalid("options.order", Int64(raw.order), expected: "one of INT4Q_GPTQ_ORDER_*")
        }
        try requireWorkers(raw.worker_count, "options.worker_count")
        try requireDamping(raw.damping, "options.damping", least: 0)
        try requireDamping(raw.damping_step, "options.damping_step", least: .leastNonzeroMagnitude)
        if raw.attempts < 1 || raw.attempts > 1000 { throw .invalid("options.attempts", raw.attempts, expected: "1 to 1000") }
        self.raw = raw
        // A group that is the whole row is fitted before anything has changed.
        let isWhole = scheme.groupSize(k: k) >= k
        isStatic = raw.flags & UInt32(INT4Q_GPTQ_STATIC_GROUPS) != 0 || isWhole
        clearsDead = raw.flags & UInt32(INT4Q_GPTQ_CLEAR_DEAD_CHANNELS) != 0
        measuresNearest = raw.flags & UInt32(INT4Q_GPTQ_MEASURE_NEAREST) != 0
        if raw.order == int32(INT4Q_GPTQ_ORDER_ACTIVATIONS) && !isStatic {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "options.order", .integer(Int64(raw.order)),
                          expected: "another order, or INT4Q_GPTQ_STATIC_GROUPS: a tensor has no index of groups")
        }
    }

    func reportProgress(_ done: Int, _ total: Int, _ parallel: ParallelFor) throws(Failure) {
        guard let progress = raw.progress else { return }
        if parallel.inHostMode({ progress(raw.progress_context, Int64(done), Int64(total)) }) != 0 {
            throw Failure(INT4Q_ERROR_CANCELLED, "options.progress", .text("a wish to end"), expected: "0 to go on")
        }
    }
}

private func requireDamping(_ value: Double, _ name: StaticString, least: Double) throws(Failure) {
    if !(value >= least && value <= 1e6) {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, name, .number(Float(value)),
                      expected: least == 0 ? "0 to 1e6" : "above 0 and at most 1e6")
    }
}

/// Where the parts of GPTQ's scratch are, each at a multiple of 64 bytes:
///
///     [columns in order] [their positions] [triangle of the factor] [inverses of squares on its diagonal] [outcomes of tasks]
///     for each worker [blocks of 16 rows: see GptqLanes]
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
    let workers: Int
    let workerBytes: Int
    let lanes: GptqLanesLayout
    public let bytes: UInt64

    @inline(never)
    public init(_ scheme: Scheme, k: Int64, workers: UInt32) throws(Failure) {
        try requireAtLeast(k, 1, "k")
        // Numbers of columns are kept in 32 bits.
        if k > Int64(Int32.max) {
            throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, "k", .integer(k), expected: "at most", bound: UInt64(Int32.max))
        }
        let size = Int(min(scheme.groupSize(k: k), k))
        groupSize = size
        blockColumns = size > 128 && size <= 256 && !scheme.isPerRow ? 256 : 128
        self.k = Int(k)
        padded = TrianglePanels(columns: Int(k)).columns
        groups = (Int(k) - 1) / size + 1
        positions = rounded(padded * 4)
        factor = positions * 2
        let triangle = try TrianglePanels.checkedCount(columns: k, "k").times(4).plus(UInt64(factor))
        inverses = Int(triangle.value)
        outcomes = inverses + padded * blockColumns * 4
        self.workers = outcomes + Int(workers) * GptqScratch.tasksPerWave * 64
        lanes = GptqLanesLayout(padded: padded, blockColumns: blockColumns, groups: groups)
        workerBytes = lanes.bytes * GptqScratch.laneBlocks + blockColumns * (64 * 2 + 4) + 2048
        bytes = try CheckedSize(UInt64(workerBytes), "worker_count", argument: Int64(workers)).times(UInt64(workers))
            .plus(UInt64(self.workers)).value
    }
}

private func rounded(_ bytes: Int) -> Int { (bytes + 63) & ~63 }

/// What a block of 16 rows keeps while columns go by, in 16 lanes:
///
///     [padded] weights, and once a column has been rounded its error     [padded] errors of rounding to nearest
///     [padded] codes, a byte each     [groups] encodings     [groups] scales     [groups] offsets     [groups] zero points
///     [table] [blockColumns] sums of what earlier columns do to the block's, binary64
///     [2] sums of squares of what is left, [2] what damping has added to them, binary64
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
    let bytes: Int

    init(padded: Int, blockColumns: Int, groups: Int) {
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
        bytes = losses + 4 * 128
    }
}
