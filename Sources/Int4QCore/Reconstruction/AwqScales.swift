// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

public struct AwqOptions {
    let raw: int4q_awq_options

    @inline(never)
    public init(_ raw: int4q_awq_options) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_awq_options.self, "options.struct_size")
        try requireWorkers(raw.worker_count, "options.worker_count")
        if raw.steps < 1 || raw.steps > 1000 { throw .invalid("options.steps", Int64(raw.steps), expected: "1 to 1000") }
        try requireZero(raw.reserved, "options.reserved")
        self.raw = raw
    }

    func reportProgress(_ done: Int32, _ parallel: ParallelFor) throws(Failure) {
        guard let progress = raw.progress else { return }
        if parallel.inHostMode({ progress(raw.progress_context, Int64(done), Int64(raw.steps) + 1) }) != 0 {
            throw Failure(INT4Q_ERROR_CANCELLED, "options.progress", .text("a wish to end"), expected: "0 to go on")
        }
    }
}

/// Where the parts of the search's scratch are:
///
///     [k] relative magnitudes of weights, binary64     [tasks] losses     [k] scales on trial     for each worker: TrialRows
public struct AwqScratch {
    let rows: TrialRows
    let tasks: Int
    let losses: Int
    let scales: Int
    let workers: Int
    public let bytes: UInt64

    @inline(never)
    public init(_ scheme: Scheme, n: Int64, k: Int64, workers: UInt32) throws(Failure) {
        _ = try TensorLayout(scheme, n: n, k: k)
        rows = try TrialRows(scheme, columns: k)
        tasks = (Int(n) - 1) / 16 + 1
        losses = wholeLines(Int(k) * 8)
        scales = losses + wholeLines(tasks * 8)
        self.workers = scales + wholeLines(Int(k) * 4)
        bytes = try CheckedSize(UInt64(rows.bytes), "worker_count", argument: Int64(workers)).times(UInt64(workers))
            .plus(UInt64(self.workers)).value
    }
}

/// AWQ's search for scales of columns: one ratio after the other, for each of them all rows, 16 to a task.
public struct AwqSearch {
    let trial: QuantizationTrial
    let options: AwqOptions
    let scratch: AwqScratch
    let memory: UnsafeMutableRawPointer

    private var magnitudes: UnsafeMutablePointer<Double> { memory.assumingMemoryBound(to: Double.self) }
    private var losses: UnsafeMutablePointer<Double> { (memory + scratch.losses).assumingMemoryBound(to: Double.self) }
    private var scales: UnsafeMutablePointer<Float> { (memory + scratch.scales).assumingMemoryBound(to: Float.self) }
    private var k: Int { trial.source.columns }

    @inline(never)
    public init(_ trial: QuantizationTrial, _ options: AwqOptions, _ scratch: AwqScratch,
                _ memory: UnsafeMutableRawPointer) throws(Failure) {
        self.trial = trial
        self.options = options
        self.scratch = scratch
        self.memory = memory
        try trial.codebooks?.check(0..<trial.n, "codebook")
        try measureWeights()
    }

    @inline(never)
    public mutating func run(_ parallel: ParallelFor, _ best: UnsafeMutablePointer<Float>,
                             _ report: UnsafeMutablePointer<int4q_awq_report>) throws(Failure) {
        var step: Int32 = -1, bestLoss = Double.infinity
        while step < options.raw.steps {
            try options.reportProgress(step + 1, parallel)
            makeScales(step)
            try parallel.run(&self, count: scratch.tasks) { work, index, worker in
                work.unsafelyUnwrapped.assumingMemoryBound(to: AwqSearch.self).pointee.run(Int64(index), worker)
            }
            var loss = 0.0
            for index in 0..<scratch.tasks { loss += losses[index] }
            if loss.isFinite { loss *= trial.gram.share }
            if step < 0 { report.pointee.plain_loss = loss }
            if loss < bestLoss {
                bestLoss = loss
                report.pointee.step = step
                best.update(from: scales, count: k)
            }
            step += 1
        }
        try options.reportProgress(options.raw.steps + 1, parallel)
        if !bestLoss.isFinite {
            throw Failure(INT4Q_ERROR_NOT_FINITE, "source", .text("a matrix with groups too large"),
                          expected: "groups whose scale and offset fit scheme.scale_type")
        }
        report.pointee.loss = bestLoss
    }

    /// Means over rows of each weight's share of its group's largest.
    @inline(never)
    private func measureWeights() throws(Failure) {
        let source = trial.source, size = Int(trial.scheme.groupSize(k: Int64(k)))
        // Of a row's groups.
        let largest = scales, magnitudes = self.magnitudes
        magnitudes.update(repeating: 0, count: k)
        for row in 0..<trial.n {
            largest.update(repeating: 0, count: (k &- 1) / size &+ 1)
            try raise(largest, source, rows: row..<row + 1, size: size, trial.kernels)
            try source.eachRun(row..<row + 1, trial.kernels, isChecked: false) { runs, _, column, count in
                for index in 0..<count {
                    let magnitude = Double(runs.floats[index].magnitude)
                    magnitudes[column &+ index] += magnitude / (Double(largest[(column &+ index) / size]) + 1e-6)
                }
            }
        }
        for column in 0..<k { magnitudes[column] /= Double(trial.n) }
    }

    /// Of a step's ratio; all 1 before the first.
    @inline(never)
    private func makeScales(_ step: Int32) {
        scales.update(repeating: 1, count: k)
        if step < 0 { return }
        let ratio = Double(step) / Double(options.raw.steps)
        var least = Float.infinity, largest: Float = 0
        for column in 0..<k {
            let scale = Float(scale(column, ratio))
            scales[column] = scale
            least = min(least, scale)
            largest = max(largest, scale)
        }
        let divisor = (Double(least) * Double(largest)).squareRoot()
        for column in 0..<k { scales[column] = Float(Double(scales[column]) / divisor) }
    }

    private func scale(_ column: Int, _ ratio: Double) -> Double {
        let gram = trial.gram
        let known = gram.magnitudes[column] * gram.share
        let activation = known > 0 ? known : (gram.diagonal(column) * gram.share).squareRoot()
        return max(i4q_pow(activation, ratio) / (i4q_pow(magnitudes[column], 1 - ratio) + 1e-4), 1e-4)
    }

    @inline(never)
    private func run(_ task: Int64, _ worker: UInt32) {
        let memory = memory + scratch.workers + Int(worker) &* scratch.rows.bytes
        let form = scratch.rows.form(trial.gram, memory, trial.kernels), scaled = scratch.rows.matrix(memory, k)
        let rows = task &* 16..<min(task &* 16 &+ 16, trial.n), own = 0..<Int64(rows.count)
        do throws(Failure) {
            try ColumnScaling(multiplyingBy: scales).apply(trial.source, to: scaled, rows: rows, from: 0, trial.kernels)
            let tensor = try scratch.rows.tensor(memory, rows: rows.count, columns: k, codebook: trial.codebook(rows.lowerBound))
            try quantize(tensor, scaled, rows: own, trial.kernels)
            try form.load(tensor, scaled, own, trial.kernels)
        } catch {
            losses[Int(task)] = .infinity
            return
        }
        for column in 0..<k {
            for lane in 0..<16 { form.errors[column &* 16 &+ lane] /= scales[column] }
        }
        form.add(0..<trial.gram.panels)
        var loss = 0.0
        for lane in 0..<16 { loss += form.sums[lane] }
        losses[Int(task)] = loss
    }
}
