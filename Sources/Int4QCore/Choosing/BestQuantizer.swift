// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Tries schemes and methods on one matrix: rounding to nearest with all schemes; GPTQ with the better quarter; every method with
/// the best few. Of a scheme's methods each row keeps the result that serves it best.
public struct BestQuantizer {
    private enum Step { case nearest, clip, hqq, search, descent, losses }
    private var method: Step = .nearest

    private let candidates: Candidates
    private let options: BestOptions
    private let n: Int64
    private let scratch: BestScratch
    private let memory: UnsafeMutableRawPointer
    private let result: UnsafeMutableRawPointer
    private let kernels: i4q_kernels
    private let begun: Double
    private let trials: UnsafeMutablePointer<int4q_trial>?
    private let capacity: Int64

    /// The matrix as it is, or times AWQ's scales.
    private var source: Matrix
    private var gram: Gram
    private var isScaled = false

    /// The candidate that is at work, and its two tensors: one to be made better, and one on trial.
    private var candidate = 0
    private var scheme: Scheme
    private var codebook: UnsafePointer<Float>?
    private var placed: PlacedTensor
    private var work: int4q_tensor
    private var trial: int4q_tensor
    private var failures: UInt32 = 0

    private var count: Int64 = 0
    private var isCutShort = false
    private var best = int4q_tensor()
    private var bestLoss = Double.infinity
    private var bestCandidate = -1
    private var bestIsScaled = false
    private var nearestLoss = Double.infinity

    @inline(never)
    public init(_ candidates: Candidates, _ options: BestOptions, n: Int64, _ source: Matrix, _ gram: Gram, _ scratch: BestScratch,
                _ memory: UnsafeMutableRawPointer, result: UnsafeMutableRawPointer, trials: UnsafeMutablePointer<int4q_trial>?,
                capacity: Int64, _ kernels: i4q_kernels) throws(Failure) {
        begun = i4q_seconds()
        try gram.requireColumns(Int64(source.columns), "a Gram matrix of k,")
        self.candidates = candidates
        self.options = options
        self.n = n
        self.source = source
        self.gram = gram
        self.scratch = scratch
        self.memory = memory
        self.result = result
        self.trials = trials
        self.capacity = capacity
        self.kernels = kernels
        scheme = try candidates.scheme(0)
        placed = try PlacedTensor(scheme, n: n, k: Int64(source.columns))
        work = int4q_tensor()
        trial = int4q_tensor()
    }

    private func doubles(_ offset: Int) -> UnsafeMutablePointer<Double> { (memory + offset).assumingMemoryBound(to: Double.self) }
    private var losses: UnsafeMutablePointer<Double> { doubles(scratch.losses) }
    private var workLosses: UnsafeMutablePointer<Double> { doubles(scratch.workLosses) }
    private var trialLosses: UnsafeMutablePointer<Double> { doubles(scratch.trialLosses) }
    private var ranks: UnsafeMutablePointer<UInt8> { (memory + scratch.ranks).assumingMemoryBound(to: UInt8.self) }
    private var k: Int64 { Int64(source.columns) }

    @inline(never)
    public mutating func run(_ parallel: ParallelFor, scales: UnsafeMutablePointer<Float>?) throws(Failure) {
        try source.eachRun(0..<n, kernels, isChecked: true) { _, _, _, _ in }
        let allowed = try screen()
        scales?.update(repeating: 1, count: Int(k))
        for index in 0..<candidates.count where ranks[index] == 1 {
            try begin(index)
            try run(Int(INT4Q_METHOD_NEAREST), parallel)
            nearestLoss = min(nearestLoss, losses[index])
        }
        for _ in 0..<max(4, (allowed + 3) / 4) {
            guard options.allows(Int(INT4Q_METHOD_GPTQ)), let index = next(after: 1) else { break }
            try begin(index)
            try run(Int(INT4Q_METHOD_GPTQ), parallel)
        }
        try runFinals(parallel)
        if let scales, try scale(parallel, scales) {
            try runFinals(parallel)
            if !bestIsScaled { scales.update(repeating: 1, count: Int(k)) }
        }
        if bestCandidate < 0 {
            throw Failure(INT4Q_ERROR_NOT_FINITE, "source", .text("a matrix with groups too large"),
                          expected: "groups whose scale and offset fit a candidate's scale_type")
        }
        try parallel.report(options.raw.progress, options.raw.progress_context, most, most)
    }

    private var most: Int { 2 * candidates.count + 16 * Int(min(options.raw.finalists, Int32(candidates.count))) + 1 }

    public func write(_ tensor: UnsafeMutablePointer<int4q_tensor>,
                      _ report: UnsafeMutablePointer<int4q_best_report>) throws(Failure) {
        tensor.pointee = best
        report.pointee.candidate = Int32(bestCandidate)
        report.pointee.is_scaled = bestIsScaled ? 1 : 0
        report.pointee.is_cut_short = isCutShort ? 1 : 0
        report.pointee.trials = count
        report.pointee.bytes = try BlobLayout(try candidates.scheme(bestCandidate), n: n, k: k).totalBytes
        report.pointee.loss = bestLoss
        report.pointee.nearest_loss = nearestLoss
    }

    // MARK: Candidates

    /// Marks what is within the limits with 1, everything else with 255; how many are.
    @inline(never)
    private mutating func screen() throws(Failure) -> Int {
        var allowed = 0, leastBytes = UInt64.max, leastBits = Double.infinity
        for index in 0..<candidates.count {
            let scheme = try candidates.scheme(index), placed = try PlacedTensor(scheme, n: n, k: k)
            _ = try candidates.checkedCodebooks(index, n: n, memory + scratch.codebooks + index * 64)
            let bytes = try BlobLayout(scheme, n: n, k: k).totalBytes, bits = placed.storedBits(scheme)
            let fitsBits = options.raw.most_bits == 0 || bits <= options.raw.most_bits * Double(n) * Double(k)
            let fitsBytes = options.raw.most_bytes == 0 || bytes <= options.raw.most_bytes
            leastBits = min(leastBits, bits)
            if fitsBits { leastBytes = min(leastBytes, bytes) }
            ranks[index] = fitsBits && fitsBytes ? 1 : 255
            losses[index] = .infinity
            if fitsBits && fitsBytes { allowed += 1 }
        }
        if allowed > 0 { return allowed }
        if leastBytes == .max {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "options.most_bits", .number(Float(options.raw.most_bits)),
                          expected: "what a candidate takes: none has so few bits")
        }
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "options.most_bytes", .unsigned(options.raw.most_bytes), expected: "at least",
                      bound: leastBytes)
    }

    /// The candidate of the least loss whose rank is not above one, which it leaves.
    private func next(after rank: UInt8) -> Int? {
        var best = -1
        for index in 0..<candidates.count where ranks[index] <= rank && losses[index].isFinite {
            if best < 0 || losses[index] < losses[best] { best = index }
        }
        if best < 0 { return nil }
        ranks[best] = rank + 1
        return best
    }

    @inline(never)
    private mutating func begin(_ index: Int) throws(Failure) {
        candidate = index
        scheme = try candidates.scheme(index)
        codebook = try candidates.codebook(index, (memory + scratch.codebooks + index * 64).assumingMemoryBound(to: Float.self))
        placed = try PlacedTensor(scheme, n: n, k: k)
        work = placed.tensor(scheme.raw, at: memory, codebook: codebook)
        trial = placed.tensor(scheme.raw, at: memory + scratch.trial, codebook: codebook)
        workLosses.update(repeating: .infinity, count: Int(n))
    }

    /// All methods with the best candidates.
    @inline(never)
    private mutating func runFinals(_ parallel: ParallelFor) throws(Failure) {
        for index in 0..<candidates.count where ranks[index] != 255 { ranks[index] = 2 }
        for _ in 0..<options.raw.finalists {
            guard let index = next(after: 2) else { return }
            try begin(index)
            for method in 0..<Int(INT4Q_METHOD_COUNT) where method == Int(INT4Q_METHOD_NEAREST) || options.allows(method) {
                try run(method, parallel, isFinal: true)
            }
        }
    }

    // MARK: Methods

    /// Tries a method on the candidate; its rows go to the working tensor where they are better, and all that to the result if it is
    /// the best so far. What has been tried before with the same outcome is no trial: it is done again for its rows.
    @inline(never)
    private mutating func run(_ method: Int, _ parallel: ParallelFor, isFinal: Bool = false) throws(Failure) {
        if !applies(method) { return }
        let start = i4q_seconds()
        if count > 0 && options.raw.seconds > 0 && start - begun > options.raw.seconds {
            isCutShort = true
            return
        }
        try parallel.report(options.raw.progress, options.raw.progress_context, min(Int(count), most - 1), most)
        failures = 0
        try attempt(method, parallel)
        let isDescent = method == Int(INT4Q_METHOD_DESCENT)
        var loss = Double.infinity
        if failures == 0 {
            loss = sum(isDescent ? workLosses : trialLosses)
            if !isDescent { merge() }
            keep()
        }
        losses[candidate] = min(losses[candidate], loss)
        if isFinal && !isScaled && method <= Int(INT4Q_METHOD_GPTQ) { return }
        if count < capacity {
            trials?[Int(count)] = int4q_trial(candidate: Int32(candidate), method: Int32(truncatingIfNeeded: method),
                                              is_scaled: isScaled ? 1 : 0, reserved: 0, loss: loss,
                                              bytes: try BlobLayout(scheme, n: n, k: k).totalBytes, seconds: i4q_seconds() - start)
        }
        count += 1
    }

    private func applies(_ method: Int) -> Bool {
        switch method {
        case Int(INT4Q_METHOD_NEAREST): true
        case Int(INT4Q_METHOD_HQQ): scheme.kind == .offset && !scheme.usesGgmlRounding && !scheme.usesMlxRounding
        case Int(INT4Q_METHOD_DESCENT): scheme.width.isNibble
        case Int(INT4Q_METHOD_SEARCH): scheme.width.isNibble && scheme.hasFreeScales
        case Int(INT4Q_METHOD_CLIP): !scheme.hasUnitScale
        case Int(INT4Q_METHOD_CLIP_GPTQ): !scheme.hasUnitScale && !scheme.isFew
        // Of a group that is the whole row both orders are one.
        case Int(INT4Q_METHOD_GPTQ_ACTIVATIONS): !scheme.isFew && scheme.groupSize(k: k) < k
        default: !scheme.isFew
        }
    }

    @inline(never)
    private mutating func attempt(_ method: Int, _ parallel: ParallelFor) throws(Failure) {
        switch method {
        case Int(INT4Q_METHOD_NEAREST): try spread(.nearest, parallel)
        case Int(INT4Q_METHOD_CLIP): try spread(.clip, parallel)
        case Int(INT4Q_METHOD_HQQ): try spread(.hqq, parallel)
        case Int(INT4Q_METHOD_SEARCH): try spread(.search, parallel)
        case Int(INT4Q_METHOD_DESCENT):
            // Where no method has left anything there is nothing to improve.
            if !sum(workLosses).isFinite { failures = 1 } else { try spread(.descent, parallel) }
        case Int(INT4Q_METHOD_CLIP_GPTQ):
            try spread(.clip, parallel)
            if failures != 0 { return }
            var given = trial
            given.scheme.scale_rule = int32(INT4Q_SCALE_GIVEN)
            if !scheme.usesLogarithms { given.scheme.rounding = int32(INT4Q_ROUNDING_NEAREST_EVEN) }
            try runGptq(given, INT4Q_GPTQ_ORDER_ACTIVATIONS, parallel)
        case Int(INT4Q_METHOD_GPTQ): try runGptq(trial, INT4Q_GPTQ_ORDER_COLUMNS, parallel)
        case Int(INT4Q_METHOD_GPTQ_WITHIN_GROUPS): try runGptq(trial, INT4Q_GPTQ_ORDER_WITHIN_GROUPS, parallel)
        default: try runGptq(trial, INT4Q_GPTQ_ORDER_ACTIVATIONS, parallel)
        }
    }

    @inline(never)
    private mutating func runGptq(_ tensor: int4q_tensor, _ order: Int, _ parallel: ParallelFor) throws(Failure) {
        var raw = int4q_gptq_options()
        raw.struct_size = UInt32(MemoryLayout<int4q_gptq_options>.stride)
        raw.flags = order == INT4Q_GPTQ_ORDER_ACTIVATIONS ? UInt32(INT4Q_GPTQ_STATIC_GROUPS) : 0
        raw.order = int32(order)
        raw.worker_count = options.raw.worker_count
        raw.damping = 0.01
        raw.damping_step = 0.01
        raw.attempts = 100
        do throws(Failure) {
            let tensor = try QuantizedTensor(tensor), size = try GptqScratch(scheme, k: k, workers: raw.worker_count, hasCross: false)
            var gptq = try Gptq(tensor, source, gram, try GptqOptions(raw, tensor.scheme, k: k), size, memory + scratch.area, kernels)
            try gptq.run(parallel)
        } catch {
            failures = 1
            return
        }
        try spread(.losses, parallel)
    }

    /// A method that takes 16 rows at a time, and these rows' losses.
    @inline(never)
    private mutating func spread(_ method: Step, _ parallel: ParallelFor) throws(Failure) {
        self.method = method
        try parallel.run(&self, count: (Int(n) - 1) / 16 + 1) { work, index, worker in
            let own = work.unsafelyUnwrapped.assumingMemoryBound(to: BestQuantizer.self)
            do throws(Failure) { try own.pointee.runRows(index, worker) } catch { i4q_atomic_store_u32(&own.pointee.failures, 1) }
        }
    }

    @inline(never)
    private func runRows(_ task: Int64, _ worker: UInt32) throws(Failure) {
        let rows = task &* 16..<min(task &* 16 &+ 16, n)
        let own = memory + scratch.area + Int(worker) &* scratch.workerBytes, rest = own + scratch.rest
        let tensor = try QuantizedTensor(method == .descent ? work : trial)
        switch method {
        case .nearest: try quantize(tensor, source, rows: rows, kernels)
        case .clip, .search:
            // As if whole matrices stood there, of which only these rows are touched.
            let first = Int(rows.lowerBound), groups = Int(tensor.layout.groupsPerRow), columns = source.columns
            let clipped = Matrix(base: own - first &* columns &* 4, type: .f32, columns: columns, strideBytes: columns &* 4)
            let clips = (own + scratch.clips).assumingMemoryBound(to: Float.self) - first &* groups
            let trial = try QuantizationTrial(scheme, codebook, n: n, source, gram, kernels)
            try AwqClips(trial, try AwqClipScratch(scheme, k: k), rest, steps: 20, tried: 10, clips, clipped).run(rows)
            try quantize(tensor, clipped, rows: rows, kernels)
            if method == .search {
                var search = int4q_scale_search()
                search.rounds = 20
                search.reach = 0.1
                var descent = try descent(tensor, rest)
                _ = try descent.search(rows, search)
                try descent.run(rows)
            }
        case .hqq:
            var raw = int4q_hqq_options()
            raw.struct_size = UInt32(MemoryLayout<int4q_hqq_options>.stride)
            raw.iterations = 20
            raw.p = 0.7
            raw.beta = 10
            try HalfQuadratic(tensor, source, raw, kernels).run(rows)
        case .descent:
            var descent = try descent(tensor, rest)
            try descent.run(rows)
        case .losses: break
        }
        try GramLoss(tensor, source, gram, nil, try GramLossScratch(k: k), rest, kernels)
            .write(rows: rows, to: method == .descent ? workLosses : trialLosses)
    }

    @inline(never)
    private func descent(_ tensor: QuantizedTensor, _ memory: UnsafeMutableRawPointer) throws(Failure) -> GramDescent {
        var raw = int4q_descent_options()
        raw.struct_size = UInt32(MemoryLayout<int4q_descent_options>.stride)
        raw.flags = scheme.hasFreeScales ? UInt32(INT4Q_DESCENT_REFIT_SCALES) : 0
        raw.sweeps = options.raw.sweeps
        return try GramDescent(tensor, source, gram, raw, try DescentScratch(scheme, k: k), memory, kernels)
    }

    private func sum(_ losses: UnsafePointer<Double>) -> Double {
        var sum = 0.0
        for row in 0..<Int(n) { sum += losses[row] }
        return sum
    }

    private func merge() {
        for row in 0..<Int(n) where trialLosses[row] < workLosses[row] {
            workLosses[row] = trialLosses[row]
            placed.copyRow(row, from: memory + scratch.trial, to: memory)
        }
    }

    private mutating func keep() {
        let loss = sum(workLosses)
        if !(loss < bestLoss) { return }
        bestLoss = loss
        best = placed.copy(work, to: result)
        bestCandidate = candidate
        bestIsScaled = isScaled
    }

    // MARK: AWQ's scales

    /// Turns to the matrix times the best scales, and its inputs divided by them; false if there are none.
    @inline(never)
    private mutating func scale(_ parallel: ParallelFor, _ scales: UnsafeMutablePointer<Float>) throws(Failure) -> Bool {
        if bestCandidate < 0 { return false }
        if options.raw.seconds > 0 && i4q_seconds() - begun > options.raw.seconds {
            isCutShort = true
            return false
        }
        try begin(bestCandidate)
        var raw = int4q_awq_options(), report = int4q_awq_report()
        raw.struct_size = UInt32(MemoryLayout<int4q_awq_options>.stride)
        raw.worker_count = options.raw.worker_count
        raw.steps = 20
        let trial = try QuantizationTrial(scheme, codebook, n: n, source, gram, kernels)
        let size = try AwqScratch(scheme, n: n, k: k, workers: raw.worker_count)
        var search = try AwqSearch(trial, try AwqOptions(raw), size, memory + scratch.area)
        try search.run(parallel, scales, &report)
        if report.step < 0 { return false }
        let scaled = Matrix(base: memory + scratch.scaledSource, type: .f32, columns: source.columns,
                            strideBytes: source.columns * 4)
        try ColumnScaling(scales, count: Int(k), operation: int32(INT4Q_COLUMNS_MULTIPLY))
            .apply(source, to: scaled, rows: 0..<n, from: 0, kernels)
        let copy = memory + scratch.scaledGram
        copy.copyMemory(from: gram.memory, byteCount: Int(scratch.gramBytes))
        gram = try Gram(copy, bytes: scratch.gramBytes, .usual)
        gram.divide(by: scales)
        source = scaled
        isScaled = true
        return true
    }
}

extension Gram {
    /// As if each channel of every x had been divided by its scale.
    @inline(never)
    func divide(by scales: UnsafePointer<Float>) {
        let k = Int(layout.k)
        for column in 0..<k {
            let scale = Double(scales[column])
            sums[column] /= scale
            magnitudes[column] /= scale
            maxima[column] /= scales[column]
            // With the lower part of the square on the diagonal.
            for row in 0..<min((column / panelWidth + 1) * panelWidth, k) {
                products[TrianglePanels.place(row, column)] /= scale * Double(scales[row])
            }
        }
    }
}
