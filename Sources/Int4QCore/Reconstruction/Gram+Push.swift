// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Scratch of a push: rows of one or two batches as binary32 in panels of 16 columns, [panel][row][16], rows that are missing to a
/// whole pass left out.
public struct GramPushScratch {
    public let bytes: UInt64

    @inline(never)
    public init(k: Int64, batches: Int = 1) throws(Failure) {
        let padded = TrianglePanels(columns: Int(k)).columns
        bytes = try CheckedSize(UInt64(padded), "k", argument: k).times(UInt64(batches * GramPush.passRows * 4)).value
    }
}

/// A batch on its way into a Gram matrix, or two into a cross matrix: each pass packs some rows, and then adds their products, a
/// square of 256 columns at a time. Tasks are independent; sums have one order, whatever the tasks' order.
struct GramPush {
    /// Four chains: the triangle is read and written once in that many rows.
    static var passRows: Int { 4 * chainLength }
    /// Panels of a square: its left side stays in the second-level cache.
    static var squarePanels: Int { 16 }
    static var packedRows: Int { 16 }

    /// NULL for a cross matrix.
    let gram: Gram?
    let products: UnsafeMutablePointer<Double>
    let x: Matrix
    /// What x is to be the difference to, and the right side of all products; or x is both sides.
    let other: Matrix?
    let kernels: i4q_kernels
    let packed: UnsafeMutablePointer<Float>
    /// Of rows, or nil: all 1.
    var weights: UnsafePointer<Float>?
    var rows: Range<Int>
    /// The first row that is not finite, or too large.
    var badRow: Int64 = .max

    var panels: Int { (x.columns &+ panelWidth &- 1) / panelWidth }
    private var packedRight: UnsafeMutablePointer<Float> { other == nil ? packed : packed + panels &* panelStride }
    var squares: Int { (panels &+ GramPush.squarePanels &- 1) / GramPush.squarePanels }
    var panelStride: Int { GramPush.passRows &* panelWidth }

    /// How many squares there are.
    var squareCount: Int { other == nil ? squares &* (squares &+ 1) / 2 : squares &* squares }

    /// Converts one row of the pass.
    func pack(_ row: Int) {
        pack(row, x, packed)
        guard let other else { return }
        pack(row, other, packedRight)
        for panel in 0..<panels {
            let place = panel &* panelStride &+ row &* panelWidth
            for index in 0..<panelWidth { packed[place &+ index] -= packedRight[place &+ index] }
        }
    }

    @_optimize(speed)
    private func pack(_ row: Int, _ matrix: Matrix, _ packed: UnsafeMutablePointer<Float>) {
        let source = matrix.row(rows.lowerBound &+ row), root = root(rows.lowerBound &+ row)
        for panel in 0..<panels {
            let column = panel &* panelWidth, count = min(panelWidth, matrix.columns &- column)
            let target = packed + (panel &* panelStride &+ row &* panelWidth)
            kernels.load.unsafelyUnwrapped(source + column &* matrix.type.size, Int64(matrix.type.raw), Int64(count), target)
            for index in count..<panelWidth { target[index] = 0 }
            if weights == nil { continue }
            for index in 0..<count { target[index] *= root }
        }
    }

    /// What a row is multiplied by.
    private func root(_ row: Int) -> Float { weights.map { $0[row].squareRoot() } ?? 1 }

    /// Sums of a panel's columns.
    func addChannels(_ panel: Int) {
        guard let gram else { return }
        i4q_add_channels(packed + panel &* panelStride, Int64(rows.count), gram.sums + panel &* panelWidth,
                         gram.magnitudes + panel &* panelWidth, gram.maxima + panel &* panelWidth)
    }

    /// Products of the panels of two sides of a square of the triangle.
    func addSquare(_ index: Int) {
        let (top, side) = other == nil ? GramPush.square(index) : (index % squares, index / squares)
        let rightEnd = min((side &+ 1) &* GramPush.squarePanels, panels)
        var right = side &* GramPush.squarePanels
        while right < rightEnd {
            let width = right &+ 1 < rightEnd ? 2 : 1
            let left = top &* GramPush.squarePanels
            add(left, min(left &+ GramPush.squarePanels, other == nil ? right &+ 1 : panels) &- left, right, width)
            // The last rows of the second panel, which the first one does not have.
            if width == 2 && top == side && other == nil { add(right &+ 1, 1, right &+ 1, 1) }
            right &+= 2
        }
    }

    private func add(_ left: Int, _ leftPanels: Int, _ right: Int, _ rightPanels: Int) {
        var depth = 0
        while depth < rows.count {
            var update = i4q_rank_update()
            update.left = UnsafePointer(packed + (left &* panelStride &+ depth &* panelWidth))
            update.left_stride = Int64(panelStride)
            update.left_panels = Int64(leftPanels)
            update.right = UnsafePointer(packedRight + (right &* panelStride &+ depth &* panelWidth))
            update.right_stride = Int64(panelStride)
            update.right_panels = Int64(rightPanels)
            update.depth = Int64(min(chainLength, rows.count &- depth))
            if other == nil {
                update.out = products + TrianglePanels.place(left &* panelWidth, right &* panelWidth)
                update.out_stride = Int64(TrianglePanels.offset(right &+ 1) &- TrianglePanels.offset(right))
            } else {
                update.out = products + (right &* panels &+ left) &* 256
                update.out_stride = Int64(panels &* 256)
            }
            kernels.rank_update.unsafelyUnwrapped(&update)
            depth &+= chainLength
        }
    }

    /// The index-th square of the triangle, column by column: (0, 0), (0, 1), (1, 1), (0, 2) ...
    private static func square(_ index: Int) -> (Int, Int) {
        var side = 0, first = 0
        while first &+ side &+ 1 <= index {
            first &+= side &+ 1
            side &+= 1
        }
        return (index &- first, side)
    }

    /// Whether a row can be taken.
    @inline(never)
    func check(_ row: Int) throws(Failure) {
        try check(row, x, "x")
        if let other { try check(row, other, "y") }
    }

    @inline(never)
    private func check(_ row: Int, _ x: Matrix, _ name: Text) throws(Failure) {
        if let weights, !(weights[row] >= 0 && weights[row].isFinite) {
            throw Failure(INT4Q_ERROR_NOT_FINITE, "weights", .listed(index: Int64(row), weights[row]),
                          expected: "finite numbers that are not negative")
        }
        let factor = max(root(row), 1)
        try FloatRuns.with(x, name, kernels) { (runs) throws(Failure) in
            var column = 0
            while column < x.columns {
                let count = runs.load(row, column)
                let range = try runs.range(count, row, column)
                let largest = max(range.max, -range.min) * factor
                if largest > 0x1p59 {
                    throw Failure(INT4Q_ERROR_NOT_FINITE, name, .element(row: Int64(row), column: Int64(column), largest),
                                  expected: "magnitudes of at most 2^59, in the run of columns that begins there")
                }
                column += count
            }
        }
    }

    /// Takes all rows.
    @inline(never)
    mutating func run(_ count: Int64, into block: RowSums, _ parallel: ParallelFor) throws(Failure) {
        try block.requireColumns(x.columns)
        try block.requireRoom(forRows: count, "rows")
        rows = 0..<Int(count)
        try parallel.run(&self, count: (rows.count + GramPush.packedRows - 1) / GramPush.packedRows) { work, index, _ in
            let push = work.unsafelyUnwrapped.assumingMemoryBound(to: GramPush.self)
            let bad = push.pointee.firstBad(Int(index))
            if bad >= 0 { i4q_atomic_least_i64(&push.pointee.badRow, Int64(bad)) }
        }
        if badRow != .max { try check(Int(badRow)) } // once more, for the sake of the error
        var begin = 0
        while begin < Int(count) {
            rows = begin..<min(begin + GramPush.passRows, Int(count))
            try takePass(parallel)
            begin += GramPush.passRows
        }
        block.add(rows: count, batches: 1)
    }
}

extension Gram {
    /// Takes a batch.
    @inline(never)
    public func push(_ x: Matrix, rows: Int64, weights: UnsafePointer<Float>? = nil, scratch: UnsafeMutableRawPointer,
                     _ kernels: i4q_kernels, _ parallel: ParallelFor) throws(Failure) {
        var push = GramPush(gram: self, products: products, x: x, other: nil, kernels: kernels,
                            packed: scratch.assumingMemoryBound(to: Float.self), weights: weights, rows: 0..<0)
        try push.run(rows, into: block, parallel)
    }
}

extension GramPush {
    private func rows(_ task: Int) -> Range<Int> {
        let begin = task &* GramPush.packedRows
        return begin..<min(begin &+ GramPush.packedRows, rows.count)
    }

    /// Of a task's rows; -1 if all can be taken.
    fileprivate func firstBad(_ task: Int) -> Int {
        for row in rows(task) {
            do throws(Failure) { try check(row) } catch { return row }
        }
        return -1
    }

    private func pack(task: Int) {
        for row in rows(task) { pack(row) }
    }

    private func add(_ index: Int) {
        if index < squareCount { addSquare(index) } else { addChannels(index &- squareCount) }
    }

    fileprivate mutating func takePass(_ parallel: ParallelFor) throws(Failure) {
        try parallel.run(&self, count: (rows.count + GramPush.packedRows - 1) / GramPush.packedRows) { work, index, _ in
            work.unsafelyUnwrapped.assumingMemoryBound(to: GramPush.self).pointee.pack(task: Int(index))
        }
        // Squares first: they take longest.
        try parallel.run(&self, count: squareCount + (gram == nil ? 0 : panels)) { work, index, _ in
            work.unsafelyUnwrapped.assumingMemoryBound(to: GramPush.self).pointee.add(Int(index))
        }
    }
}
