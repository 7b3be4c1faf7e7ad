// SPDX-License-Identifier: Apache-2.0
import CInt4Q

extension Observer {
    /// Of elements: that many fit into binary64, and the sum of two into 63 bits.
    static var largestCount: Int64 { 1 << 53 }

    /// Whether all statistics can have come from batches. `name` is the argument to blame.
    @inline(never)
    public func validate(_ name: Text) throws(Failure) {
        try requireCount(batches, name)
        try requireCount(notFinite, name)
        for slot in 0..<layout.slots {
            try requireCount(counts[slot], name)
            let isSound = counts[slot] == 0 ? isUntouched(slot) : isPossible(slot)
            if !isSound {
                throw Failure(INT4Q_ERROR_CORRUPT, name, .entry(index: Int64(slot), counts[slot]),
                              expected: "elements in a slot whose statistics agree with one another")
            }
        }
    }

    private func requireCount(_ count: Int64, _ name: Text) throws(Failure) {
        if count < 0 || count > Observer.largestCount {
            throw Failure(INT4Q_ERROR_CORRUPT, name, .integer(count), expected: "counts of 0 to", bound: UInt64(Observer.largestCount))
        }
    }

    private func isUntouched(_ slot: Int) -> Bool {
        if lows[slot] != .infinity || highs[slot] != -.infinity { return false }
        if layout.hasAverage && (averageLows[slot] != .infinity || averageHighs[slot] != -.infinity) { return false }
        if layout.hasMoments && (sums[slot] != 0 || magnitudes[slot] != 0 || squares[slot] != 0) { return false }
        return isBatchClear(slot) && (!layout.hasHistogram || isEmpty(slot))
    }

    private func isEmpty(_ slot: Int) -> Bool {
        for bin in 0..<(2 * layout.bins) where histogram(slot)[bin] != 0 { return false }
        return true
    }

    private func isPossible(_ slot: Int) -> Bool {
        if !lows[slot].isFinite || !highs[slot].isFinite || lows[slot] > highs[slot] { return false }
        return isBatchClear(slot) && hasPossibleAverages(slot) && hasPossibleMoments(slot)
            && (!layout.hasHistogram || hasPossibleHistogram(slot))
    }

    private func isBatchClear(_ slot: Int) -> Bool {
        !layout.hasAverage || (batchLows[slot] == .infinity && batchHighs[slot] == -.infinity)
    }

    private func hasPossibleAverages(_ slot: Int) -> Bool {
        !layout.hasAverage || (averageLows[slot].isFinite && averageHighs[slot].isFinite)
    }

    private func hasPossibleMoments(_ slot: Int) -> Bool {
        if !layout.hasMoments { return true }
        return sums[slot].isFinite && magnitudes[slot].isFinite && squares[slot].isFinite && magnitudes[slot] >= 0
            && squares[slot] >= 0
    }

    /// As many values as were counted, the least and the largest in the outermost bins that are not empty.
    private func hasPossibleHistogram(_ slot: Int) -> Bool {
        let bins = histogram(slot)
        var total: Int64 = 0, first = -1, last = -1
        for bin in 0..<(2 * layout.bins) where bins[bin] != 0 {
            if bins[bin] < 0 || bins[bin] > counts[slot] - total { return false }
            total += bins[bin]
            if first < 0 { first = bin }
            last = bin
        }
        return total == counts[slot] && first == bin(of: lows[slot], slot) && last == bin(of: highs[slot], slot)
    }
}
