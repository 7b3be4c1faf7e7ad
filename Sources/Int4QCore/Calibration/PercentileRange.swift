// SPDX-License-Identifier: Apache-2.0
import CInt4Q

extension Histogram {
    /// ONNX Runtime's percentiles: shares are summed up as NumPy's cumsum does, so that rounding decides alike.
    @inline(never)
    public func percentileRange(_ percentile: Double, isSigned: Bool) throws(Failure) -> int4q_range {
        try requireNumber(percentile, "percentile", percentile >= 0 && percentile <= 100)
        let cut = (100 - percentile) / 200
        let top = firstBin(reaching: isSigned ? 1 - cut : percentile / 100)
        let bottom = isSigned ? firstBin(reaching: cut) : 0
        let high = edge(top), low = isSigned ? edge(bottom) : -high
        return range(bottom, top, low: low, high: high, score: share(bottom..<max(bottom, top)))
    }

    /// `bins` if rounding keeps the sum below.
    private func firstBin(reaching share: Double) -> Int {
        var sum = 0.0
        for bin in 0..<bins {
            sum += Double(counts[bin]) / Double(total)
            if sum >= share { return bin }
        }
        return bins
    }

    private func share(_ bins: Range<Int>) -> Double {
        var sum: Int64 = 0
        for bin in bins { sum += counts[bin] }
        return Double(sum) / Double(total)
    }
}
