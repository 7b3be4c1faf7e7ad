// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// A matrix of low rank beside a quantized one: y += (x B^T) A^T, with A[n][rank] and B[rank][k].
///
/// Each product is rounded to binary32, then added: element j of a sum to partial sum j mod 16 in order, then the partial sums are
/// folded 8, 4, 2, 1. The same bits on every processor and for any cut of rows.
public struct LowRank {
    public let a: Matrix
    public let b: Matrix
    public var rank: Int { a.columns }
    public static var largestRank: Int64 { 256 }

    typealias Sums = SIMD16<Float>

    @inline(never)
    static func requireRank(_ rank: Int64, _ n: Int64, _ k: Int64, _ name: Text) throws(Failure) {
        let most = min(largestRank, min(n, k))
        if rank < 1 || rank > most { throw .invalid(name, rank, expected: "at least 1 and at most", bound: UInt64(most)) }
    }

    /// A caller's, checked.
    @inline(never)
    public init(_ raw: int4q_lowrank) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_lowrank.self, "factors.struct_size")
        let type = try ElementType(raw.type, "factors.type")
        try requireAtLeast(raw.n, 1, "factors.n")
        try requireAtLeast(raw.k, 1, "factors.k")
        try LowRank.requireRank(raw.rank, raw.n, raw.k, "factors.rank")
        a = try Matrix(raw.a, type, rows: raw.n, columns: raw.rank, stride: raw.a_stride,
                       .init("factors.a", stride: "factors.a_stride"))
        b = try Matrix(raw.b, type, rows: raw.rank, columns: raw.k, stride: raw.b_stride,
                       .init("factors.b", stride: "factors.b_stride"))
    }

    /// A's columns are B's rows, at most 256.
    public init(a: Matrix, b: Matrix) {
        self.a = a
        self.b = b
    }

    /// t[0..<rank] = B x, for one x of k elements.
    @inline(never)
    public func project(_ x: UnsafeRawPointer, _ type: ElementType, into t: UnsafeMutablePointer<Float>, _ kernels: i4q_kernels) {
        // A run of x, one of a row of B, and each row's partial sums.
        StackMemory<288>.use { memory in
            let run = memory.assumingMemoryBound(to: Float.self), row = run + FloatRuns.length
            let sums = memory + 2048
            let convert = kernels.load.unsafelyUnwrapped
            var column = 0
            while column < b.columns {
                let count = min(FloatRuns.length, b.columns &- column), padded = (count &+ 15) & ~15
                convert(x + column &* type.size, Int64(type.raw), Int64(count), run)
                for index in count..<padded {
                    run[index] = 0
                    row[index] = 0
                }
                for index in 0..<rank {
                    convert(b.row(index) + column &* b.type.size, Int64(b.type.raw), Int64(count), row)
                    let sum = (sums + index &* 64).load(as: Sums.self)
                    (sums + index &* 64).storeBytes(of: LowRank.add(run, row, padded, to: sum), as: Sums.self)
                }
                column &+= count
            }
            for index in 0..<rank { t[index] = LowRank.fold((sums + index &* 64).load(as: Sums.self)) }
        }
    }

    /// y[0..<rows.count] += A[rows] t.
    @inline(never)
    public func add(_ t: UnsafePointer<Float>, rows: Range<Int>, to y: UnsafeMutablePointer<Float>, _ kernels: i4q_kernels) {
        StackMemory<16>.use { memory in
            let floats = memory.assumingMemoryBound(to: Float.self)
            // Short rows without gaps are converted together.
            let isDense = a.strideBytes == rank &* a.type.size
            let together = isDense ? max(1, FloatRuns.length / rank) : 1
            var first = rows.lowerBound
            while first < rows.upperBound {
                let count = min(together, rows.upperBound &- first)
                kernels.load.unsafelyUnwrapped(a.row(first), Int64(a.type.raw), Int64(count &* rank), floats)
                for index in 0..<count { y[first &- rows.lowerBound &+ index] += dot(floats + index &* rank, t) }
                first &+= count
            }
        }
    }

    @inline(__always)
    private func dot(_ row: UnsafePointer<Float>, _ t: UnsafePointer<Float>) -> Float {
        let whole = rank & ~15
        var sums = LowRank.add(row, t, whole, to: Sums(repeating: 0))
        for index in whole..<rank { sums[index & 15] += row[index] * t[index] }
        return LowRank.fold(sums)
    }

    /// Sums of products of a multiple of 16 elements.
    @inline(__always)
    private static func add(_ a: UnsafePointer<Float>, _ b: UnsafePointer<Float>, _ count: Int, to sums: Sums) -> Sums {
        var sums = sums
        var index = 0
        while index < count {
            let left = UnsafeRawPointer(a + index).loadUnaligned(as: Sums.self)
            sums += left * UnsafeRawPointer(b + index).loadUnaligned(as: Sums.self)
            index &+= 16
        }
        return sums
    }

    /// 256 elements; beyond a run's end, in what is left of others, it does not matter.
    @inline(__always)
    private static func add(_ factor: Float, times values: UnsafePointer<Float>, to sums: UnsafeMutablePointer<Float>) {
        var index = 0
        while index < FloatRuns.length {
            let place = UnsafeMutableRawPointer(sums + index)
            let product = Sums(repeating: factor) * UnsafeRawPointer(values + index).load(as: Sums.self)
            place.storeBytes(of: place.load(as: Sums.self) + product, as: Sums.self)
            index &+= 16
        }
    }

    @inline(__always)
    private static func fold(_ sums: Sums) -> Float {
        let eight = sums.lowHalf + sums.highHalf
        let four = eight.lowHalf + eight.highHalf
        let two = four.lowHalf + four.highHalf
        return two[0] + two[1]
    }

    // MARK: Matrices of the caller's

    /// y += (x B^T) A^T for some rows of both.
    @inline(never)
    public func add(_ x: Matrix, to y: Matrix, rows: Range<Int64>, _ kernels: i4q_kernels) {
        // x B^T of a row, and a run of y.
        StackMemory<32>.use { memory in
            let t = memory.assumingMemoryBound(to: Float.self), run = t + 256
            for row in rows {
                project(x.row(Int(row)), x.type, into: t, kernels)
                var column = 0
                while column < y.columns {
                    let count = min(FloatRuns.length, y.columns &- column), target = y.mutableRow(Int(row)) + column &* y.type.size
                    kernels.load.unsafelyUnwrapped(target, Int64(y.type.raw), Int64(count), run)
                    add(t, rows: column..<column &+ count, to: run, kernels)
                    kernels.store.unsafelyUnwrapped(run, Int64(count), Int64(y.type.raw), target)
                    column &+= count
                }
            }
        }
    }

    /// target = source - A B for some rows of both; both may be the same.
    @inline(never)
    public func subtract(from source: Matrix, to target: Matrix, rows: Range<Int64>, _ kernels: i4q_kernels) {
        // Sums of 16 rows, [row][256], and a run of B or of the source.
        StackMemory<272>.use { memory in
            let sums = memory.assumingMemoryBound(to: Float.self), run = sums + 4096
            var first = Int(rows.lowerBound)
            while first < Int(rows.upperBound) {
                let height = min(16, Int(rows.upperBound) &- first)
                var column = 0
                while column < b.columns {
                    let count = min(FloatRuns.length, b.columns &- column)
                    sums.update(repeating: 0, count: height &* 256)
                    for index in 0..<rank {
                        kernels.load.unsafelyUnwrapped(b.row(index) + column &* b.type.size, Int64(b.type.raw), Int64(count), run)
                        for row in 0..<height {
                            LowRank.add(a.type.load(a.row(first &+ row), index), times: run, to: sums + row &* 256)
                        }
                    }
                    for row in 0..<height {
                        let values = source.row(first &+ row) + column &* source.type.size, sum = sums + row &* 256
                        kernels.load.unsafelyUnwrapped(values, Int64(source.type.raw), Int64(count), run)
                        for place in 0..<count { run[place] -= sum[place] }
                        kernels.store.unsafelyUnwrapped(run, Int64(count), Int64(target.type.raw),
                                                        target.mutableRow(first &+ row) + column &* target.type.size)
                    }
                    column &+= count
                }
                first &+= height
            }
        }
    }
}
