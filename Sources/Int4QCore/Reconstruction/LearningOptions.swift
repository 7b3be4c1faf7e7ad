// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Options of learned rounding that were checked, for a scheme that they fit.
public struct LearningOptions {
    let raw: int4q_learning_options
    /// Whether rounding is AdaRound's.
    let isAdaptive: Bool
    /// Whether ranges are learned, too.
    let learnsRanges: Bool

    @inline(never)
    public init(_ raw: int4q_learning_options, _ scheme: Scheme) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_learning_options.self, "options.struct_size")
        try requireWorkers(raw.worker_count, "options.worker_count")
        try requireZero(raw.reserved, "options.reserved")
        isAdaptive = raw.method == int32(INT4Q_LEARN_ADAROUND)
        if !isAdaptive && raw.method != int32(INT4Q_LEARN_AUTOROUND) {
            throw .invalid("options.method", Int64(raw.method), expected: "one of INT4Q_LEARN_*")
        }
        if raw.iterations < 1 || raw.iterations > 1_000_000 {
            throw .invalid("options.iterations", raw.iterations, expected: "1 to 1000000")
        }
        try require(raw.step, "options.step", .leastNonzeroMagnitude, 1e6, "above 0 and at most 1e6")
        try require(raw.range_step, "options.range_step", 0, 1e6, "0 to 1e6")
        try require(raw.least_range, "options.least_range", .leastNonzeroMagnitude, 1, "above 0 and at most 1")
        try require(raw.most_range, "options.most_range", 1, 2, "1 to 2")
        try require(raw.regularization, "options.regularization", 0, 1e6, "0 to 1e6")
        try require(raw.warm_up, "options.warm_up", 0, 1, "0 to 1")
        try require(raw.first_exponent, "options.first_exponent", 1, 1000, "1 to 1000")
        try require(raw.last_exponent, "options.last_exponent", 1, 1000, "1 to 1000")
        if scheme.isFew || scheme.kind == .codebook {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "tensor.scheme.kind", .integer(Int64(scheme.raw.kind)),
                          expected: "SYMMETRIC, ASYMMETRIC or OFFSET, whose values are evenly spaced")
        }
        learnsRanges = !isAdaptive && raw.range_step > 0 && scheme.hasFreeScales && !scheme.hasGivenScales
        self.raw = raw
    }

    func reportProgress(_ done: Int64, _ total: Int64, _ parallel: ParallelFor) throws(Failure) {
        guard let progress = raw.progress else { return }
        if parallel.inHostMode({ progress(raw.progress_context, done, total) }) != 0 {
            throw Failure(INT4Q_ERROR_CANCELLED, "options.progress", .text("a wish to end"), expected: "0 to go on")
        }
    }
}

@inline(never)
private func require(_ value: Double, _ name: Text, _ least: Double, _ most: Double,
                     _ expected: Text) throws(Failure) {
    if !(value >= least && value <= most) {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, name, .number(Float(value)), expected: expected)
    }
}

/// Where the parts of learned rounding's scratch are, each at a multiple of 64 bytes:
///
///     [G in binary32: panels of 16 columns, each [padded][16]] [an outcome for each task of a wave]
///     for each task of a wave, of which there are as many as workers, [blocks of 16 rows: see LearnedLanes]
public struct LearningScratch {
    /// Blocks of 16 rows that go together: what is read of G is used for all of them.
    static var laneBlocks: Int { 4 }
    static var taskRows: Int { laneBlocks * 16 }
    /// Columns whose products are kept at a time.
    static var blockColumns: Int { 128 }

    let k: Int
    let padded: Int
    let groups: Int
    let groupSize: Int
    let outcomes: Int
    let tasks: Int
    /// Within a block of 16 rows: arrays of [padded][16] floats, of as many bytes, of groups' parameters, and the rest.
    let codes: Int
    let parameters: Int
    let sums: Int
    let products: Int
    let losses: Int
    let laneBytes: Int
    public let bytes: UInt64

    static var floatArrays: Int { 7 }
    static var groupBytes: Int { 1280 }
    var taskBytes: Int { laneBytes * LearningScratch.laneBlocks }
    /// Floats from one panel of G to the next.
    var panelStride: Int { padded &* panelWidth }

    @inline(never)
    public init(_ scheme: Scheme, k: Int64, workers: UInt32) throws(Failure) {
        try requireAtLeast(k, 1, "k")
        // So that no sum of what belongs to a row overflows.
        if k > Int64(Int32.max) {
            throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, "k", .integer(k), expected: "at most", bound: UInt64(Int32.max))
        }
        self.k = Int(k)
        padded = TrianglePanels(columns: Int(k)).columns
        groupSize = Int(min(scheme.groupSize(k: k), k))
        groups = (Int(k) - 1) / groupSize + 1
        outcomes = Int(try CheckedSize(UInt64(padded), "k", argument: k).times(UInt64(padded)).times(4).value)
        tasks = outcomes + Int(workers) * 64
        codes = LearningScratch.floatArrays * padded * 64
        parameters = codes + 2 * padded * 16
        sums = parameters + groups * LearningScratch.groupBytes
        products = sums + LearningScratch.blockColumns * 128
        losses = products + wholeLines(GramForm.productBytes)
        laneBytes = losses + 640
        bytes = try CheckedSize(UInt64(laneBytes * LearningScratch.laneBlocks), "worker_count", argument: Int64(workers))
            .times(UInt64(workers)).plus(UInt64(tasks)).value
    }
}
