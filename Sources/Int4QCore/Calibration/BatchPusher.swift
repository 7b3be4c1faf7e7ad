// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Working memory of a push, on the stack.
struct PushMemory {
    static var length: Int { 1024 }
    static var indexLength: Int { 256 }

    /// A run, and as much again for a block's extremes.
    private var floats = InlineArray<128, SIMD16<Float>>(repeating: .zero)
    private var indices = InlineArray<64, SIMD4<Int32>>(repeating: .zero)

    static var indicesOffset: Int { PushMemory.length * 8 }
}

/// What will be wanted after a run, and which part of its slot's elements in this row come before it.
struct Next {
    let values: UnsafeRawPointer
    let place: Int
    let of: Int

    init(values: UnsafeRawPointer, place: Int = 0, of: Int = 0) {
        self.values = values
        self.place = place
        self.of = of
    }
}

/// One batch on its way into an observer, as runs of floats that lie in one slot.
struct BatchPusher {
    let observer: Observer
    let source: Matrix
    let kernels: i4q_kernels
    /// Room for a run that is not read where it is.
    let buffer: UnsafeMutablePointer<Float>
    /// Bins of a part of a run.
    let indices: UnsafeMutablePointer<Int32>
    private let lanes: UnsafeMutablePointer<LaneCounts>?

    init(_ observer: Observer, _ source: Matrix, _ kernels: i4q_kernels, _ memory: UnsafeMutableRawPointer,
         lanes: UnsafeMutablePointer<LaneCounts>?) {
        self.observer = observer
        self.source = source
        self.kernels = kernels
        buffer = memory.assumingMemoryBound(to: Float.self)
        indices = (memory + PushMemory.indicesOffset).assumingMemoryBound(to: Int32.self)
        self.lanes = lanes
    }

    /// Floats are read where they are, in longer runs.
    var readsInPlace: Bool { source.type.size == 4 }
    private var longestRun: Int { readsInPlace ? 4096 : PushMemory.length }

    @_optimize(speed)
    func floats(_ row: Int, _ column: Int, _ count: Int) -> UnsafePointer<Float> {
        let place = source.row(row) + column &* source.type.size
        if readsInPlace { return place.assumingMemoryBound(to: Float.self) }
        kernels.load.unsafelyUnwrapped(place, Int64(source.type.raw), Int64(count), buffer)
        return UnsafePointer(buffer)
    }

    @_optimize(speed)
    func range(_ floats: UnsafePointer<Float>, _ count: Int) -> i4q_group_range {
        var range = i4q_group_range()
        kernels.group_range.unsafelyUnwrapped(floats, Int64(count), &range)
        return range
    }

    @inline(never)
    func pushRows(_ rows: Int) {
        let columns = source.columns
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
        if let lanes { lanes.pointee.flush(to: observer.histogram(0), bins: observer.layout.bins) }
    }

    private func push(_ row: Int, _ columns: Range<Int>, _ slot: Int) {
        var column = columns.lowerBound
        while column < columns.upperBound {
            let count = min(longestRun, columns.upperBound &- column)
            let next = Next(values: source.row(row) + (column &+ count) &* source.type.size,
                            place: column &- columns.lowerBound, of: columns.count)
            push(floats(row, column, count), count, slot, next)
            column &+= count
        }
    }

    @inline(never)
    private func push(_ floats: UnsafePointer<Float>, _ count: Int, _ slot: Int, _ next: Next) {
        let range = self.range(floats, count)
        if range.first_not_finite >= 0 {
            pushFinite(floats, count, slot)
        } else {
            add(floats, count, slot, range, next)
        }
    }

    /// Moves what is finite to the front of the buffer, where the run itself may be, and takes that.
    @inline(never)
    private func pushFinite(_ floats: UnsafePointer<Float>, _ count: Int, _ slot: Int) {
        var index = 0
        while index < count {
            let end = min(index &+ PushMemory.length, count)
            var kept = 0
            for source in index..<end where floats[source].isFinite {
                buffer[kept] = floats[source]
                kept &+= 1
            }
            observer.notFinite &+= Int64(end &- index &- kept)
            if kept > 0 { add(UnsafePointer(buffer), kept, slot, range(UnsafePointer(buffer), kept), Next(values: floats)) }
            index = end
        }
    }

    @_optimize(speed)
    private func add(_ floats: UnsafePointer<Float>, _ count: Int, _ slot: Int, _ range: i4q_group_range,
                     _ next: Next) {
        let before = BinWidth(low: observer.lows[slot], high: observer.highs[slot])
        observer.widen(slot, low: range.min, high: range.max)
        observer.count(count, slot)
        if observer.layout.hasMoments {
            i4q_add_moments_of_run(floats, Int64(count), observer.sums + slot, observer.magnitudes + slot, observer.squares + slot)
        }
        if observer.layout.hasHistogram { addToHistogram(floats, count, slot, range, before, next) }
    }

    @inline(never)
    @_optimize(speed)
    private func addToHistogram(_ floats: UnsafePointer<Float>, _ count: Int, _ slot: Int, _ range: i4q_group_range, _ before: BinWidth,
                                _ next: Next) {
        let bins = observer.layout.bins
        let histogram = observer.histogram(slot)
        let now = BinWidth(low: observer.lows[slot], high: observer.highs[slot])
        if now != before || (lanes.map { !$0.pointee.hasRoom(for: count) } ?? false) {
            lanes?.pointee.flush(to: histogram, bins: bins)
            widenBins(histogram, bins: bins, doublings: now.exponent &- before.exponent)
        }
        let scale = now.scale(bins: bins)
        let first = i4q_bin_of(range.min, scale, Int32(truncatingIfNeeded: bins))
        if first == i4q_bin_of(range.max, scale, Int32(truncatingIfNeeded: bins)) { // zeros, padding
            histogram[Int(first)] &+= Int64(count)
            return
        }
        let last = i4q_bin_of(range.max, scale, Int32(truncatingIfNeeded: bins))
        var index = 0
        while index < count {
            let part = min(PushMemory.indexLength, count &- index)
            prefetch(next.values + index &* source.type.size, bytes: part &* source.type.size)
            prefetchHistogram(slot &+ 1, Int(first)..<Int(last), next, index..<(index &+ part))
            i4q_bins_of_run(floats + index, Int64(part), scale, Int32(truncatingIfNeeded: bins), indices)
            if let lanes {
                lanes.pointee.add(indices, part, bins: bins)
            } else {
                countBins(part, histogram)
            }
            index &+= part
        }
    }

    /// Counting leaves memory idle: let it bring what comes next.
    private func prefetch(_ place: UnsafeRawPointer, bytes: Int) {
        for offset in stride(from: 0, to: bytes, by: 64) { i4q_prefetch(place + offset) }
    }

    /// The next slot's bins are likely to be those of this one. Only where there are at least two values for each line of 64 bytes.
    private func prefetchHistogram(_ slot: Int, _ bins: Range<Int>, _ next: Next, _ done: Range<Int>) {
        if next.of &* 4 < bins.count || slot >= observer.layout.slots { return }
        let begin = bins.lowerBound &+ bins.count &* (next.place &+ done.lowerBound) / next.of
        let end = bins.lowerBound &+ bins.count &* (next.place &+ done.upperBound) / next.of
        let histogram = observer.histogram(slot)
        for bin in stride(from: begin, to: end, by: 8) { i4q_prefetch_far(histogram + bin) }
    }

    /// Four at a time: where all are in one bin one addition has not to wait for the other.
    @_optimize(speed)
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
