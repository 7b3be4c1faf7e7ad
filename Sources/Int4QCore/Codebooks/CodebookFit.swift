// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Which of 16 ascending values is nearest.
struct NearestValue {
    let values: InlineArray<16, Double>
    private let middles: InlineArray<16, Double>

    init(_ codebook: UnsafePointer<Float>) {
        let values = InlineArray<16, Double> { Double(codebook[$0]) }
        self.values = values
        middles = InlineArray<16, Double> { $0 == 15 ? .infinity : (values[$0] + values[$0 + 1]) / 2 }
    }

    /// `start` is not above the right level.
    @inline(__always)
    func level(_ value: Double, from start: Int) -> Int {
        var level = start
        while value > middles[level] { level += 1 }
        return level
    }
}

/// The codebook that leaves a matrix with the least squared error.
public struct CodebookFit {
    private let source: WeightedSource
    private let points: UnsafeMutablePointer<WeightedPoint>
    private let bins: ValueBins
    private let work: UnsafeMutableRawPointer

    private static var pointBytes: Int { DistinctValues.limit * MemoryLayout<WeightedPoint>.stride }
    private static var workBytes: Int { max(DistinctValues.bytes, OptimalPartition.bytes) }
    public static var scratchBytes: UInt64 { UInt64(pointBytes + ValueBins.bytes + WeightedSource.chunk * 4 + workBytes) }

    public init(_ source: Matrix, weights: Matrix?, rows: Range<Int64>, scratch: UnsafeMutableRawPointer, _ kernels: i4q_kernels) {
        points = scratch.bindMemory(to: WeightedPoint.self, capacity: DistinctValues.limit)
        bins = ValueBins(scratch + CodebookFit.pointBytes)
        let floats = scratch + CodebookFit.pointBytes + ValueBins.bytes
        work = floats + WeightedSource.chunk * 4
        self.source = WeightedSource(source: source, weights: weights, rows: rows, kernels: kernels,
                                     floats: floats.bindMemory(to: Float.self, capacity: WeightedSource.chunk))
    }

    public func run(_ values: UnsafeMutablePointer<Float>, _ error: UnsafeMutablePointer<Double>?,
                    choice: GreedyCodebook? = nil) throws(Failure) {
        try source.check()
        var distinct = DistinctValues(work)
        let exact = distinct.collect(source, to: points)
        let count = exact ?? bins.collect(source, to: points)
        if count == 0 {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "weights", .text("all zero"), expected: "a weight above 0")
        }
        if let choice {
            choice.write(to: values, points, count: count, work)
        } else {
            OptimalPartition(points, count: count, work).writeMeans(to: values)
        }
        guard let error else { return }
        let nearest = NearestValue(values)
        error.pointee = exact == nil ? bins.meanSquaredError(source, nearest) : meanSquaredError(count, nearest)
    }

    /// Of points that are elements themselves.
    @_optimize(speed)
    private func meanSquaredError(_ count: Int, _ nearest: NearestValue) -> Double {
        var sum = 0.0, total = 0.0, level = 0
        for index in 0..<count {
            level = nearest.level(points[index].value, from: level)
            let error = points[index].value - nearest.values[level]
            sum += points[index].weight * (error * error)
            total += points[index].weight
        }
        return sum / total
    }
}
