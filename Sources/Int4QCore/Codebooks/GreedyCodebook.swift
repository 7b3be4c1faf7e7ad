// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// Up to 16 of a caller's values: the others are taken out one by one, always that whose loss costs least.
public struct GreedyCodebook {
    private let candidates: UnsafePointer<Float>
    private let count: Int
    private let kept: Int

    @inline(never)
    public init(_ candidates: UnsafePointer<Float>, count: Int64, kept: Int32) throws(Failure) {
        if kept < 1 || kept > 16 { throw .invalid("kept", Int64(kept), expected: "1 to 16") }
        if count < Int64(kept) || count > 4096 {
            throw .invalid("candidate_count", count, expected: "at most 4096 and at least", bound: UInt64(kept))
        }
        for index in 0..<Int(count) {
            let value = candidates[index], isAscending = index == 0 || value >= candidates[index - 1]
            if value.isFinite && isAscending { continue }
            throw Failure(value.isFinite ? INT4Q_ERROR_INVALID_ARGUMENT : INT4Q_ERROR_NOT_FINITE, "candidates",
                          .listed(index: Int64(index), value), expected: "finite numbers in ascending order")
        }
        self.candidates = candidates
        self.count = Int(count)
        self.kept = Int(kept)
    }

    /// A candidate's neighbours, -1 and `count` at the ends, and what taking it out costs.
    private struct Link {
        var before: Int
        var after: Int
        var cost: Double
    }

    private struct Sums {
        var weight = 0.0, first = 0.0, second = 0.0
    }

    /// `memory` has room for OptimalPartition.
    @inline(never)
    func write(to values: UnsafeMutablePointer<Float>, _ points: UnsafePointer<WeightedPoint>, count pointCount: Int,
               _ memory: UnsafeMutableRawPointer) {
        let links = memory.assumingMemoryBound(to: Link.self)
        let sums = (memory + count * MemoryLayout<Link>.stride).assumingMemoryBound(to: Sums.self)
        sums[0] = Sums()
        for index in 0..<pointCount {
            let point = points[index], moment = point.weight * point.value, before = sums[index]
            sums[index + 1] = Sums(weight: before.weight + point.weight, first: before.first + moment,
                                   second: before.second + moment * point.value)
        }
        let field = Field(candidates: candidates, count: count, points: points, pointCount: pointCount, sums: sums)
        for index in 0..<count { links[index] = Link(before: index - 1, after: index + 1, cost: 0) }
        for index in 0..<count { links[index].cost = field.cost(index, links[index].before, links[index].after) }
        var first = 0
        for _ in kept..<max(count, kept) {
            var worst = first, index = links[first].after
            while index < count {
                if links[index].cost < links[worst].cost { worst = index }
                index = links[index].after
            }
            let (before, after) = (links[worst].before, links[worst].after)
            if before >= 0 {
                links[before].after = after
                links[before].cost = field.cost(before, links[before].before, after)
            } else {
                first = after
            }
            if after < count {
                links[after].before = before
                links[after].cost = field.cost(after, before, links[after].after)
            }
        }
        for place in 0..<16 {
            values[place] = candidates[first]
            if links[first].after < count { first = links[first].after }
        }
    }

    private struct Field {
        let candidates: UnsafePointer<Float>
        let count: Int
        let points: UnsafePointer<WeightedPoint>
        let pointCount: Int
        let sums: UnsafePointer<Sums>

        private func value(_ index: Int) -> Double { Double(candidates[index]) }

        /// The first point that is nearer to the second of two candidates; those of ends are the first and the end.
        @inline(never)
        private func border(_ low: Int, _ high: Int) -> Int {
            if low < 0 { return 0 }
            if high == count { return pointCount }
            let middle = (value(low) + value(high)) / 2
            var begin = 0, end = pointCount
            while begin < end {
                let index = (begin + end) / 2
                if points[index].value > middle { end = index } else { begin = index + 1 }
            }
            return begin
        }

        /// The error of some points from a candidate.
        @inline(never)
        private func error(_ begin: Int, _ end: Int, _ index: Int) -> Double {
            let value = value(index), first = sums[end].first - sums[begin].first
            return sums[end].second - sums[begin].second - value * (2 * first - value * (sums[end].weight - sums[begin].weight))
        }

        /// By how much the error grows if a candidate's points go to its neighbours.
        @inline(never)
        func cost(_ index: Int, _ before: Int, _ after: Int) -> Double {
            if before < 0 && after == count { return .infinity }
            let begin = border(before, index), end = border(index, after)
            let middle = before < 0 ? begin : after == count ? end : border(before, after)
            var change = -error(begin, end, index)
            if before >= 0 { change += error(begin, middle, before) }
            if after < count { change += error(middle, end, after) }
            return change
        }
    }
}
