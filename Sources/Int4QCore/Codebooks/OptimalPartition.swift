// SPDX-License-Identifier: Apache-2.0

/// Cuts points on a line, ascending, into runs with the least sum of weighted squared distances from each run's mean: dynamic
/// programming over the number of runs. The best last cut moves right as the end does (Wu 1991, "Optimal quantization by matrix
/// searching"), so a row of the table is found by divide and conquer in n log n steps.
struct OptimalPartition {
    static var levels: Int { 16 }
    private static var capacity: Int { DistinctValues.limit + 1 }
    /// Three prefix sums and two rows of costs, and a row of cuts for each number of runs from two on.
    static var bytes: Int { capacity * (5 * 8 + (levels - 1) * 2) }

    private let points: UnsafePointer<WeightedPoint>
    private let count: Int
    private let weights: UnsafeMutablePointer<Double>
    private let firstMoments: UnsafeMutablePointer<Double>
    private let secondMoments: UnsafeMutablePointer<Double>
    private let costs: UnsafeMutablePointer<Double>
    private let cuts: UnsafeMutablePointer<UInt16>

    init(_ points: UnsafePointer<WeightedPoint>, count: Int, _ memory: UnsafeMutableRawPointer) {
        let capacity = OptimalPartition.capacity
        self.points = points
        self.count = count
        weights = memory.bindMemory(to: Double.self, capacity: 5 * capacity)
        firstMoments = weights + capacity
        secondMoments = firstMoments + capacity
        costs = secondMoments + capacity
        cuts = (memory + 5 * 8 * capacity).bindMemory(to: UInt16.self, capacity: (OptimalPartition.levels - 1) * capacity)
        sum()
    }

    /// Sums from the middle point outwards, of distances from it: an outlier on one side takes no precision from the other.
    @_optimize(speed)
    private func sum() {
        let pivot = count / 2
        set(pivot, 0, 0, 0)
        for index in pivot..<count { add(index, to: index + 1, from: index, 1) }
        for index in stride(from: pivot - 1, through: 0, by: -1) { add(index, to: index, from: index + 1, -1) }
    }

    private func add(_ point: Int, to target: Int, from source: Int, _ sign: Double) {
        let distance = points[point].value - points[count / 2].value, weight = sign * points[point].weight
        set(target, weights[source] + weight, firstMoments[source] + weight * distance,
            secondMoments[source] + weight * distance * distance)
    }

    private func set(_ index: Int, _ weight: Double, _ first: Double, _ second: Double) {
        weights[index] = weight
        firstMoments[index] = first
        secondMoments[index] = second
    }

    /// Of one run.
    @inline(__always)
    private func cost(_ begin: Int, _ end: Int) -> Double {
        let weight = weights[end] - weights[begin], first = firstMoments[end] - firstMoments[begin]
        let error = secondMoments[end] - secondMoments[begin] - first * first / weight
        return error > 0 ? error : 0 // also where the weight vanished beside the others
    }

    /// Writes the means of the best 16 runs; of all points where they are no more, the last one repeated.
    func writeMeans(to values: UnsafeMutablePointer<Float>) {
        let runs = min(count, OptimalPartition.levels)
        for level in runs..<OptimalPartition.levels { values[level] = Float(points[count - 1].value) }
        if runs == count {
            for level in 0..<runs { values[level] = Float(points[level].value) }
            return
        }
        for end in 1...count { row(0)[end] = cost(0, end) }
        for run in 1..<runs {
            // Only the whole is asked of the last one.
            let lowest = run == runs - 1 ? count : run + 1
            solve(run, lowest...count, run...count - 1)
        }
        var end = count
        for run in stride(from: runs - 1, through: 0, by: -1) {
            let begin = run == 0 ? 0 : Int(cut(run)[end])
            values[run] = Float(mean(begin, end))
            end = begin
        }
    }

    private func row(_ run: Int) -> UnsafeMutablePointer<Double> { costs + (run & 1) * OptimalPartition.capacity }
    private func cut(_ run: Int) -> UnsafeMutablePointer<UInt16> { cuts + (run - 1) * OptimalPartition.capacity }

    /// The best beginning of the last of run + 1 runs, for each end; it lies in `begins`.
    @_optimize(speed)
    private func solve(_ run: Int, _ ends: ClosedRange<Int>, _ begins: ClosedRange<Int>) {
        let end = (ends.lowerBound + ends.upperBound) >> 1
        let before = row(run - 1)
        var best = begins.lowerBound, least = Double.infinity
        for begin in begins.lowerBound...min(begins.upperBound, end - 1) {
            let sum = before[begin] + cost(begin, end)
            if sum < least {
                least = sum
                best = begin
            }
        }
        row(run)[end] = least
        cut(run)[end] = UInt16(best)
        if end > ends.lowerBound { solve(run, ends.lowerBound...end - 1, begins.lowerBound...best) }
        if end < ends.upperBound { solve(run, end + 1...ends.upperBound, best...begins.upperBound) }
    }

    private func mean(_ begin: Int, _ end: Int) -> Double {
        var weight = 0.0, moment = 0.0
        for index in begin..<end {
            weight += points[index].weight
            moment += points[index].weight * (points[index].value - points[begin].value)
        }
        return points[begin].value + moment / weight
    }
}
