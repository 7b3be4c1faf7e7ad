// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

extension Observer {
    /// Takes a batch; nothing in its values can make this fail.
    @inline(never)
    public func push(_ x: Matrix, rows: Int64, _ kernels: i4q_kernels) throws(Failure) {
        try requireExtent(x, rows)
        let isOneRow = layout.axis == .tensor && (rows == 1 || x.strideBytes == x.columns * x.type.size)
        let count = Int64(x.columns) * rows
        let source = isOneRow
            ? try Matrix(x.base, x.type, rows: 1, columns: count, stride: count, .init("x", stride: "ldx")) : x
        try FloatRuns.with(source, "x", kernels, room: FloatRuns.length * 4) { (runs) throws(Failure) in
            let pusher = BatchPusher(self, runs)
            if layout.axis == .channel {
                pusher.pushColumns(rows: Int(rows))
            } else {
                pusher.pushRows(isOneRow ? 1 : Int(rows))
            }
        }
        if layout.hasAverage { moveAverages() }
        batches &+= 1
    }

    private func requireExtent(_ x: Matrix, _ rows: Int64) throws(Failure) {
        if layout.axis == .tensor { return }
        let isToken = layout.axis == .token
        let found = isToken ? rows : Int64(x.columns)
        if found != layout.raw.extent {
            throw Failure(INT4Q_ERROR_MISMATCH, isToken ? "rows" : "columns", .integer(found), expected: "the observer's extent,",
                          bound: UInt64(layout.raw.extent))
        }
    }

    /// Slots without a finite value in this batch keep theirs.
    private func moveAverages() {
        let momentum = Double(layout.raw.momentum)
        for slot in 0..<layout.slots where batchLows[slot] <= batchHighs[slot] {
            move(&averageLows[slot], to: Double(batchLows[slot]), momentum, isFirst: averageLows[slot] == .infinity)
            move(&averageHighs[slot], to: Double(batchHighs[slot]), momentum, isFirst: averageHighs[slot] == -.infinity)
        }
        clearBatch()
    }

    private func move(_ average: inout Double, to value: Double, _ momentum: Double, isFirst: Bool) {
        let step = momentum * (value - average)
        average = isFirst ? value : average + step
    }

    func count(_ number: Int, _ slot: Int) { counts[slot] &+= Int64(number) }

    func widen(_ slot: Int, low: Float, high: Float) {
        // Adding +0 makes a negative zero positive: which one came first should not matter.
        lows[slot] = min(lows[slot], low + 0)
        highs[slot] = max(highs[slot], high + 0)
        if layout.hasAverage {
            batchLows[slot] = min(batchLows[slot], low + 0)
            batchHighs[slot] = max(batchHighs[slot], high + 0)
        }
    }
}

/// One batch on its way into an observer, as runs of floats that lie in one slot.
struct BatchPusher {
    let observer: Observer
    let runs: FloatRuns
    /// Bins of a run's values.
    private var indices: UnsafeMutablePointer<Int32> { runs.room.assumingMemoryBound(to: Int32.self) }

    init(_ observer: Observer, _ runs: FloatRuns) {
        self.observer = observer
        self.runs = runs
    }

    /// Floats are read where they are, in longer runs.
    var readsInPlace: Bool { runs.source.type.size == 4 }
    var longestRun: Int { readsInPlace ? 2048 : FloatRuns.length }

    func floats(_ row: Int, _ column: Int, _ count: Int) -> UnsafePointer<Float> {
        if readsInPlace { return (runs.source.row(row) + column &* 4).assumingMemoryBound(to: Float.self) }
        _ = runs.load(row, column, count: count)
        return UnsafePointer(runs.floats)
    }

    @inline(never)
    func pushRows(_ rows: Int) {
        let columns = runs.source.columns
        let width = observer.layout.axis == .group ? min(Int(observer.layout.raw.group_size), columns) : columns
        for row in 0..<rows {
            var slot = observer.layout.axis == .token ? row : 0
            var column = 0
            while column < columns {
                let end = column &+ min(width, columns &- column)
                push(row, column..<end, slot)
                column = end
                slot &+= 1
            }
        }
    }

    private func push(_ row: Int, _ columns: Range<Int>, _ slot: Int) {
        var column = columns.lowerBound
        while column < columns.upperBound {
            let count = min(longestRun, columns.upperBound &- column)
            push(floats(row, column, count), count, slot)
            column &+= count
        }
    }

    @inline(never)
    private func push(_ floats: UnsafePointer<Float>, _ count: Int, _ slot: Int) {
        var range = i4q_group_range()
        runs.findRange(floats, Int64(count), &range)
        if range.first_not_finite >= 0 {
            pushFinite(floats, count, slot)
        } else {
            add(floats, count, slot, range)
        }
    }

    /// Moves what is finite to the front of the buffer, where the run itself may be, and takes that.
    @inline(never)
    private func pushFinite(_ floats: UnsafePointer<Float>, _ count: Int, _ slot: Int) {
        var index = 0
        while index < count {
            let end = min(index &+ FloatRuns.length, count)
            var kept = 0
            for source in index..<end where floats[source].isFinite {
                runs.floats[kept] = floats[source]
                kept &+= 1
            }
            observer.notFinite &+= Int64(end &- index &- kept)
            if kept > 0 {
                var range = i4q_group_range()
                runs.findRange(runs.floats, Int64(kept), &range)
                add(UnsafePointer(runs.floats), kept, slot, range)
            }
            index = end
        }
    }

    private func add(_ floats: UnsafePointer<Float>, _ count: Int, _ slot: Int, _ range: i4q_group_range) {
        let before = BinWidth(low: observer.lows[slot], high: observer.highs[slot])
        observer.widen(slot, low: range.min, high: range.max)
        observer.count(count, slot)
        if observer.layout.hasMoments {
            i4q_add_moments_of_run(floats, Int64(count), observer.sums + slot, observer.magnitudes + slot, observer.squares + slot)
        }
        if observer.layout.hasHistogram { addToHistogram(floats, count, slot, before) }
    }

    @inline(never)
    private func addToHistogram(_ floats: UnsafePointer<Float>, _ count: Int, _ slot: Int, _ before: BinWidth) {
        let bins = observer.layout.bins
        let histogram = observer.histogram(slot)
        let now = BinWidth(low: observer.lows[slot], high: observer.highs[slot])
        widenBins(histogram, bins: bins, doublings: now.exponent &- before.exponent)
        let scale = now.scale(bins: bins)
        var index = 0
        while index < count {
            let part = min(FloatRuns.length, count &- index)
            i4q_bins_of_run(floats + index, Int64(part), scale, Int32(truncatingIfNeeded: bins), indices)
            countBins(part, histogram)
            index &+= part
        }
    }

    /// Four at a time: where all are in one bin, as zeros are, one addition has not to wait for the other.
    private func countBins(_ count: Int, _ histogram: UnsafeMutablePointer<Int64>) {
        var index = 0
        while index &+ 4 <= count {
            let a = Int(indices[index]), b = Int(indices[index &+ 1]), c = Int(indices[index &+ 2]), d = Int(indices[index &+ 3])
            if a == b && c == d && a == c {
                histogram[a] &+= 4
            } else {
                histogram[a] &+= 1
                histogram[b] &+= 1
                histogram[c] &+= 1
                histogram[d] &+= 1
            }
            index &+= 4
        }
        while index < count {
            histogram[Int(indices[index])] &+= 1
            index &+= 1
        }
    }
}
