// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// At most 65536 bins for values of any number and magnitude. A coarse bin holds the floats with the same upper half (sign,
/// exponent, seven bits of fraction); coarse bins that hold much are cut by further bits until all bins together are 65536, all
/// nearly as wide as one another.
struct ValueBins {
    static var limit: Int { 1 << 16 }
    /// Of coarse bins: counts, first fine bins, and how many bits cut them. And the level of each fine bin's low end.
    static var bytes: Int { limit * (8 + 4 + 1 + 1) }

    private let counts: UnsafeMutablePointer<Int>
    private let firsts: UnsafeMutablePointer<UInt32>
    private let depths: UnsafeMutablePointer<UInt8>
    private let levels: UnsafeMutablePointer<UInt8>

    init(_ memory: UnsafeMutableRawPointer) {
        let limit = ValueBins.limit
        counts = memory.bindMemory(to: Int.self, capacity: limit)
        firsts = (memory + limit * 8).bindMemory(to: UInt32.self, capacity: limit)
        depths = (memory + limit * 12).bindMemory(to: UInt8.self, capacity: limit)
        levels = (memory + limit * 13).bindMemory(to: UInt8.self, capacity: limit)
    }

    /// Writes the means and weights of bins of positive weight, ascending, and returns how many they are.
    @_optimize(speed)
    func collect(_ source: WeightedSource, to points: UnsafeMutablePointer<WeightedPoint>) -> Int {
        counts.initialize(repeating: 0, count: ValueBins.limit)
        source.forEachRun { values, _, count in
            for index in 0..<count { counts[Int(orderedKey(values[index]) >> 16)] &+= 1 }
            return true
        }
        cut()
        points.initialize(repeating: WeightedPoint(value: 0, weight: 0), count: ValueBins.limit)
        source.forEachRun { values, weights, count in
            for index in 0..<count {
                let bin = bin(orderedKey(values[index])), weight = weights.map { Double($0[index]) } ?? 1
                points[bin].value += weight * Double(values[index])
                points[bin].weight += weight
            }
            return true
        }
        var used = 0
        for bin in 0..<ValueBins.limit where points[bin].weight > 0 {
            points[used] = WeightedPoint(value: points[bin].value / points[bin].weight, weight: points[bin].weight)
            used += 1
        }
        return used
    }

    @inline(__always)
    private func bin(_ key: UInt32) -> Int {
        let coarse = Int(key >> 16)
        return Int(firsts[coarse]) &+ Int((key & 0xffff) >> (16 &- UInt32(depths[coarse])))
    }

    // MARK: Cutting coarse bins

    /// With the narrowest width for which there are enough fine bins.
    @_optimize(speed)
    private func cut() {
        var low = -160, high = 127 // exponents of the width; the high one cuts nothing
        while low < high {
            let middle = (low + high) >> 1
            if total(middle) <= ValueBins.limit { high = middle } else { low = middle + 1 }
        }
        var first = 0
        for coarse in 0..<ValueBins.limit {
            depths[coarse] = UInt8(depth(coarse, low))
            firsts[coarse] = UInt32(first)
            if counts[coarse] > 0 { first += 1 << depth(coarse, low) }
        }
    }

    private func total(_ exponent: Int) -> Int {
        var total = 0
        for coarse in 0..<ValueBins.limit where counts[coarse] > 0 { total += 1 << depth(coarse, exponent) }
        return total
    }

    /// How many bits cut a coarse bin into pieces of width 2^exponent; no more pieces than twice its elements.
    private func depth(_ coarse: Int, _ exponent: Int) -> Int {
        let magnitude = coarse >> 15 == 0 ? ~coarse & 0x7fff : coarse & 0x7fff
        let width = max(magnitude >> 7, 1) - 134
        let useful = counts[coarse] <= 1 ? 0 : Int.bitWidth - (counts[coarse] - 1).leadingZeroBitCount
        return max(min(width - exponent, useful, 16), 0)
    }

    // MARK: Measuring

    /// The weighted mean of squared distances of all elements from their nearest value.
    @_optimize(speed)
    func meanSquaredError(_ source: WeightedSource, _ nearest: NearestValue) -> Double {
        for coarse in 0..<ValueBins.limit where counts[coarse] > 0 {
            for piece in 0..<UInt32(1) << UInt32(depths[coarse]) {
                let key = UInt32(coarse) << 16 | piece << (16 - UInt32(depths[coarse]))
                levels[bin(key)] = UInt8(nearest.level(Double(valueOfKey(key)), from: 0))
            }
        }
        var sum = 0.0, total = 0.0
        source.forEachRun { values, weights, count in
            for index in 0..<count {
                let value = Double(values[index]), weight = weights.map { Double($0[index]) } ?? 1
                // A bin may reach into the next level.
                let level = nearest.level(value, from: Int(levels[bin(orderedKey(values[index]))]))
                let error = value - nearest.values[level]
                sum += weight * (error * error)
                total += weight
            }
            return true
        }
        return sum / total
    }
}
