// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Memory for sorting a matrix's weights and for the running sum of the sorted ones:
///
///     [count + 1 sums, binary64; before: the weights, and room for half of a sorting step] [count keys]
public struct GoboScratch {
    public let bytes: UInt64
    let keysOffset: Int

    public init(n: Int64, k: Int64) throws(Failure) {
        try requireAtLeast(n, 1, "n")
        try requireAtLeast(k, 1, "k")
        let count = try CheckedSize(UInt64(n), "n").times(UInt64(k))
        let sums = try count.plus(1).times(8)
        let keys = try count.times(4)
        bytes = try sums.plus(keys.value).value
        keysOffset = Int(sums.value)
    }
}

/// GOBO's search for 16 centroids on sorted weights: a step costs 16 searches in the running sum, not a pass.
public struct GoboCentroids {
    static var centroids: Int { 16 }

    private let sorted: UnsafePointer<Float>
    private let sums: UnsafePointer<Double>
    private let count: Int
    private var values = InlineArray<16, Double>(repeating: 0)
    /// Where each centroid's weights begin; the last one is their number.
    private var begins = InlineArray<17, Int>(repeating: 0)

    public private(set) var best = InlineArray<16, Double>(repeating: 0)
    public private(set) var bestError = Double.infinity
    public private(set) var iterations: Int64 = 0

    @inline(never)
    public init(_ fit: OutlierFit, _ source: Matrix, rows: Int64, _ memory: UnsafeMutableRawPointer, _ scratch: GoboScratch,
                _ kernels: i4q_kernels) throws(Failure) {
        let first = memory.assumingMemoryBound(to: UInt32.self)
        let second = (memory + scratch.keysOffset).assumingMemoryBound(to: UInt32.self)
        count = try collectKeys(fit, source, rows, first, kernels)
        if count == 0 {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "fit", .text("one that makes every weight an outlier"),
                          expected: "weights that are not outliers")
        }
        sort(first, second, count)
        sorted = floats(ofKeys: second, count)
        sums = runningSum(sorted, count, memory.assumingMemoryBound(to: Double.self))
    }

    /// Steps as long as the error falls.
    @inline(never)
    public mutating func search() {
        start()
        while true {
            assign()
            let error = totalError
            if !(error < bestError) { return }
            best = values
            bestError = error
            move()
            iterations += 1
        }
    }

    public var meanError: Double { max(bestError / Double(count), 0) }

    /// Parts of equal number.
    private mutating func start() {
        for index in 0...GoboCentroids.centroids {
            begins[index] = count / 16 * index + count % 16 * index / 16
        }
        for index in 0..<GoboCentroids.centroids { values[index] = Double(sorted[min(begins[index], count - 1)]) }
        move()
    }

    /// Each centroid to the mean of its weights.
    private mutating func move() {
        for index in 0..<GoboCentroids.centroids where begins[index + 1] > begins[index] {
            values[index] = (sums[begins[index + 1]] - sums[begins[index]]) / Double(begins[index + 1] - begins[index])
        }
    }

    /// Each weight to the nearest centroid: cuts in the middle between neighbours.
    private mutating func assign() {
        for index in 1..<GoboCentroids.centroids {
            begins[index] = firstAbove((values[index - 1] + values[index]) / 2, from: begins[index - 1])
        }
    }

    private var totalError: Double {
        var total = 0.0
        for index in 0..<GoboCentroids.centroids {
            let centroid = values[index]
            let middle = max(begins[index], min(begins[index + 1], firstAbove(centroid, from: begins[index])))
            let below = centroid * Double(middle - begins[index]) - (sums[middle] - sums[begins[index]])
            let above = (sums[begins[index + 1]] - sums[middle]) - centroid * Double(begins[index + 1] - middle)
            total += below + above
        }
        return total
    }

    /// The first index whose weight is above the bound.
    private func firstAbove(_ bound: Double, from begin: Int) -> Int {
        var low = begin, high = count
        while low < high {
            let middle = low + (high - low) / 2
            if Double(sorted[middle]) > bound { high = middle } else { low = middle + 1 }
        }
        return low
    }
}

// MARK: Sorting

/// Bits of floats as keys that sort as the floats do.
@inline(__always)
private func key(_ value: Float) -> UInt32 {
    let bits = value.bitPattern
    return bits & 0x8000_0000 != 0 ? ~bits : bits | 0x8000_0000
}

private func collectKeys(_ fit: OutlierFit, _ source: Matrix, _ rows: Int64, _ keys: UnsafeMutablePointer<UInt32>,
                         _ kernels: i4q_kernels) throws(Failure) -> Int {
    var total = 0
    try FloatRuns.with(source, "source", kernels) { (runs) throws(Failure) in
        for row in 0..<Int(rows) {
            var column = 0
            while column < source.columns {
                let count = runs.load(row, column)
                _ = try runs.range(count, row, column)
                for index in 0..<count {
                    keys[total] = key(runs.floats[index])
                    total &+= fit.isOutlier(runs.floats[index]) ? 0 : 1
                }
                column += count
            }
        }
    }
    return total
}

/// Three steps of a radix sort, from the lowest 11 bits up; the sorted keys are in `second`.
@inline(never)
private func sort(_ first: UnsafeMutablePointer<UInt32>, _ second: UnsafeMutablePointer<UInt32>, _ count: Int) {
    StackMemory<768>.use { memory in // 3 * 2048 zeros
        let places = memory.assumingMemoryBound(to: Int.self)
        for index in 0..<count {
            let key = first[index]
            places[Int(key & 2047)] &+= 1
            places[2048 &+ Int(key &>> 11 & 2047)] &+= 1
            places[4096 &+ Int(key &>> 22)] &+= 1
        }
        for step in 0..<3 {
            var total = 0
            for digit in 0..<2048 {
                let here = places[2048 * step + digit]
                places[2048 * step + digit] = total
                total += here
            }
        }
        move(first, second, count, places, shift: 0)
        move(second, first, count, places + 2048, shift: 11)
        move(first, second, count, places + 4096, shift: 22)
    }
}

private func move(_ source: UnsafePointer<UInt32>, _ target: UnsafeMutablePointer<UInt32>, _ count: Int,
                  _ places: UnsafeMutablePointer<Int>, shift: UInt32) {
    for index in 0..<count {
        let key = source[index]
        let digit = Int(key &>> shift & 2047)
        target[places[digit]] = key
        places[digit] &+= 1
    }
}

private func floats(ofKeys keys: UnsafeMutablePointer<UInt32>, _ count: Int) -> UnsafePointer<Float> {
    for index in 0..<count {
        let key = keys[index]
        keys[index] = key & 0x8000_0000 != 0 ? key & 0x7fff_ffff : ~key
    }
    return UnsafeRawPointer(keys).assumingMemoryBound(to: Float.self)
}

private func runningSum(_ values: UnsafePointer<Float>, _ count: Int, _ sums: UnsafeMutablePointer<Double>) -> UnsafePointer<Double> {
    var sum = 0.0
    sums[0] = 0
    for index in 0..<count {
        sum += Double(values[index])
        sums[index + 1] = sum
    }
    return UnsafePointer(sums)
}
