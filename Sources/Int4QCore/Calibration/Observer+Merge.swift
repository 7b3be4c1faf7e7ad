// SPDX-License-Identifier: Apache-2.0
import CInt4Q

extension Observer {
    /// Adds what another one has seen. Both have been validated.
    @inline(never)
    public func merge(_ other: Observer) throws(Failure) {
        try requireSameDescription(other)
        if layout.hasAverage {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "into", .text("an observer of moving averages"),
                          expected: "one without INT4Q_OBSERVE_AVERAGE: they depend on the order of batches")
        }
        try requireRoom(for: other)
        for slot in 0..<layout.slots where other.counts[slot] != 0 { merge(slot, other) }
        batches += other.batches
        notFinite += other.notFinite
    }

    private func merge(_ slot: Int, _ other: Observer) {
        let before = BinWidth(low: lows[slot], high: highs[slot])
        lows[slot] = min(lows[slot], other.lows[slot])
        highs[slot] = max(highs[slot], other.highs[slot])
        counts[slot] += other.counts[slot]
        if layout.hasMoments {
            sums[slot] += other.sums[slot]
            magnitudes[slot] += other.magnitudes[slot]
            squares[slot] += other.squares[slot]
        }
        if layout.hasHistogram {
            let now = BinWidth(low: lows[slot], high: highs[slot])
            widenBins(histogram(slot), bins: layout.bins, doublings: now.exponent - before.exponent)
            let theirs = BinWidth(low: other.lows[slot], high: other.highs[slot])
            addBins(other.histogram(slot), to: histogram(slot), shift: min(now.exponent - theirs.exponent, 17))
        }
    }

    private func addBins(_ source: UnsafeMutablePointer<Int64>, to target: UnsafeMutablePointer<Int64>, shift: Int) {
        let bins = layout.bins
        for bin in 0..<bins {
            target[bins &+ bin &>> shift] &+= source[bins &+ bin]
            target[bins &- 1 &- bin &>> shift] &+= source[bins &- 1 &- bin]
        }
    }

    private func requireSameDescription(_ other: Observer) throws(Failure) {
        let mine = layout.raw, theirs = other.layout.raw
        let isSame = mine.observed == theirs.observed && mine.axis == theirs.axis && mine.group_size == theirs.group_size
            && mine.extent == theirs.extent && mine.bins == theirs.bins && mine.momentum == theirs.momentum
        if !isSame {
            throw Failure(INT4Q_ERROR_MISMATCH, "from", .text("an observer of another description"),
                          expected: "one made with the description of `into`")
        }
    }

    /// Counts that validate() would still accept.
    private func requireRoom(for other: Observer) throws(Failure) {
        var largest = max(batches + other.batches, notFinite + other.notFinite)
        for slot in 0..<layout.slots { largest = max(largest, counts[slot] + other.counts[slot]) }
        if largest > Observer.largestCount {
            throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, "from", .integer(largest), expected: "counts that add up to at most",
                          bound: UInt64(Observer.largestCount))
        }
    }
}
