// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// The CHANNEL axis: neighbours in a row belong to different slots.
extension BatchPusher {
    @inline(never)
    func pushColumns(rows: Int) {
        let columns = runs.source.columns
        for row in 0..<rows {
            var column = 0
            while column < columns {
                let count = min(longestRun, columns &- column)
                push(floats(row, column, count), count, firstSlot: column)
                column &+= count
            }
        }
        // Those that were not finite have been subtracted already.
        for slot in 0..<columns { observer.count(rows, slot) }
    }

    private func push(_ floats: UnsafePointer<Float>, _ count: Int, firstSlot: Int) {
        var range = i4q_group_range()
        runs.findRange(floats, Int64(count), &range)
        if range.first_not_finite >= 0 {
            pushFinite(floats, count, firstSlot)
            return
        }
        if observer.layout.hasHistogram { addToHistograms(floats, count, firstSlot) }
        if observer.layout.hasMoments {
            i4q_add_moments_of_each(floats, Int64(count), observer.sums + firstSlot, observer.magnitudes + firstSlot,
                                    observer.squares + firstSlot)
        }
        i4q_extremes_of_each(floats, Int64(count), observer.lows + firstSlot, observer.highs + firstSlot)
        if observer.layout.hasAverage {
            i4q_extremes_of_each(floats, Int64(count), observer.batchLows + firstSlot, observer.batchHighs + firstSlot)
        }
    }

    @inline(never)
    private func pushFinite(_ floats: UnsafePointer<Float>, _ count: Int, _ firstSlot: Int) {
        for index in 0..<count {
            let slot = firstSlot &+ index, value = floats[index]
            if !value.isFinite {
                observer.notFinite &+= 1
                observer.count(-1, slot)
                continue
            }
            if observer.layout.hasHistogram { addToHistogram(value, slot) }
            if observer.layout.hasMoments {
                i4q_add_moments_of_each(floats + index, 1, observer.sums + slot, observer.magnitudes + slot, observer.squares + slot)
            }
            observer.widen(slot, low: value, high: value)
        }
    }

    @inline(never)
    private func addToHistograms(_ floats: UnsafePointer<Float>, _ count: Int, _ firstSlot: Int) {
        for index in 0..<count { addToHistogram(floats[index], firstSlot &+ index) }
    }

    /// Before the value is among the slot's extremes.
    @inline(__always)
    private func addToHistogram(_ value: Float, _ slot: Int) {
        let bins = observer.layout.bins
        let low = observer.lows[slot], high = observer.highs[slot]
        let before = BinWidth(low: low, high: high)
        let now = BinWidth(low: min(low, value), high: max(high, value))
        let histogram = observer.histogram(slot)
        if now.exponent > before.exponent { widenBins(histogram, bins: bins, doublings: now.exponent &- before.exponent) }
        histogram[Int(i4q_bin_of(value, now.scale(bins: bins), Int32(truncatingIfNeeded: bins)))] &+= 1
    }
}
