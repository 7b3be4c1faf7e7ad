// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// A caller's search that was checked.
public struct RangeSearch {
    let lowest: Double
    let highest: Double
    let divisor: Double
    let norm: Double
    let steps: Int
    let tried: Int

    @inline(never)
    public init(_ raw: int4q_range_search) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_range_search.self, "search.struct_size")
        try requireZero(raw.reserved, "search.reserved")
        try requireWithin(raw.lowest_code, -32768, 32766, "search.lowest_code")
        try requireWithin(raw.highest_code, raw.lowest_code + 1, 32767, "search.highest_code")
        try requireNumber(raw.divisor, "search.divisor", raw.divisor.isFinite && raw.divisor >= 0)
        try requireNumber(raw.norm, "search.norm", raw.norm > 0 && raw.norm <= 8)
        try requireWithin(raw.steps, 1, 10000, "search.steps")
        try requireWithin(raw.tried, 1, raw.steps, "search.tried")
        lowest = Double(raw.lowest_code)
        highest = Double(raw.highest_code)
        divisor = raw.divisor
        norm = raw.norm
        steps = Int(raw.steps)
        tried = Int(raw.tried)
    }

    @inline(never)
    public func best(_ histogram: Histogram) -> int4q_range {
        let whole = ends(histogram)
        var best = Double.infinity, bestEnds = whole
        for index in 0..<tried {
            let factor = 1 - Double(index) / Double(steps)
            let ends = (low: whole.low * factor, high: whole.high * factor)
            let error = self.error(histogram, ends)
            if error < best {
                best = error
                bestEnds = ends
            }
        }
        return int4q_range(low: Float(bestEnds.low), high: Float(bestEnds.high), low_edge: 0, high_edge: Int64(histogram.bins),
                           score: best)
    }

    private func ends(_ histogram: Histogram) -> (low: Double, high: Double) {
        let low = Double(histogram.low), high = Double(histogram.high)
        if divisor == 0 { return (min(low, 0), max(high, 0)) }
        let largest = max(-low, high)
        return (-largest, largest)
    }

    @inline(never)
    private func error(_ histogram: Histogram, _ ends: (low: Double, high: Double)) -> Double {
        let step = divisor == 0 ? (ends.high - ends.low) / (highest - lowest) : ends.high / divisor
        let zero = divisor == 0 && step > 0 ? clip(lowest - roundedToEven(ends.low / step)) : 0
        var sum = 0.0
        for bin in 0..<histogram.bins where histogram.counts[bin] != 0 {
            let value = histogram.middle(bin)
            let code = step > 0 ? clip(roundedToEven(value / step) + zero) : zero
            sum += Double(histogram.counts[bin]) * power((value - step * (code - zero)).magnitude)
        }
        return sum / Double(histogram.total)
    }

    private func clip(_ code: Double) -> Double { min(max(code, lowest), highest) }

    private func power(_ error: Double) -> Double { norm == 2 ? error * error : i4q_pow(error, norm) }
}

func requireWithin(_ value: Int32, _ lowest: Int32, _ highest: Int32, _ name: Text) throws(Failure) {
    if value < lowest || value > highest { throw .invalid(name, Int64(value), expected: "a number within its documented range") }
}

/// Half to even, without the library routine that this would be on a processor of the baseline. Beyond 2^51 the result is still
/// far beyond every code.
func roundedToEven(_ value: Double) -> Double {
    let shift = 0x1.8p52
    return (value + shift) - shift
}
