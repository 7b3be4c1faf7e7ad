// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// A value, or several as their mean, and how much it counts.
struct WeightedPoint {
    var value: Double
    var weight: Double
}

/// Elements of a matrix with their importances, read a run at a time.
struct WeightedSource {
    static var chunk: Int { 256 }
    let source: Matrix
    /// Rows of floats, or nil: all 1.
    let weights: Matrix?
    let rows: Range<Int64>
    let kernels: i4q_kernels
    let floats: UnsafeMutablePointer<Float>

    /// Calls body(values, weights, count) for each run until it returns false.
    @inline(__always)
    func forEachRun(_ body: (UnsafePointer<Float>, UnsafePointer<Float>?, Int) -> Bool) {
        for row in rows {
            var column = 0
            while column < source.columns {
                let count = load(Int(row), column)
                if !body(floats, weightRun(Int(row), column), count) { return }
                column += count
            }
        }
    }

    private func load(_ row: Int, _ column: Int) -> Int {
        let count = min(source.columns - column, WeightedSource.chunk)
        kernels.load.unsafelyUnwrapped(source.row(row) + column * source.type.size, Int64(source.type.raw), Int64(count), floats)
        return count
    }

    private func weightRun(_ row: Int, _ column: Int) -> UnsafePointer<Float>? {
        weights.map { ($0.row(row) + column * 4).assumingMemoryBound(to: Float.self) }
    }

    /// All elements and weights are numbers, no weight is negative.
    func check() throws(Failure) {
        for row in rows {
            var column = 0
            while column < source.columns {
                let count = load(Int(row), column)
                try check(floats, count, "source", Int(row), column)
                if let run = weightRun(Int(row), column) { try checkWeights(run, count, Int(row), column) }
                column += count
            }
        }
    }

    @discardableResult
    private func check(_ run: UnsafePointer<Float>, _ count: Int, _ name: Text, _ row: Int,
                       _ column: Int) throws(Failure) -> i4q_group_range {
        var range = i4q_group_range()
        kernels.group_range.unsafelyUnwrapped(run, Int64(count), &range)
        if range.first_not_finite >= 0 {
            let index = Int(range.first_not_finite)
            throw Failure(INT4Q_ERROR_NOT_FINITE, name, .element(row: Int64(row), column: Int64(column + index), run[index]),
                          expected: "finite values")
        }
        return range
    }

    private func checkWeights(_ run: UnsafePointer<Float>, _ count: Int, _ row: Int, _ column: Int) throws(Failure) {
        if try check(run, count, "weights", row, column).min >= 0 { return }
        for index in 0..<count where run[index] < 0 {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "weights",
                          .element(row: Int64(row), column: Int64(column + index), run[index]), expected: "weights of 0 or more")
        }
    }
}

/// Floats as integers of the same order; both zeros are one.
@inline(__always)
func orderedKey(_ value: Float) -> UInt32 {
    let bits = (value + 0).bitPattern
    return bits >> 31 == 0 ? bits | 0x8000_0000 : ~bits
}

@inline(__always)
func valueOfKey(_ key: UInt32) -> Float { Float(bitPattern: key >> 31 == 0 ? ~key : key & 0x7fff_ffff) }
