// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Memory for running sums over a histogram: [bins + 1 counts] [bins + 1 numbers of bins that are not empty]
public struct EntropyScratch {
    public let bytes: UInt64
    let length: Int

    public init(bins: Int64) throws(Failure) {
        try requireHistogramBins(bins, "bins")
        length = Int(bins) + 1
        bytes = UInt64(length) * 16
    }
}

/// The slice around the middle bin whose distribution survives being merged into a few bins best.
///
/// With p the slice and, in its end bins, what lies beyond, and q the slice spread evenly over the merged bins, both smoothed (zeros
/// become `smallest`, at the others' expense) and divided by their sums P and Q, the divergence is
///
///     sum (p/P) ln((p/P) / (q/Q)) = (sum p ln p - sum p ln q) / P - ln(P / Q)
///
/// q has one value in each merged bin, so the second sum needs running sums of counts only. The first one's p - e, with another e
/// for each slice, is expanded in powers of e / p, whose sums grow with the slice: no slice is ever read as a whole.
public struct EntropySearch {
    private static var smallest: Double { 0.0001 }

    private let histogram: Histogram
    private let quantizedBins: Int
    private let sums: UnsafeMutablePointer<Int64>
    private let filled: UnsafeMutablePointer<Int64>
    private var inner = PowerSums()

    @inline(never)
    public init(_ histogram: Histogram, quantizedBins: Int64, _ memory: UnsafeMutableRawPointer,
                _ scratch: EntropyScratch) throws(Failure) {
        if quantizedBins < 2 || quantizedBins > Int64(histogram.bins) {
            throw .invalid("quantized_bins", quantizedBins, expected: "2 or more and at most", bound: UInt64(histogram.bins))
        }
        self.histogram = histogram
        self.quantizedBins = Int(quantizedBins)
        sums = memory.assumingMemoryBound(to: Int64.self)
        filled = sums + scratch.length
        sums[0] = 0
        filled[0] = 0
        for bin in 0..<histogram.bins {
            sums[bin + 1] = sums[bin] + histogram.counts[bin]
            filled[bin + 1] = filled[bin] + (histogram.counts[bin] != 0 ? 1 : 0)
        }
    }

    @inline(never)
    public mutating func search() -> int4q_range {
        let middle = histogram.bins / 2, firstHalf = quantizedBins / 2
        var best = Double.infinity, bestHalf = firstHalf
        var inside = middle..<middle // bins whose powers have been summed
        for half in firstHalf...max(firstHalf, middle) {
            let slice = self.slice(half)
            inside = grow(inside, to: (slice.lowerBound + 1)..<(slice.upperBound - 1))
            let divergence = self.divergence(slice)
            if divergence < best {
                best = divergence
                bestHalf = half
            }
        }
        let slice = self.slice(bestHalf)
        return histogram.range(slice.lowerBound, slice.upperBound, low: histogram.edge(slice.lowerBound),
                               high: histogram.edge(slice.upperBound), score: best)
    }

    private func slice(_ half: Int) -> Range<Int> {
        let middle = histogram.bins / 2
        return max(middle - half, 0)..<min(middle + half + 1, histogram.bins)
    }

    /// Slices lie within one another.
    private mutating func grow(_ inside: Range<Int>, to wanted: Range<Int>) -> Range<Int> {
        if wanted.isEmpty { return inside }
        for bin in wanted.lowerBound..<inside.lowerBound { inner.add(histogram.counts[bin]) }
        for bin in inside.upperBound..<wanted.upperBound { inner.add(histogram.counts[bin]) }
        return wanted
    }

    /// Infinite where the slice itself is empty, or too empty to be smoothed.
    private func divergence(_ slice: Range<Int>) -> Double {
        let size = slice.count
        let first = sums[slice.lowerBound + 1], last = histogram.total - sums[slice.upperBound - 1]
        var filledBins = filled[slice.upperBound - 1] - filled[slice.lowerBound + 1]
        filledBins += (first != 0 ? 1 : 0) + (last != 0 ? 1 : 0)
        let empty = Double(Int64(size) - filledBins)
        let taken = EntropySearch.smallest * empty / Double(filledBins)
        if taken >= 1 { return .infinity }

        let merged = MergedBins(slice, quantizedBins, sums: sums, filled: filled, ends: (first, last), taken: taken)
        guard let copy = merged.compare() else { return .infinity }
        var own = inner.sum(taken: taken) + empty * (EntropySearch.smallest * i4q_log(EntropySearch.smallest))
        if first != 0 { own += timesLog(Double(first) - taken) }
        if last != 0 { own += timesLog(Double(last) - taken) }
        let total = Double(histogram.total) // smoothing takes as much as it gives
        return (own - copy.cross) / total - i4q_log(total / copy.total)
    }

    private func timesLog(_ p: Double) -> Double { p * i4q_log(p) }

    /// What the merged bins make of a slice.
    private struct MergedBins {
        let slice: Range<Int>
        let number: Int
        let sums: UnsafeMutablePointer<Int64>
        let filled: UnsafeMutablePointer<Int64>
        let ends: (Int64, Int64)
        let taken: Double
        let length: Int

        init(_ slice: Range<Int>, _ number: Int, sums: UnsafeMutablePointer<Int64>, filled: UnsafeMutablePointer<Int64>,
             ends: (Int64, Int64), taken: Double) {
            self.slice = slice
            self.number = number
            self.sums = sums
            self.filled = filled
            self.ends = ends
            self.taken = taken
            length = slice.count / number
        }

        /// The sums of p ln q and of q, or nil if q is zero everywhere.
        @inline(never)
        func compare() -> (cross: Double, total: Double)? {
            var emptyBins = slice.count - number * length, level: Int64 = 0
            for index in 0..<number {
                let value = self.value(index)
                if value == 0 { emptyBins += length }
                level += value * Int64(length)
            }
            let filledBins = slice.count - emptyBins
            if filledBins == 0 { return nil }
            let smallest = EntropySearch.smallest
            let given = smallest * Double(emptyBins) / Double(filledBins)
            if given >= 1 { return nil }
            let logOfSmallest = i4q_log(smallest)
            var cross = 0.0
            for index in 0..<number {
                let value = self.value(index)
                cross += mass(bins(index)) * (value == 0 ? logOfSmallest : i4q_log(Double(value) - given))
            }
            cross += mass((slice.lowerBound + number * length)..<slice.upperBound) * logOfSmallest
            return (cross, Double(level))
        }

        private func bins(_ index: Int) -> Range<Int> {
            let begin = slice.lowerBound + index * length
            return begin..<(begin + length)
        }

        /// Counts spread over the bins of p that are not zero, without a remainder; the last one also has what does not fill a
        /// merged bin.
        private func value(_ index: Int) -> Int64 {
            let own = bins(index)
            let filledBins = self.filledBins(own)
            if filledBins == 0 { return 0 }
            let end = index == number - 1 ? slice.upperBound : own.upperBound
            return (sums[end] - sums[own.lowerBound]) / filledBins
        }

        /// Of p: the end bins have what lies beyond.
        private func filledBins(_ bins: Range<Int>) -> Int64 {
            var result = filled[bins.upperBound] - filled[bins.lowerBound]
            if bins.lowerBound == slice.lowerBound && !bins.isEmpty {
                result += (ends.0 != 0 ? 1 : 0) - (filled[bins.lowerBound + 1] - filled[bins.lowerBound])
            }
            if bins.upperBound == slice.upperBound && !bins.isEmpty {
                result += (ends.1 != 0 ? 1 : 0) - (filled[bins.upperBound] - filled[bins.upperBound - 1])
            }
            return result
        }

        /// The sum of smoothed p over bins.
        private func mass(_ bins: Range<Int>) -> Double {
            if bins.isEmpty { return 0 }
            let begin = bins.lowerBound == slice.lowerBound ? 0 : sums[bins.lowerBound]
            let isLast = bins.upperBound == slice.upperBound
            let end = isLast ? sums[slice.upperBound - 1] + ends.1 : sums[bins.upperBound]
            let filledBins = self.filledBins(bins)
            return Double(end - begin) - taken * Double(filledBins) + EntropySearch.smallest * Double(Int64(bins.count) - filledBins)
        }
    }
}

/// The sum of (p - e) ln(p - e) over bins p for any e below 1, from sums that do not depend on e:
///
///     (p - e) ln(p - e) = p ln p - e ln p - e + sum over k >= 2 of e^k p^(1-k) / (k (k - 1))
///
/// Bins of few counts, where that converges slowly, are kept by their count.
private struct PowerSums {
    private static var few: Int64 { 16 }
    private static var terms: Int { 12 }

    private var counts = InlineArray<16, Double>(repeating: 0) // of bins with that many counts
    private var timesLogs = 0.0
    private var logs = 0.0
    private var number = 0.0
    private var powers = InlineArray<13, Double>(repeating: 0) // [k]: of p^(1-k)

    mutating func add(_ count: Int64) {
        if count == 0 { return }
        if count < PowerSums.few {
            counts[Int(count)] += 1
            return
        }
        let p = Double(count), logarithm = i4q_log(p), reciprocal = 1 / p
        timesLogs += p * logarithm
        logs += logarithm
        number += 1
        var power = 1.0
        for k in 2...PowerSums.terms {
            power *= reciprocal
            powers[k] += power
        }
    }

    func sum(taken e: Double) -> Double {
        var result = timesLogs - e * (logs + number)
        var power = e
        for k in 2...PowerSums.terms {
            power *= e
            result += power * powers[k] / Double(k * (k - 1))
        }
        for count in 1..<Int(PowerSums.few) where counts[count] != 0 {
            let p = Double(count) - e
            result += counts[count] * (p * i4q_log(p))
        }
        return result
    }
}
