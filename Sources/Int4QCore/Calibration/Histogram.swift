// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A caller's histogram that was checked.
public struct Histogram {
    let counts: UnsafePointer<Int64>
    public let bins: Int
    let lowest: Double
    let width: Double
    let low: Float
    let high: Float
    let total: Int64

    static var mostBins: Int64 { 1 << 20 }

    @inline(never)
    public init(_ raw: int4q_histogram) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_histogram.self, "histogram.struct_size")
        try requireZero(raw.reserved, "histogram.reserved")
        try requireHistogramBins(raw.bins, "histogram.bins")
        counts = try require(raw.counts, "histogram.counts")
        try requireNumber(raw.lowest, "histogram.lowest", raw.lowest.isFinite)
        try requireNumber(raw.width, "histogram.width", raw.width.isFinite && raw.width > 0)
        try requireNumber(Double(raw.low), "histogram.low", raw.low.isFinite && raw.low <= raw.high)
        try requireNumber(Double(raw.high), "histogram.high", raw.high.isFinite)
        bins = Int(raw.bins)
        lowest = raw.lowest
        width = raw.width
        low = raw.low
        high = raw.high
        total = try sum(raw.counts, bins)
    }

    func edge(_ index: Int) -> Double { lowest + Double(index) * width }
    func middle(_ bin: Int) -> Double { lowest + (Double(bin) + 0.5) * width }

    /// The range between two edges, kept within the values that were counted.
    func range(_ lowEdge: Int, _ highEdge: Int, low lowValue: Double, high highValue: Double, score: Double) -> int4q_range {
        int4q_range(low: max(Float(lowValue), low), high: min(Float(highValue), high), low_edge: Int64(lowEdge),
                    high_edge: Int64(highEdge), score: score)
    }
}

public func requireHistogramBins(_ bins: Int64, _ name: Text) throws(Failure) {
    if bins < 1 || bins > Histogram.mostBins {
        throw .invalid(name, bins, expected: "at least 1 and at most", bound: UInt64(Histogram.mostBins))
    }
}

func requireNumber(_ value: Double, _ name: Text, _ isAllowed: Bool) throws(Failure) {
    if !isAllowed {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, name, .number(Float(value)), expected: "a finite number in its range")
    }
}

@inline(never)
private func sum(_ counts: UnsafePointer<Int64>, _ bins: Int) throws(Failure) -> Int64 {
    var total: Int64 = 0
    for bin in 0..<bins {
        let count = counts[bin]
        if count < 0 || count > Observer.largestCount - total {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "histogram.counts", .entry(index: Int64(bin), count),
                          expected: "counts that are not negative and add up to at most", bound: UInt64(Observer.largestCount))
        }
        total += count
    }
    if total == 0 {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "histogram.counts", .text("all zero"), expected: "something counted")
    }
    return total
}
