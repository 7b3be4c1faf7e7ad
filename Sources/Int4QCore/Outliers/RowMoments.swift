// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Mean and sum of squared distances of each row, in binary64. Element i of a row is added to lane i % 16, then the lanes
/// are added in order: the same sums however rows are split.
@inline(never)
public func writeMoments(_ source: Matrix, _ moments: UnsafeMutablePointer<Double>, rows: Range<Int64>,
                         _ kernels: i4q_kernels) throws(Failure) {
    try FloatRuns.with(source, "source", kernels) { (runs) throws(Failure) in
        let moments = RowMoments(runs: runs, result: moments)
        for row in rows { try moments.write(Int(row)) }
    }
}

private struct RowMoments {
    static var lanes: Int { 16 }

    let runs: FloatRuns
    let result: UnsafeMutablePointer<Double>
    private var sums: UnsafeMutablePointer<Double> { runs.room.assumingMemoryBound(to: Double.self) }

    init(runs: FloatRuns, result: UnsafeMutablePointer<Double>) {
        self.runs = runs
        self.result = result
    }

    func write(_ row: Int) throws(Failure) {
        clear()
        try forEachRun(row) { (floats, count) throws(Failure) in add(floats, count) }
        let sum = total
        if !sum.isFinite { try blame(row) }
        let mean = sum / Double(runs.source.columns)
        clear()
        try forEachRun(row) { (floats, count) throws(Failure) in addSquares(floats, count, mean) }
        result[2 * row] = mean
        result[2 * row + 1] = total
    }

    private func clear() {
        for lane in 0..<RowMoments.lanes { sums[lane] = 0 }
    }

    private var total: Double {
        var total = 0.0
        for lane in 0..<RowMoments.lanes { total += sums[lane] }
        return total
    }

    @inline(never)
    private func add(_ floats: UnsafePointer<Float>, _ count: Int) {
        let whole = count & ~(RowMoments.lanes - 1)
        i4q_add_run(floats, Int64(whole), sums)
        for index in whole..<count { sums[index - whole] += Double(floats[index]) }
    }

    @inline(never)
    private func addSquares(_ floats: UnsafePointer<Float>, _ count: Int, _ mean: Double) {
        let whole = count & ~(RowMoments.lanes - 1)
        i4q_add_squares_of_run(floats, Int64(whole), mean, sums)
        for index in whole..<count {
            let distance = Double(floats[index]) - mean
            let square = distance * distance
            sums[index - whole] += square
        }
    }

    /// Floats are read where they are; other types go through the buffer.
    @inline(__always)
    private func forEachRun(_ row: Int, _ body: (UnsafePointer<Float>, Int) throws(Failure) -> Void) throws(Failure) {
        if runs.source.type.size == 4 {
            try body(runs.source.row(row).assumingMemoryBound(to: Float.self), runs.source.columns)
            return
        }
        var column = 0
        while column < runs.source.columns {
            let count = runs.load(row, column)
            try body(UnsafePointer(runs.floats), count)
            column += count
        }
    }

    /// Sums of finite floats are finite.
    private func blame(_ row: Int) throws(Failure) {
        var column = 0
        while column < runs.source.columns {
            let count = runs.load(row, column)
            _ = try runs.range(count, row, column)
            column += count
        }
    }
}
