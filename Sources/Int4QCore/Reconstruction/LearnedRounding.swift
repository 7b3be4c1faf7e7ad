// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// What became of some rows.
struct LearningOutcome {
    var improvedRows: Int64 = 0
    var changedCodes: Int64 = 0
    var changedScales: Int64 = 0
    var bestIteration: Int64 = 0
    var loss = 0.0
    var startLoss = 0.0
}

/// A layer whose rounding is learned: 64 rows to a task, as many tasks at a time as there are workers. Their iterations go side by
/// side in runs, so that progress can be told, and an end be asked for, between them.
public struct LearnedRounding {
    enum Phase { case begin, iterate, finish }

    let tensor: QuantizedTensor
    let source: Matrix
    let gram: Gram
    let options: LearningOptions
    let scratch: LearningScratch
    let memory: UnsafeMutableRawPointer
    let kernels: i4q_kernels
    /// What G is multiplied by, so that its mean diagonal is 1..2.
    let scale: Double
    private var phase = Phase.begin
    /// Of the wave of tasks that is running, and its run of iterations.
    private var firstTask = 0
    private var iterations: Range<Int64> = 0..<0
    /// The first row of tasks that cannot be read.
    private var badRow: Int64 = .max
    private var total = LearningOutcome()

    var square: UnsafeMutablePointer<Float> { memory.assumingMemoryBound(to: Float.self) }
    private var outcomes: UnsafeMutablePointer<LearningOutcome> {
        (memory + scratch.outcomes).assumingMemoryBound(to: LearningOutcome.self)
    }

    @inline(never)
    public init(_ tensor: QuantizedTensor, _ source: Matrix, _ gram: Gram, _ options: LearningOptions, _ scratch: LearningScratch,
                _ memory: UnsafeMutableRawPointer, _ kernels: i4q_kernels) throws(Failure) {
        try gram.requireColumns(tensor.layout.k, "a Gram matrix of the tensor's k,")
        try gram.validate("gram")
        self.tensor = tensor
        self.source = source
        self.gram = gram
        self.options = options
        self.scratch = scratch
        self.memory = memory
        self.kernels = kernels
        var sum = 0.0
        for channel in 0..<scratch.k { sum += gram.diagonal(channel) / Double(scratch.k) }
        scale = sum > 0 ? Double(sign: .plus, exponent: min(-sum.exponent, 1000), significand: 1) : 1
    }

    public func write(to report: UnsafeMutablePointer<int4q_learning_report>) {
        report.pointee.improved_rows = total.improvedRows
        report.pointee.changed_codes = total.changedCodes
        report.pointee.changed_scales = total.changedScales
        report.pointee.best_iteration = total.bestIteration
        report.pointee.loss = total.loss
        report.pointee.start_loss = total.startLoss
    }

    private var tasks: Int { (Int(tensor.layout.n) + LearningScratch.taskRows - 1) / LearningScratch.taskRows }

    /// All of it.
    @inline(never)
    public mutating func run(_ parallel: ParallelFor) throws(Failure) {
        try parallel.run(&self, count: scratch.padded / panelWidth) { work, index, _ in
            work.unsafelyUnwrapped.assumingMemoryBound(to: LearnedRounding.self).pointee.narrow(Int(index))
        }
        // About a tenth of a second of products for each run of iterations.
        let cost = LearningScratch.taskRows * scratch.padded * scratch.padded
        let length = Int64(max(1, (1 << 32) / cost)), each = options.raw.iterations
        let all = Int64(tasks) * each
        while firstTask < tasks {
            let count = min(Int(options.raw.worker_count), tasks - firstTask)
            try run(.begin, count, parallel)
            // Once more, for the sake of the error.
            let badRow = badRow
            if badRow != .max { // once more, for the sake of the error
                try withUnsafeMutablePointer(to: &self) { (work) throws(Failure) in
                    try LearnedRows(work, firstRow: badRow, slot: 0).begin()
                }
            }
            iterations = 0..<0
            while iterations.upperBound < each {
                try options.reportProgress(Int64(firstTask) * each + iterations.upperBound * Int64(count), all, parallel)
                iterations = iterations.upperBound..<min(iterations.upperBound + length, each)
                try run(.iterate, count, parallel)
            }
            try run(.finish, count, parallel)
            for index in 0..<count { add(outcomes[index]) }
            firstTask += count
        }
        try options.reportProgress(all, all, parallel)
    }

    private mutating func add(_ outcome: LearningOutcome) {
        total.improvedRows += outcome.improvedRows
        total.changedCodes += outcome.changedCodes
        total.changedScales += outcome.changedScales
        total.bestIteration = max(total.bestIteration, outcome.bestIteration)
        total.loss += outcome.loss
        total.startLoss += outcome.startLoss
    }

    private mutating func run(_ phase: Phase, _ count: Int, _ parallel: ParallelFor) throws(Failure) {
        self.phase = phase
        try parallel.run(&self, count: count) { work, index, _ in
            LearnedRounding.take(work.unsafelyUnwrapped.assumingMemoryBound(to: LearnedRounding.self), Int(index))
        }
    }

    /// A task's share of a phase.
    @inline(never)
    private static func take(_ work: UnsafeMutablePointer<LearnedRounding>, _ slot: Int) {
        let first = Int64((work.pointee.firstTask &+ slot) &* LearningScratch.taskRows)
        let rows = LearnedRows(work, firstRow: first, slot: slot)
        switch work.pointee.phase {
        case .begin:
            do throws(Failure) { try rows.begin() } catch { i4q_atomic_least_i64(&work.pointee.badRow, first) }
        case .iterate:
            for iteration in work.pointee.iterations { rows.iterate(iteration) }
        case .finish:
            work.pointee.outcomes[slot] = rows.finish()
        }
    }

    /// A panel of G in binary32, with the part below the diagonal.
    @inline(never)
    private func narrow(_ panel: Int) {
        let target = square + panel &* scratch.panelStride, first = panel &* panelWidth
        for row in 0..<scratch.padded {
            for lane in 0..<panelWidth {
                let place = TrianglePanels.symmetricPlace(row, first &+ lane)
                target[row &* panelWidth &+ lane] = Float(gram.products[place] * scale)
            }
        }
    }
}

/// Up to 64 rows in blocks of 16, each row in a lane.
struct LearnedRows {
    private let work: UnsafePointer<LearnedRounding>
    private let rows: Range<Int64>
    private let memory: UnsafeMutableRawPointer

    init(_ work: UnsafePointer<LearnedRounding>, firstRow: Int64, slot: Int) {
        self.work = work
        rows = firstRow..<min(firstRow &+ Int64(LearningScratch.taskRows), work.pointee.tensor.layout.n)
        memory = work.pointee.memory + work.pointee.scratch.tasks + slot &* work.pointee.scratch.taskBytes
    }

    private var laneBlocks: Int { (rows.count &+ 15) / 16 }
    private func lanes(_ index: Int) -> LearnedLanes {
        let begin = rows.lowerBound &+ Int64(index &* 16)
        return LearnedLanes(work, begin..<min(begin &+ 16, rows.upperBound), memory + index &* work.pointee.scratch.laneBytes)
    }

    @inline(never)
    func begin() throws(Failure) {
        for index in 0..<laneBlocks { try lanes(index).begin() }
    }

    @inline(never)
    func finish() -> LearningOutcome {
        var outcome = LearningOutcome()
        for index in 0..<laneBlocks { lanes(index).finish(&outcome) }
        return outcome
    }

    /// Errors of the values that rounding gives now; their products with G, a block of columns at a time, which are the gradient; a
    /// step against it.
    @inline(never)
    func iterate(_ iteration: Int64) {
        let rate = LearningRate(work.pointee.options, iteration)
        for index in 0..<laneBlocks { lanes(index).round() }
        let padded = work.pointee.scratch.padded
        var column = 0
        while column < padded {
            let block = column..<min(column &+ LearningScratch.blockColumns, padded)
            multiply(block)
            for index in 0..<laneBlocks { lanes(index).step(block, rate) }
            column = block.upperBound
        }
        for index in 0..<laneBlocks { lanes(index).conclude(iteration, rate) }
    }

    @inline(never)
    private func multiply(_ block: Range<Int>) {
        let scratch = work.pointee.scratch
        var update = i4q_rank_update()
        update.left_stride = Int64(scratch.panelStride)
        update.left_panels = Int64(block.count / panelWidth)
        update.right_stride = Int64(scratch.laneBytes / 4)
        update.out_stride = Int64(scratch.laneBytes / 8)
        for index in 0..<laneBlocks { lanes(index).sums.update(repeating: 0, count: block.count &* 16) }
        let left = work.pointee.square + block.lowerBound / panelWidth &* scratch.panelStride
        var depth = 0
        while depth < scratch.padded {
            update.left = UnsafePointer(left + depth &* panelWidth)
            update.depth = Int64(min(chainLength, scratch.padded &- depth))
            var index = 0
            while index < laneBlocks {
                let lanes = lanes(index)
                update.right = UnsafePointer(lanes.errors + depth &* 16)
                update.right_panels = Int64(min(2, laneBlocks &- index))
                update.out = lanes.sums
                work.pointee.kernels.rank_update.unsafelyUnwrapped(&update)
                index &+= 2
            }
            depth &+= chainLength
        }
    }
}
