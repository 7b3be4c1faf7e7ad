// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// Rows of a few neighbouring columns: where they are, if they are floats and enough, or else a copy in the pusher's buffer.
private struct ColumnTile {
    static var columns: Int { 16 }
    static var rows: Int { PushMemory.length / columns }

    let floats: UnsafePointer<Float>
    let rowBytes: Int

    @inline(never)
    init(_ pusher: BatchPusher, _ row: Int, _ rows: Int, _ column: Int, _ count: Int) {
        if pusher.readsInPlace && count == ColumnTile.columns {
            floats = pusher.floats(row, column, count)
            rowBytes = pusher.source.strideBytes
            return
        }
        let type = pusher.source.type
        for index in 0..<rows {
            let target = pusher.buffer + index &* ColumnTile.columns
            pusher.kernels.load.unsafelyUnwrapped(pusher.source.row(row &+ index) + column &* type.size, Int64(type.raw), Int64(count),
                                                  target)
            for rest in count..<ColumnTile.columns { target[rest] = 0 }
        }
        floats = UnsafePointer(pusher.buffer)
        rowBytes = ColumnTile.columns &* MemoryLayout<Float>.size
    }
}

// The CHANNEL axis: neighbours in a row belong to different slots.
extension BatchPusher {
    /// Rows that are taken together where nothing but their extremes is wanted.
    private var rowsTogether: Int { readsInPlace && !observer.layout.hasMoments ? 8 : 1 }
    /// Their extremes go to the second half of the buffer.
    private var columnsTogether: Int { PushMemory.length / 2 }
    private var blockLows: UnsafeMutablePointer<Float> { buffer + PushMemory.length }
    private var blockHighs: UnsafeMutablePointer<Float> { blockLows + columnsTogether }
    private var tileScales: UnsafeMutablePointer<Float> { blockLows + ColumnTile.columns }

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

    /// A few columns from the first row to the last, so that their histograms stay in a second-level cache. Memory is read better
    /// by the line, but the histograms are the larger part.
    private func pushNarrowBlocks(_ rows: Int) {
        let wide = max(ColumnTile.columns, (1 << 19) / (16 &* observer.layout.bins))
        var column = 0
        while column < source.columns {
            let end = min(column &+ wide, source.columns)
            var row = 0
            while row < rows {
                let left = rows &- row
                let together = left == 1 ? 1 : min(ColumnTile.rows, left & ~1)
                for first in stride(from: column, to: end, by: ColumnTile.columns) {
                    pushTile(row, together, first, min(ColumnTile.columns, end &- first), last: rows &- 1)
                }
                prefetchHistograms(end..<min(end &+ wide, source.columns), row..<(row &+ together), of: rows)
                row &+= together
            }
            column = end
        }
    }

    /// Of the columns that come next, as much as these rows are of all.
    @inline(never)
    private func prefetchHistograms(_ slots: Range<Int>, _ done: Range<Int>, of rows: Int) {
        let lines = slots.count &* observer.layout.bins / 4 // of 64 bytes
        if lines > 2 &* rows { return } // more than there are values to come: most of them would not be used
        let first = UnsafeRawPointer(observer.histogram(slots.lowerBound))
        for line in (lines &* done.lowerBound / rows)..<(lines &* done.upperBound / rows) { i4q_prefetch_far(first + line &* 64) }
    }

    /// At most ColumnTile.rows times ColumnTile.columns values; an even number of rows, or one.
    @inline(never)
    @_optimize(speed)
    private func pushTile(_ row: Int, _ rows: Int, _ column: Int, _ count: Int, last: Int) {
        let tile = ColumnTile(self, row, rows, column, count)
        if rows == 1 || i4q_extremes_of_rows(tile.floats, Int64(tile.rowBytes), Int64(rows), Int64(ColumnTile.columns), blockLows,
                                                 blockHighs) == 0 {
            for next in row..<(row &+ rows) { push(floats(next, column, count), count, firstSlot: column) }
            return
        }
        makeRoom(column, count)
        for index in 0..<rows {
            i4q_prefetch(source.row(min(row &+ rows &+ index, last)) + column &* source.type.size)
            let floats = UnsafeRawPointer(tile.floats).advanced(by: index &* tile.rowBytes).assumingMemoryBound(to: Float.self)
            if observer.layout.hasMoments {
                i4q_add_moments_of_each(floats, Int64(count), observer.sums + column, observer.magnitudes + column,
                                        observer.squares + column)
            }
            i4q_bins_of_columns(floats, tileScales, Int32(truncatingIfNeeded: observer.layout.bins), indices)
            addOneOfEach(observer.histogram(column), count)
        }
    }

    /// Takes the tile's extremes and makes bins as wide as they ask for; writes the columns' scales.
    @inline(never)
    @_optimize(speed)
    private func makeRoom(_ column: Int, _ count: Int) {
        let bins = observer.layout.bins
        for index in 0..<count {
            let slot = column &+ index
            let before = BinWidth(low: observer.lows[slot], high: observer.highs[slot])
            observer.widen(slot, low: blockLows[index], high: blockHighs[index])
            let now = BinWidth(low: observer.lows[slot], high: observer.highs[slot])
            widenBins(observer.histogram(slot), bins: bins, doublings: now.exponent &- before.exponent)
            tileScales[index] = now.scale(bins: bins)
        }
        for index in count..<ColumnTile.columns { tileScales[index] = 0 }
    }

    @inline(__always)
    @_optimize(speed)
    private func addOneOfEach(_ histograms: UnsafeMutablePointer<Int64>, _ count: Int) {
        if count == ColumnTile.columns {
            for lane in 0..<ColumnTile.columns { histograms[Int(indices[lane])] &+= 1 }
        } else {
            for lane in 0..<count { histograms[Int(indices[lane])] &+= 1 }
        }
    }

    @_optimize(speed)
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
    @_optimize(speed)
    private func pushBlock(_ row: Int, _ rows: Int, _ column: Int, _ count: Int) -> Bool {
        let isFinite = i4q_extremes_of_rows(floats(row, column, count), Int64(source.strideBytes), Int64(rows), Int64(count),
                                            blockLows, blockHighs)
        if isFinite == 0 { return false }
        addExtremes(blockLows, count, column)
        addExtremes(blockHighs, count, column)
        return true
    }

    @_optimize(speed)
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
    @_optimize(speed)
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
    @_optimize(speed)
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
