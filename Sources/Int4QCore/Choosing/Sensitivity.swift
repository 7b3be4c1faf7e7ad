// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Where the parts of the scratch are: losses of tasks, of 16 rows each; a codebook; for each worker the largest candidate's rows.
public struct SensitivityScratch {
    let tasks: Int
    let codebook: Int
    let workers: Int
    let workerBytes: Int
    public let bytes: UInt64

    @inline(never)
    public init(_ candidates: Candidates, n: Int64, k: Int64, workers: UInt32) throws(Failure) {
        var largest = 0
        for index in 0..<candidates.count {
            let scheme = try candidates.scheme(index)
            _ = try TensorLayout(scheme, n: n, k: k)
            largest = max(largest, try TrialRows(scheme, columns: k).bytes)
        }
        tasks = (Int(n) - 1) / 16 + 1
        codebook = wholeLines(tasks * 8)
        self.workers = codebook + 64
        workerBytes = largest
        bytes = try CheckedSize(UInt64(largest), "worker_count", argument: Int64(workers)).times(UInt64(workers))
            .plus(UInt64(self.workers)).value
    }
}

/// What rounding a matrix to nearest with each of some schemes does: one after the other, 16 rows to a task.
public struct Sensitivity {
    private let candidates: Candidates
    private let n: Int64
    private let source: Matrix
    private let gram: Gram?
    private let scratch: SensitivityScratch
    private let memory: UnsafeMutableRawPointer
    private let kernels: i4q_kernels
    private var rows: TrialRows
    private var codebooks: CallersCodebooks?

    private var losses: UnsafeMutablePointer<Double> { memory.assumingMemoryBound(to: Double.self) }

    @inline(never)
    public init(_ candidates: Candidates, n: Int64, _ source: Matrix, _ gram: Gram?, _ scratch: SensitivityScratch,
                _ memory: UnsafeMutableRawPointer, _ kernels: i4q_kernels) throws(Failure) {
        if let gram { try gram.requireColumns(Int64(source.columns), "a Gram matrix of k,") }
        self.candidates = candidates
        self.n = n
        self.source = source
        self.gram = gram
        self.scratch = scratch
        self.memory = memory
        self.kernels = kernels
        rows = try TrialRows(try candidates.scheme(0), columns: Int64(source.columns))
    }

    @inline(never)
    public mutating func run(_ options: SearchOptions, _ parallel: ParallelFor, _ losses: UnsafeMutablePointer<Double>?,
                             _ bytes: UnsafeMutablePointer<UInt64>?) throws(Failure) {
        let named = memory + scratch.codebook
        for index in 0..<candidates.count { _ = try candidates.checkedCodebooks(index, n: n, named) }
        if losses != nil { try source.eachRun(0..<n, kernels, isChecked: true) { _, _, _, _ in } }
        for index in 0..<candidates.count {
            let scheme = try candidates.scheme(index)
            bytes?[index] = try BlobLayout(scheme, n: n, k: Int64(source.columns)).totalBytes
            guard let losses else { continue }
            try options.report(index, candidates.count, parallel)
            rows = try TrialRows(scheme, columns: Int64(source.columns))
            codebooks = try candidates.checkedCodebooks(index, n: n, named)
            try parallel.run(&self, count: scratch.tasks) { work, index, worker in
                work.unsafelyUnwrapped.assumingMemoryBound(to: Sensitivity.self).pointee.run(Int64(index), worker)
            }
            var loss = 0.0
            for task in 0..<scratch.tasks { loss += self.losses[task] }
            losses[index] = loss.isFinite ? loss * (gram?.share ?? 1) : loss
        }
        try options.report(candidates.count, candidates.count, parallel)
    }

    @inline(never)
    private func run(_ task: Int64, _ worker: UInt32) {
        let memory = memory + scratch.workers + Int(worker) &* scratch.workerBytes
        let range = task &* 16..<min(task &* 16 &+ 16, n), count = Int64(range.count)
        let own = Matrix(base: source.row(Int(range.lowerBound)), type: source.type, columns: source.columns,
                         strideBytes: source.strideBytes)
        var loss = Double.infinity
        do throws(Failure) {
            let codebook = codebooks?.row(Int(range.lowerBound))
            let tensor = try rows.tensor(memory, rows: range.count, columns: source.columns, codebook: codebook)
            try quantize(tensor, own, rows: 0..<count, kernels)
            loss = try gram == nil ? squares(tensor, own, count) : form(tensor, own, count, memory)
        } catch {}
        losses[Int(task)] = loss
    }

    private func form(_ tensor: QuantizedTensor, _ own: Matrix, _ count: Int64,
                      _ memory: UnsafeMutableRawPointer) throws(Failure) -> Double {
        guard let gram else { return 0 }
        let form = rows.form(gram, memory, kernels)
        try form.load(tensor, own, 0..<count, kernels)
        form.add(0..<gram.panels)
        var loss = 0.0
        for lane in 0..<16 { loss += form.sums[lane] }
        return loss
    }

    private func squares(_ tensor: QuantizedTensor, _ own: Matrix, _ count: Int64) throws(Failure) -> Double {
        var loss = 0.0
        try TensorRuns.with(tensor, own, kernels) { (runs) throws(Failure) in
            for row in 0..<Int(count) {
                var column = 0
                while column < own.columns {
                    let length = try runs.load(row, column)
                    for index in 0..<length {
                        let error = Double(runs.source[index]) - Double(runs.decoded[index])
                        loss += error * error
                    }
                    column += length
                }
            }
        }
        return loss
    }
}
