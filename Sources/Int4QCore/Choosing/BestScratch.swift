// SPDX-License-Identifier: Apache-2.0
import CInt4Q

public struct BestOptions {
    let raw: int4q_best_options

    @inline(never)
    public init(_ raw: int4q_best_options) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_best_options.self, "options.struct_size")
        try requireWorkers(raw.worker_count, "options.worker_count")
        if raw.methods >> UInt32(INT4Q_METHOD_COUNT) != 0 {
            throw .invalid("options.methods", Int64(raw.methods), expected: "1 << INT4Q_METHOD_*, added up")
        }
        try requireAtLeast(Int64(raw.finalists), 1, "options.finalists")
        if raw.sweeps < 1 || raw.sweeps > 10000 { throw .invalid("options.sweeps", raw.sweeps, expected: "1 to 10000") }
        try requireLimit(raw.most_bits, "options.most_bits")
        try requireLimit(raw.seconds, "options.seconds")
        self.raw = raw
    }

    func allows(_ method: Int) -> Bool { raw.methods == 0 || raw.methods >> UInt32(truncatingIfNeeded: method) & 1 != 0 }
}

private func requireLimit(_ value: Double, _ name: Text) throws(Failure) {
    if !(value >= 0 && value.isFinite) {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, name, .number(Float(value)), expected: "a finite number of at least 0")
    }
}

/// The size of memory for the largest tensor.
@inline(never)
public func bestMemory(_ candidates: Candidates, n: Int64, k: Int64) throws(Failure) -> UInt64 {
    var largest: UInt64 = 0
    for index in 0..<candidates.count {
        largest = max(largest, try PlacedTensor(try candidates.scheme(index), n: n, k: k).bytes.value)
    }
    return largest
}

/// Where the parts of the scratch are:
///
///     [tensor that is being made better] [tensor on trial] [n] losses of each's rows
///     [count] candidates' losses and ranks, codebooks     [k] scales, the scaled matrix, its Gram matrix
///     what a method needs: GPTQ's or AWQ's scratch, or each worker's rows
public struct BestScratch {
    let trial: Int
    let workLosses: Int
    let trialLosses: Int
    let losses: Int
    let ranks: Int
    let codebooks: Int
    let scales: Int
    let scaledSource: Int
    let scaledGram: Int
    let gramBytes: UInt64
    let area: Int
    /// In a worker's part: clipped rows, clips, then what else.
    let clips: Int
    let rest: Int
    let workerBytes: Int
    public let bytes: UInt64

    @inline(never)
    public init(_ candidates: Candidates, n: Int64, k: Int64, workers: UInt32, hasScales: Bool) throws(Failure) {
        gramBytes = try GramLayout(k: k).totalBytes // k is small enough for all that follows
        let tensor = try CheckedSize(try bestMemory(candidates, n: n, k: k), "n", argument: n).roundedUp(to: 64)
        let doubles = try CheckedSize(UInt64(n), "n").times(8).roundedUp(to: 64).value
        var size = tensor
        func take(_ bytes: UInt64) throws(Failure) -> Int {
            let place = size.value
            size = try size.plus(bytes).roundedUp(to: 64)
            return Int(place)
        }
        trial = try take(tensor.value)
        workLosses = try take(doubles)
        trialLosses = try take(doubles)
        losses = try take(UInt64(candidates.count) * 8)
        ranks = try take(UInt64(candidates.count))
        codebooks = try take(UInt64(candidates.count) * 64)
        scales = try take(hasScales ? UInt64(k) * 4 : 0)
        scaledSource = try take(hasScales ? CheckedSize(UInt64(n), "n").times(UInt64(k)).times(4).value : 0)
        scaledGram = try take(hasScales ? gramBytes : 0)
        area = Int(size.value)

        var largest: UInt64 = 0, row = try GramLossScratch(k: k).bytes
        for index in 0..<candidates.count {
            let scheme = try candidates.scheme(index)
            if !scheme.isFew { largest = max(largest, try GptqScratch(scheme, k: k, workers: workers, hasCross: false).bytes) }
            if hasScales { largest = max(largest, try AwqScratch(scheme, n: n, k: k, workers: workers).bytes) }
            row = max(row, try DescentScratch(scheme, k: k).bytes, try AwqClipScratch(scheme, k: k).bytes)
        }
        let floats = try CheckedSize(UInt64(k), "k").times(64)
        clips = Int(floats.value)
        rest = 2 * clips // no more groups than columns
        workerBytes = Int(try floats.times(2).plus(row).roundedUp(to: 64).value)
        let all = try CheckedSize(UInt64(workerBytes), "worker_count", argument: Int64(workers)).times(UInt64(workers))
        bytes = try size.plus(max(largest, all.value)).value
    }
}
