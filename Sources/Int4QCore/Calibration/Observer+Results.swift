// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

extension Observer {
    func width(_ slot: Int) -> BinWidth { BinWidth(low: lows[slot], high: highs[slot]) }

    func bin(of value: Float, _ slot: Int) -> Int {
        Int(i4q_bin_of(value, width(slot).scale(bins: layout.bins), Int32(truncatingIfNeeded: layout.bins)))
    }

    public func write(to info: UnsafeMutablePointer<int4q_observer_info>) {
        info.pointee.desc = layout.raw
        info.pointee.total_bytes = layout.totalBytes
        info.pointee.slots = Int64(layout.slots)
        info.pointee.batches = batches
        info.pointee.not_finite = notFinite
    }

    @inline(never)
    public func write(slots: Range<Int64>, to statistics: UnsafeMutablePointer<int4q_statistics>) {
        for slot in slots { statistics[Int(slot - slots.lowerBound)] = result(Int(slot)) }
    }

    private func result(_ slot: Int) -> int4q_statistics {
        var result = int4q_statistics()
        if counts[slot] == 0 { return result }
        result.count = counts[slot]
        result.low = lows[slot]
        result.high = highs[slot]
        if layout.hasAverage {
            result.average_low = Float(averageLows[slot])
            result.average_high = Float(averageHighs[slot])
        }
        if layout.hasMoments {
            result.sum = sums[slot]
            result.sum_magnitudes = magnitudes[slot]
            result.sum_squares = squares[slot]
        }
        if layout.hasHistogram { result.bin_width = width(slot).width(bins: layout.bins) }
        return result
    }
}

/// A slot's histogram for a caller: signed, or of magnitudes.
public struct HistogramCopy {
    let observer: Observer
    let slot: Int
    let isSigned: Bool
    public let bins: Int64

    public init(_ observer: Observer, slot: Int64, form: Int32) throws(Failure) {
        if !observer.layout.hasHistogram {
            throw Failure(INT4Q_ERROR_MISMATCH, "observer", .text("one without a histogram"),
                          expected: "one made with INT4Q_OBSERVE_HISTOGRAM")
        }
        if slot < 0 || slot >= Int64(observer.layout.slots) {
            throw .invalid("slot", slot, expected: "0 or more and below", bound: UInt64(observer.layout.slots))
        }
        isSigned = try isSignedForm(form)
        self.observer = observer
        self.slot = Int(slot)
        bins = Int64(observer.layout.bins) * (isSigned ? 2 : 1)
    }

    @inline(never)
    public func write(to counts: UnsafeMutablePointer<Int64>, _ histogram: UnsafeMutablePointer<int4q_histogram>) {
        let half = observer.layout.bins, source = observer.histogram(slot)
        for bin in 0..<Int(bins) {
            counts[bin] = isSigned ? source[bin] : source[half &+ bin] &+ source[half &- 1 &- bin]
        }
        let width = observer.width(slot).width(bins: half)
        let isEmpty = observer.counts[slot] == 0
        histogram.pointee.counts = UnsafePointer(counts)
        histogram.pointee.bins = bins
        histogram.pointee.lowest = isSigned ? -width * Double(half) : 0
        histogram.pointee.width = width
        histogram.pointee.low = isEmpty ? 0 : observer.lows[slot]
        histogram.pointee.high = isEmpty ? 0 : observer.highs[slot]
    }
}

public func isSignedForm(_ form: Int32) throws(Failure) -> Bool {
    if Int(form) != Int(INT4Q_HISTOGRAM_SIGNED) && Int(form) != Int(INT4Q_HISTOGRAM_MAGNITUDES) {
        throw .invalid("form", Int64(form), expected: "INT4Q_HISTOGRAM_SIGNED or INT4Q_HISTOGRAM_MAGNITUDES")
    }
    return Int(form) == Int(INT4Q_HISTOGRAM_SIGNED)
}
