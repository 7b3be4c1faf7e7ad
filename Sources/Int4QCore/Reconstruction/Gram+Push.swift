// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Scratch of a push: rows of a batch as binary32 in panels of 16 columns, [panel][row][16], rows that are missing to a whole pass
/// left out.
public struct GramPushScratch {
    public let bytes: UInt64

    @inline(never)
    public init(_ layout: GramLayout) throws(Failure) {
        bytes = try CheckedSize(UInt64(layout.padded), "k", argument: layout.k).times(UInt64(GramPush.passRows * 4)).value
    }
}

/// A batch on its way into a Gram matrix: each pass packs some rows, and then adds their products, a square of the triangle at a
/// time. Tasks are independent; sums have one order, whatever the tasks' order.
struct GramPush {
    /// Four chains: the triangle is read and written once in that many rows.
    static var passRows: Int { 4 * chainLength }
    /// Panels of a square: its left side stays in the second-level cache.
    static var squarePanels: Int { 16 }
    static var packedRows: Int { 16 }

    let gram: Gram
    let x: Matrix
    let kernels: i4q_kernels
    let packed: UnsafeMutablePointer<Float>
    /// Of rows, or nil: all 1.
    let weights: UnsafePointer<Float>?
    var rows: Range<Int>
    /// The first row that is not finite, or too large.
    var badRow: Int64 = .max

    var panels: Int { gram.layout.triangle.panels }
    var squares: Int { (panels &+ GramPush.squarePanels &- 1) / GramPush.squarePanels }
    var panelStride: Int { GramPush.passRows &* panelWidth }

    /// Converts one row of the pass.
    @_optimize(speed)
    func pack(_ row: Int) {
        let source = x.row(rows.lowerBound &+ row), root = root(rows.lowerBound &+ row)
        for panel in 0..<panels {
            let column = panel &* panelWidth, count = min(panelWidth, x.columns &- column)
            let target = packed + (panel &* panelStride &+ row &* panelWidth)
            kernels.load.unsafelyUnwrapped(source + column &* x.type.size, Int64(x.type.raw), Int64(count), target)
            for index in count..<panelWidth { target[index] = 0 }
            if weights == nil { continue }
            for index in 0..<count { target[index] *= root }
        }
    }

    /// What a row is multiplied by.
    private func root(_ row: Int) -> Float { weights.map { $0[row].squareRoot() } ?? 1 }

    /// Sums of a panel's columns.
    func addChannels(_ panel: Int) {
        i4q_add_channels(packed + panel &* panelStride, Int64(rows.count), gram.sums + panel &* panelWidth,
                         gram.magnitudes + panel &* panelWidth, gram.maxima + panel &* panelWidth)
    }

    /// Products of the panels of two sides of a square of the triangle.
    func addSquare(_ index: Int) {
        let (top, side) = GramPush.square(index)
        let rightEnd = min((side &+ 1) &* GramPush.squarePanels, panels)
        var right = side &* GramPush.squarePanels
        while right < rightEnd {
            let width = right &+ 1 < rightEnd ? 2 : 1
            let left = top &* GramPush.squarePanels
            add(left, min(left &+ GramPush.squarePanels, right &+ 1) &- left, right, width)
            // The last rows of the second panel, which the first one does not have.
            if width == 2 && top == side { add(right &+ 1, 1, right &+ 1, 1) }
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
            update.right = UnsafePointer(packed + (right &* panelStride &+ depth &* panelWidth))
            update.right_stride = Int64(panelStride)
            update.right_panels = Int64(rightPanels)
            update.depth = Int64(min(chainLength, rows.count &- depth))
            update.out = gram.products + TrianglePanels.place(left &* panelWidth, right &* panelWidth)
            update.out_stride = Int64(TrianglePanels.offset(right &+ 1) &- TrianglePanels.offset(right))
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
        if let weights, !(weights[row] >= 0 && weights[row].isFinite) {
            throw Failure(INT4Q_ERROR_NOT_FINITE, "weights", .listed(index: Int64(row), weights[row]),
                          expected: "finite numbers that are not negative")
        }
        let factor = max(root(row), 1)
        try FloatRuns.with(x, "x", kernels) { (runs) throws(Failure) in
            var column = 0
            while column < x.columns {
                let count = runs.load(row, column)
                let range = try runs.range(count, row, column)
                let largest = max(range.max, -range.min) * factor
                if largest > 0x1p59 {
                    throw Failure(INT4Q_ERROR_NOT_FINITE, "x", .element(row: Int64(row), column: Int64(column), largest),
                                  expected: "magnitudes of at most 2^59, in the run of columns that begins there")
                }
                column += count
            }
        }
    }
}

extension Gram {
    /// Takes a batch.
    @inline(never)
    public func push(_ x: Matrix, rows: Int64, weights: UnsafePointer<Float>? = nil, scratch: UnsafeMutableRawPointer,
                     _ kernels: i4q_kernels, _ parallel: ParallelFor) throws(Failure) {
        if Int64(x.columns) != layout.k {
            throw Failure(INT4Q_ERROR_MISMATCH, "columns", .integer(Int64(x.columns)), expected: "the Gram matrix's k,",
                          bound: UInt64(layout.k))
        }
        if rows > Gram.mostRows - self.rows {
            throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, "rows", .integer(rows), expected: "rows that add up to at most",
                          bound: UInt64(Gram.mostRows))
        }
        let packed = scratch.assumingMemoryBound(to: Float.self)
        var push = GramPush(gram: self, x: x, kernels: kernels, packed: packed, weights: weights, rows: 0..<Int(rows))
        try parallel.run(&push, count: (Int(rows) + GramPush.packedRows - 1) / GramPush.packedRows) { work, index, _ in
            let push = work.unsafelyUnwrapped.assumingMemoryBound(to: GramPush.self)
            let bad = push.pointee.firstBad(Int(index))
            if bad >= 0 { i4q_atomic_least_i64(&push.pointee.badRow, Int64(bad)) }
        }
        if push.badRow != .max { try push.check(Int(push.badRow)) } // once more, for the sake of the error
        var begin = 0
        while begin < Int(rows) {
            push.rows = begin..<min(begin + GramPush.passRows, Int(rows))
            try push.takePass(parallel)
            begin += GramPush.passRows
        }
        self.rows += rows
        batches += 1
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
        let count = squares &* (squares &+ 1) / 2
        if index < count { addSquare(index) } else { addChannels(index &- count) }
    }

    fileprivate mutating func takePass(_ parallel: ParallelFor) throws(Failure) {
        try parallel.run(&self, count: (rows.count + GramPush.packedRows - 1) / GramPush.packedRows) { work, index, _ in
            work.unsafelyUnwrapped.assumingMemoryBound(to: GramPush.self).pointee.pack(task: Int(index))
        }
        // Squares first: they take longest.
        try parallel.run(&self, count: squares * (squares + 1) / 2 + panels) { work, index, _ in
            work.unsafelyUnwrapped.assumingMemoryBound(to: GramPush.self).pointee.add(Int(index))
        }
    }
}
