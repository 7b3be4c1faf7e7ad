// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// The CHANNEL axis: neighbours in a row belong to different slots.
extension BatchPusher {
    /// Rows that are taken together where nothing but their extremes is wanted.
    private var rowsTogether: Int { readsInPlace && !observer.layout.hasMoments ? 8 : 1 }
    /// Their extremes go to the second half of the buffer.
    private var columnsTogether: Int { PushMemory.length / 2 }
    private var blockLows: UnsafeMutablePointer<Float> { buffer + PushMemory.length }
    private var blockHighs: UnsafeMutablePointer<Float> { blockLows + columnsTogether }

    @inline(never)
    func pushColumns(rows: Int) {
        if observer.layout.hasHistogram {
            pushNarrowBlocks(rows)
        } else {
            pushRowsTogether(rows)
        }
        // Those that were not finite have been subtracted already.
        for slot in 0..<source.columns { observer.count(rows, slot) }
    }

    /// A few columns from the first row to the last, so that their histograms stay in a cache.
    private func pushNarrowBlocks(_ rows: Int) {
        var column = 0
        while column < source.columns {
            let count = min(32, source.columns &- column)
            for row in 0..<rows { push(floats(row, column, count), count, firstSlot: column) }
            column &+= count
        }
    }

    private func pushRowsTogether(_ rows: Int) {
        var row = 0
        while row < rows {
            let together = min(rowsTogether, rows &- row)
            var column = 0
            while column < source.columns {
                let count = min(columnsTogether, source.columns &- column)
                if together < 8 || count & 7 != 0 || !pushBlock(row, together, column, count) {
                    for next in row..<(row &+ together) { push(floats(next, column, count), count, firstSlot: column) }
                }
                column &+= count
            }
            row &+= together
        }
    }

    /// False, and nothing done, if there are values that are not finite.
    @inline(never)
    private func pushBlock(_ row: Int, _ rows: Int, _ column: Int, _ count: Int) -> Bool {
        let isFinite = i4q_extremes_of_rows(floats(row, column, count), Int64(source.strideBytes), Int64(rows), Int64(count),
                                            blockLows, blockHighs)
        if isFinite == 0 { return false }
        addExtremes(blockLows, count, column)
        addExtremes(blockHighs, count, column)
        return true
    }

    private func push(_ floats: UnsafePointer<Float>, _ count: Int, firstSlot: Int) {
        if range(floats, count).first_not_finite >= 0 {
            pushFinite(floats, count, firstSlot)
            return
        }
        // Before the extremes: bins are as wide as those without these values ask for.
        if observer.layout.hasHistogram { addToHistograms(floats, count, firstSlot) }
        if observer.layout.hasMoments {
            i4q_add_moments_of_each(floats, Int64(count), observer.sums + firstSlot, observer.magnitudes + firstSlot,
                                    observer.squares + firstSlot)
        }
        addExtremes(floats, count, firstSlot)
    }

    @inline(never)
    private func addExtremes(_ floats: UnsafePointer<Float>, _ count: Int, _ firstSlot: Int) {
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
