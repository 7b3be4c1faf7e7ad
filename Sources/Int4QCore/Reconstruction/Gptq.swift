// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// What became of some rows.
struct GptqOutcome {
    var loss = 0.0
    var nearestLoss = 0.0
    var nearestRows: Int64 = 0
}

/// A layer on its way through GPTQ: rounded to nearest; then the Gram matrix's factor; then rows, 64 to a task.
public struct Gptq {
    let tensor: QuantizedTensor
    let source: Matrix
    let options: GptqOptions
    let scratch: GptqScratch
    let memory: UnsafeMutableRawPointer
    let kernels: i4q_kernels
    var factor: TriangularFactor
    var total = GptqOutcome()
    /// The first rows that cannot be quantized.
    var badRow: Int64 = .max
    /// Of the wave of tasks that is running.
    var firstTask = 0

    var order: ChannelOrder { factor.source.order }
    var outcomes: UnsafeMutablePointer<GptqOutcome> { (memory + scratch.outcomes).assumingMemoryBound(to: GptqOutcome.self) }
    func worker(_ index: UInt32) -> UnsafeMutableRawPointer { memory + scratch.workers + Int(index) &* scratch.workerBytes }

    @inline(never)
    public init(_ tensor: QuantizedTensor, _ source: Matrix, _ gram: Gram, _ options: GptqOptions, _ scratch: GptqScratch,
                _ memory: UnsafeMutableRawPointer, _ kernels: i4q_kernels) throws(Failure) {
        if gram.layout.k != tensor.layout.k {
            throw Failure(INT4Q_ERROR_MISMATCH, "gram", .integer(gram.layout.k), expected: "a Gram matrix of the tensor's k,",
                          bound: UInt64(tensor.layout.k))
        }
        self.tensor = tensor
        self.source = source
        self.options = options
        self.scratch = scratch
        self.memory = memory
        self.kernels = kernels
        let order = ChannelOrder(columns: memory.assumingMemoryBound(to: Int32.self),
                                 positions: (memory + scratch.positions).assumingMemoryBound(to: Int32.self))
        order.fill(gram, order: options.raw.order, groupSize: scratch.groupSize)
        let source = try DampedGram(gram, order)
        factor = TriangularFactor(source: source, elements: (memory + scratch.factor).assumingMemoryBound(to: Float.self),
                                  kernels: kernels)
        guard let cross = options.cross else { return }
        try cross.require(source)
        factor.correction = .init(cross: cross, alpha: options.raw.alpha,
                                  elements: (memory + scratch.correction).assumingMemoryBound(to: Float.self))
    }

    private var n: Int { Int(tensor.layout.n) }
    private var tasks: Int { (n + GptqScratch.taskRows - 1) / GptqScratch.taskRows }
    private var progressTotal: Int { factor.rows + tasks }

    /// All of it.
    @inline(never)
    public mutating func run(_ parallel: ParallelFor) throws(Failure) {
        try roundToNearest(parallel)
        try makeFactor(parallel)
        try roundRows(parallel)
    }

    public func write(to report: UnsafeMutablePointer<int4q_gptq_report>) {
        report.pointee.damping = factor.source.damping
        report.pointee.retries = factor.retries
        report.pointee.rows = factor.source.gram.rows
        report.pointee.dead_channels = factor.source.deadChannels
        report.pointee.nearest_rows = total.nearestRows
        report.pointee.loss = total.loss
        report.pointee.nearest_loss = total.nearestLoss
    }

    func rows(_ task: Int) -> Range<Int64> {
        let begin = Int64(task &* GptqScratch.taskRows)
        return begin..<min(begin &+ Int64(GptqScratch.taskRows), tensor.layout.n)
    }

    private mutating func roundToNearest(_ parallel: ParallelFor) throws(Failure) {
        try parallel.run(&self, count: tasks) { work, index, _ in
            let gptq = work.unsafelyUnwrapped.assumingMemoryBound(to: Gptq.self)
            let rows = gptq.pointee.rows(Int(index))
            if !gptq.pointee.roundToNearest(rows) { i4q_atomic_least_i64(&gptq.pointee.badRow, rows.lowerBound) }
        }
        // Once more, for the sake of the error.
        if badRow != .max { try quantize(tensor, source, rows: badRow..<tensor.layout.n, kernels) }
    }

    private func roundToNearest(_ rows: Range<Int64>) -> Bool {
        do throws(Failure) { try quantize(tensor, source, rows: rows, kernels) } catch { return false }
        return true
    }

    private mutating func makeFactor(_ parallel: ParallelFor) throws(Failure) {
        try factor.complete(options, parallel, progressTotal: progressTotal)
        try parallel.run(&self, count: (scratch.padded - 1) / scratch.blockColumns + 1) { work, index, _ in
            work.unsafelyUnwrapped.assumingMemoryBound(to: Gptq.self).pointee.invert(Int(index))
        }
    }

    func block(_ index: Int) -> Range<Int> {
        let begin = index &* scratch.blockColumns
        return begin..<min(begin &+ scratch.blockColumns, scratch.padded)
    }

    private func invert(_ index: Int) {
        let block = block(index)
        factor.invert(block.lowerBound, block.upperBound, into: inverse(index))
        factor.multiplyCorrection(block.lowerBound, block.upperBound, by: inverse(index), into: corrections(index))
    }

    func inverse(_ block: Int) -> UnsafeMutablePointer<Float> { square(scratch.inverses, block) }
    /// What each column of a block adds to the later ones.
    func corrections(_ block: Int) -> UnsafeMutablePointer<Float> { square(scratch.corrections, block) }
    private func square(_ offset: Int, _ block: Int) -> UnsafeMutablePointer<Float> {
        (memory + offset).assumingMemoryBound(to: Float.self) + block &* scratch.blockColumns &* scratch.blockColumns
    }

    private mutating func roundRows(_ parallel: ParallelFor) throws(Failure) {
        let wave = Int(options.raw.worker_count) * GptqScratch.tasksPerWave
        while firstTask < tasks {
            try options.reportProgress(factor.rows + firstTask, progressTotal, parallel)
            let count = min(wave, tasks - firstTask)
            try parallel.run(&self, count: count) { work, index, worker in
                let gptq = UnsafePointer(work.unsafelyUnwrapped.assumingMemoryBound(to: Gptq.self))
                let rows = gptq.pointee.rows(gptq.pointee.firstTask &+ Int(index))
                gptq.pointee.outcomes[Int(index)] = GptqRows(gptq, rows, gptq.pointee.worker(worker)).run()
            }
            for index in 0..<count {
                total.loss += outcomes[index].loss
                total.nearestLoss += outcomes[index].nearestLoss
                total.nearestRows += outcomes[index].nearestRows
            }
            firstTask += count
        }
        try options.reportProgress(progressTotal, progressTotal, parallel)
    }
}
