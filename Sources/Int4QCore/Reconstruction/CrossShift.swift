// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Where the parts of the scratch are, each at a multiple of 64 bytes:
///
///     [columns in order] [their positions] [triangle of the factor]
///     for each worker blocks of 16 rows: [padded] weights, [padded] what is solved for, a panel's sums in binary64
///     and [chainLength][16] for a part of a matrix
public struct CrossShiftScratch {
    static var laneBlocks: Int { 4 }
    static var taskRows: Int { laneBlocks * 16 }
    static var tasksPerWave: Int { 4 }

    let padded: Int
    let factor: Int
    let workers: Int
    var blockBytes: Int { padded * 128 + 2048 }
    var workerBytes: Int { blockBytes * CrossShiftScratch.laneBlocks + chainLength * 64 }
    public let bytes: UInt64

    @inline(never)
    public init(k: Int64, workers: UInt32) throws(Failure) {
        try requireChannels(k)
        padded = TrianglePanels(columns: Int(k)).columns
        factor = wholeLines(padded * 4) * 2
        self.workers = Int(try TrianglePanels.checkedCount(columns: k, "k").times(4).plus(UInt64(factor)).value)
        let own = (padded * 128 + 2048) * CrossShiftScratch.laneBlocks + chainLength * 64
        bytes = try CheckedSize(UInt64(own), "worker_count", argument: Int64(workers)).times(UInt64(workers))
            .plus(UInt64(self.workers)).value
    }
}

/// W + alpha (W D + E) H^-1, E being what the cross matrix has of n residuals, if any. With H = M M^T that is two triangular systems
/// for each row: r M^T = w D + e, from the last column to the first, and s M = r, from the first to the last.
public struct CrossShift {
    let source: Matrix
    let destination: Matrix
    let n: Int64
    let cross: Cross
    let options: GptqOptions
    let scratch: CrossShiftScratch
    let memory: UnsafeMutableRawPointer
    let kernels: i4q_kernels
    var factor: TriangularFactor
    var badRow: Int64 = .max
    var firstTask = 0

    @inline(never)
    public init(_ source: Matrix, to destination: Matrix, n: Int64, _ gram: Gram, _ options: GptqOptions,
                _ scratch: CrossShiftScratch, _ memory: UnsafeMutableRawPointer, _ kernels: i4q_kernels) throws(Failure) {
        try gram.requireColumns(Int64(source.columns), "a Gram matrix of k,")
        self.source = source
        self.destination = destination
        self.n = n
        self.options = options
        self.scratch = scratch
        self.memory = memory
        self.kernels = kernels
        let order = ChannelOrder(columns: memory.assumingMemoryBound(to: Int32.self),
                                 positions: (memory + scratch.factor / 2).assumingMemoryBound(to: Int32.self))
        order.fill(gram, order: int32(INT4Q_GPTQ_ORDER_COLUMNS), groupSize: source.columns)
        let damped = try DampedGram(gram, order)
        cross = options.cross.unsafelyUnwrapped
        try cross.require(damped, residuals: n)
        factor = TriangularFactor(source: damped, elements: (memory + scratch.factor).assumingMemoryBound(to: Float.self),
                                  kernels: kernels)
    }

    private var tasks: Int { (Int(n) - 1) / CrossShiftScratch.taskRows + 1 }
    private var panels: Int { scratch.padded / panelWidth }
    public var damping: Double { factor.source.damping }

    @inline(never)
    public mutating func run(_ parallel: ParallelFor) throws(Failure) {
        let total = factor.rows + tasks
        try factor.complete(options, parallel, progressTotal: total)
        while firstTask < tasks {
            try options.reportProgress(factor.rows + firstTask, total, parallel)
            let count = min(Int(options.raw.worker_count) * CrossShiftScratch.tasksPerWave, tasks - firstTask)
            try parallel.run(&self, count: count) { work, index, worker in
                let shift = work.unsafelyUnwrapped.assumingMemoryBound(to: CrossShift.self)
                let begin = Int64((shift.pointee.firstTask &+ Int(index)) &* CrossShiftScratch.taskRows)
                let rows = begin..<min(begin &+ Int64(CrossShiftScratch.taskRows), shift.pointee.n)
                if !shift.pointee.run(rows, worker) { i4q_atomic_least_i64(&shift.pointee.badRow, begin) }
            }
            // Once more, for the sake of the error.
            if badRow != .max { try source.eachRun(badRow..<n, kernels, isChecked: true) { _, _, _, _ in } }
            firstTask += count
        }
        try options.reportProgress(total, total, parallel)
    }

    /// Whether all weights are finite.
    private func run(_ rows: Range<Int64>, _ worker: UInt32) -> Bool {
        let blocks = CrossShiftRows(task: self, memory: memory + scratch.workers + Int(worker) &* scratch.workerBytes, rows: rows)
        do throws(Failure) { try blocks.load() } catch { return false }
        let product = CrossProduct(cross: cross, columns: source.columns, order: factor.source.order, scale: factor.source.scale,
                                   kernels: kernels, room: blocks.room)
        for panel in 0..<panels {
            blocks.clearSums()
            product.add(panel, blocks.weights, stride: scratch.blockBytes, blocks: blocks.count, blocks.sums)
            blocks.addResiduals(panel, scale: product.scale)
            blocks.take(panel)
        }
        for panel in 0..<panels { blocks.solve(panels &- 1 &- panel, isBackward: true) }
        for panel in 0..<panels { blocks.solve(panel, isBackward: false) }
        blocks.store()
        return true
    }
}

/// Up to four blocks of 16 rows.
private struct CrossShiftRows {
    let task: CrossShift
    let memory: UnsafeMutableRawPointer
    let rows: Range<Int64>

    private var scratch: CrossShiftScratch { task.scratch }
    var count: Int { (rows.count &+ 15) / 16 }
    var weights: UnsafeMutablePointer<Float> { memory.assumingMemoryBound(to: Float.self) }
    private var solution: UnsafeMutablePointer<Float> { weights + scratch.padded &* 16 }
    var sums: UnsafeMutablePointer<Double> { (memory + scratch.padded &* 128).assumingMemoryBound(to: Double.self) }
    var room: UnsafeMutablePointer<Float> {
        (memory + scratch.blockBytes &* CrossShiftScratch.laneBlocks).assumingMemoryBound(to: Float.self)
    }
    private var floatStride: Int { scratch.blockBytes / 4 }
    private var doubleStride: Int { scratch.blockBytes / 8 }
    /// Where a row's weights are, 16 apart.
    private func place(_ row: Int) -> Int {
        let index = row &- Int(rows.lowerBound)
        return index / 16 &* floatStride &+ index % 16
    }

    @inline(never)
    func load() throws(Failure) {
        for block in 0..<count { (weights + block &* floatStride).update(repeating: 0, count: scratch.padded &* 16) }
        try task.source.eachRun(rows, task.kernels, isChecked: true) { runs, row, column, count in
            let target = weights + place(row)
            for index in 0..<count { target[(column &+ index) &* 16] = runs.floats[index] }
        }
    }

    @inline(never)
    func store() {
        let store = task.kernels.store.unsafelyUnwrapped, type = task.destination.type, alpha = Float(task.options.raw.alpha)
        for row in rows {
            let source = weights + place(Int(row)), shift = solution + place(Int(row))
            var column = 0
            while column < task.source.columns {
                let count = min(chainLength &* 16, task.source.columns &- column)
                for index in 0..<count {
                    let place = (column &+ index) &* 16
                    room[index] = source[place] + alpha * shift[place]
                }
                store(room, Int64(count), Int64(type.raw), task.destination.mutableRow(Int(row)) + column &* type.size)
                column &+= count
            }
        }
    }

    func clearSums() {
        for block in 0..<count { (sums + block &* doubleStride).update(repeating: 0, count: 256) }
    }

    /// The cross matrix's rows after W's channels, one for each row of W.
    @inline(never)
    func addResiduals(_ panel: Int, scale: Double) {
        let k = task.source.columns
        if task.cross.layout.k == Int64(k) { return }
        for row in rows {
            let index = Int(row &- rows.lowerBound)
            let source = task.cross.panel(panel, row: k &+ Int(row)), target = sums + (index / 16 &* doubleStride &+ index % 16)
            for column in 0..<panelWidth { target[column &* 16] += source[column] * scale }
        }
    }

    /// Takes a panel's sums for what is to be solved. Columns after the last may be those of residuals.
    @inline(never)
    func take(_ panel: Int) {
        let used = min(panelWidth, task.source.columns &- panel &* panelWidth) &* 16
        for block in 0..<count {
            let target = solution + (block &* floatStride &+ panel &* 256), sums = sums + block &* doubleStride
            for place in 0..<256 { target[place] = place < used ? Float(sums[place]) : 0 }
        }
    }

    /// Sixteen columns of r M^T = w D, or of s M = r; all columns after, or before, are done.
    @_optimize(speed) @inline(never)
    func solve(_ panel: Int, isBackward: Bool) {
        clearSums()
        let first = panel &* panelWidth, elements = task.factor.elements
        var depth = isBackward ? first &+ panelWidth : 0
        let end = isBackward ? scratch.padded : first
        while depth < end {
            let length = min(chainLength, end &- depth)
            var left = UnsafePointer(elements + TrianglePanels.place(depth, first))
            if isBackward {
                turn(first, depth, length)
                left = UnsafePointer(room)
            }
            addProducts(task.kernels, left, solution + depth &* 16, depth: length, stride: scratch.blockBytes, blocks: count, sums)
            depth &+= length
        }
        let square = elements + TrianglePanels.place(first, first)
        for block in 0..<count {
            let values = solution + (block &* floatStride &+ first &* 16), sums = sums + block &* doubleStride
            for step in 0..<panelWidth {
                let column = isBackward ? panelWidth &- 1 &- step : step
                let lanes = sums + column &* 16
                for lane in 0..<16 { lanes[lane] = Double(values[column &* 16 &+ lane]) - lanes[lane] }
                for done in isBackward ? column &+ 1..<panelWidth : 0..<column {
                    let element = square[isBackward ? column &* 16 &+ done : done &* 16 &+ column]
                    i4q_subtract_product(lanes, values + done &* 16, element)
                }
                let divisor = Double(square[column &* 17])
                for lane in 0..<16 { values[column &* 16 &+ lane] = Float(lanes[lane] / divisor) }
            }
        }
    }

    /// Turns columns depth ... of 16 rows of M into rows.
    @_optimize(speed) @inline(never)
    private func turn(_ first: Int, _ depth: Int, _ length: Int) {
        for square in 0..<length / panelWidth {
            let source = task.factor.elements + TrianglePanels.place(first, depth &+ square &* panelWidth)
            let target = room + square &* 256
            for i in 0..<panelWidth {
                for j in 0..<panelWidth { target[j &* panelWidth &+ i] = source[i &* panelWidth &+ j] }
            }
        }
    }
}
