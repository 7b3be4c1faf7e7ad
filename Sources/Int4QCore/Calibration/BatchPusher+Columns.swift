// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// The CHANNEL axis: neighbours in a row belong to different slots.
extension BatchPusher {
    /// Rows that are taken together where they are read in place: their runs stay in a first-level cache. A histogram must know the
    /// extremes of each row before the next.
    private var rowsTogether: Int { readsInPlace && !observer.layout.hasHistogram ? 8 : 1 }
    private var columnsTogether: Int { readsInPlace ? 512 : PushMemory.length }

    @inline(never)
    func pushColumns(rows: Int) {
        var row = 0
        while row < rows {
            let together = min(rowsTogether, rows &- row)
            var column = 0
            while column < source.columns {
                let count = min(columnsTogether, source.columns &- column)
                push(row, together, column, count)
                column &+= count
            }
            row &+= together
        }
        // Those that were not finite have been subtracted already.
        for slot in 0..<source.columns { observer.count(rows, slot) }
    }

    /// Rows with values that are not finite are taken one value at a time, the others' extremes together.
    private func push(_ firstRow: Int, _ rows: Int, _ column: Int, _ count: Int) {
        var begin = firstRow
        let end = firstRow &+ rows
        for row in firstRow..<end {
            let floats = self.floats(row, column, count)
            if range(floats, count).first_not_finite >= 0 {
                pushExtremes(begin..<row, column, count)
                pushFinite(floats, count, column)
                begin = row &+ 1
            } else {
                pushSums(floats, count, column)
            }
        }
        pushExtremes(begin..<end, column, count)
    }

    /// Before extremes: bins are as wide as those before these values ask for, or wider.
    private func pushSums(_ floats: UnsafePointer<Float>, _ count: Int, _ firstSlot: Int) {
        if observer.layout.hasHistogram { addToHistograms(floats, count, firstSlot) }
        if observer.layout.hasMoments {
            i4q_add_moments_of_each(floats, Int64(count), observer.sums + firstSlot, observer.magnitudes + firstSlot,
                                    observer.squares + firstSlot)
        }
    }

    private func pushExtremes(_ rows: Range<Int>, _ column: Int, _ count: Int) {
        if rows.isEmpty { return }
        // What is not read in place is one row, and in the buffer still.
        let floats = readsInPlace ? self.floats(rows.lowerBound, column, count) : UnsafePointer(buffer)
        addExtremes(floats, rows.count, count, observer.lows + column, observer.highs + column)
        if observer.layout.hasAverage {
            addExtremes(floats, rows.count, count, observer.batchLows + column, observer.batchHighs + column)
        }
    }

    @inline(never)
    private func addExtremes(_ floats: UnsafePointer<Float>, _ rows: Int, _ count: Int, _ lows: UnsafeMutablePointer<Float>,
                             _ highs: UnsafeMutablePointer<Float>) {
        i4q_extremes_of_each(floats, Int64(source.strideBytes), Int64(rows), Int64(count), lows, highs)
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
