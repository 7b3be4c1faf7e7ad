// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Up to 64 rows in blocks of 16, each row in a lane. Columns go by in blocks: what the errors of all earlier columns do to a block
/// is a product of panels; within the block each column's error is spread at once.
///
/// With d the errors of columns (weight - value) and M the factor of H, d M are the parts of the output's error that no later
/// column can undo: their squares add up to d H d^T, the loss. They are computed for rounding to nearest, too.
struct GptqRows {
    private let task: UnsafePointer<Gptq>
    private let rows: Range<Int64>
    private let memory: UnsafeMutableRawPointer
    /// Of this worker: weights of a block as they are now, the values of its codes, each column's group.
    private let current: UnsafeMutablePointer<Float>
    private let values: UnsafeMutablePointer<Float>
    private let groups: UnsafeMutablePointer<Int32>
    private let room: UnsafeMutableRawPointer

    init(_ task: UnsafePointer<Gptq>, _ rows: Range<Int64>, _ memory: UnsafeMutableRawPointer) {
        self.task = task
        self.rows = rows
        self.memory = memory
        let columns = task.pointee.scratch.blockColumns
        let shared = memory + task.pointee.scratch.lanes.bytes &* GptqScratch.laneBlocks
        current = shared.assumingMemoryBound(to: Float.self)
        values = current + columns &* 16
        groups = (shared + columns &* 128).assumingMemoryBound(to: Int32.self)
        room = shared + columns &* 132
    }

    private var scratch: GptqScratch { task.pointee.scratch }
    private var laneBlocks: Int { (rows.count &+ 15) / 16 }
    private func lanes(_ index: Int) -> GptqLanes {
        let begin = rows.lowerBound &+ Int64(index &* 16)
        return GptqLanes(task, begin..<min(begin &+ 16, rows.upperBound), memory + index &* scratch.lanes.bytes)
    }

    @inline(never)
    func run() -> GptqOutcome {
        for index in 0..<laneBlocks { lanes(index).begin() }
        if let cross = task.pointee.options.cross { pull(cross) }
        if task.pointee.options.clearsDead {
            for index in 0..<laneBlocks { lanes(index).clearDead() }
        }
        for block in 0..<blocks {
            let columns = task.pointee.block(block)
            for index in 0..<laneBlocks { lanes(index).clearSums() }
            add(columns, scratch.lanes.errors, task.pointee.factor.elements, end: columns.lowerBound)
            if let correction = task.pointee.factor.correction {
                for index in 0..<laneBlocks { lanes(index).kept.update(from: lanes(index).sums, count: columns.count &* 16) }
                add(columns, scratch.lanes.pulls, correction.elements, end: columns.lowerBound)
            }
            for index in 0..<laneBlocks { round(lanes(index), block) }
        }
        for index in 0..<laneBlocks { lanes(index).addDamping() }
        addNearest()
        var outcome = GptqOutcome()
        for index in 0..<laneBlocks { lanes(index).finish(&outcome) }
        return outcome
    }

    private var blocks: Int { (scratch.padded &- 1) / scratch.blockColumns &+ 1 }

    /// Rounding to nearest's losses. The last columns come first: what all channels have in common is there, and most of the loss.
    private func addNearest() {
        var block = blocks
        while block > 0 {
            block &-= 1
            let columns = task.pointee.block(block)
            for index in 0..<laneBlocks { lanes(index).clearSums() }
            add(columns, scratch.lanes.nearest, task.pointee.factor.elements, end: columns.upperBound)
            var isDecided = !task.pointee.options.measuresNearest
            for index in 0..<laneBlocks {
                let lanes = lanes(index)
                for column in 0..<columns.count { i4q_add_squares(lanes.losses + 16, lanes.sums + column &* 16) }
                isDecided = isDecided && lanes.isBetterEverywhere
            }
            if isDecided { return }
        }
    }

    /// Adds products of what stands at an offset in blocks of rows, in columns before `end`, and the block's columns of M, or of
    /// GPTAQ's correction; two blocks of rows at a time.
    @inline(never)
    @_optimize(speed)
    private func add(_ block: Range<Int>, _ vectors: Int, _ matrix: UnsafePointer<Float>, end: Int) {
        var update = i4q_rank_update()
        update.left_panels = 1
        update.right_stride = Int64(scratch.lanes.bytes / 4)
        update.out_stride = Int64(scratch.lanes.bytes / 8)
        var depth = 0
        while depth < end {
            var index = 0
            while index < laneBlocks {
                let place = index &* scratch.lanes.bytes &+ vectors &+ depth &* 64
                update.right = UnsafePointer((memory + place).assumingMemoryBound(to: Float.self))
                update.right_panels = Int64(min(2, laneBlocks &- index))
                for panel in block.lowerBound / 16..<block.upperBound / 16 where depth < panel &* 16 &+ 16 {
                    update.depth = Int64(min(chainLength, panel &* 16 &+ 16 &- depth))
                    update.left = matrix + TrianglePanels.place(depth, panel &* 16)
                    update.out = lanes(index).sums + (panel &* 16 &- block.lowerBound) &* 16
                    task.pointee.kernels.rank_update.unsafelyUnwrapped(&update)
                }
                index &+= 2
            }
            depth &+= chainLength
        }
    }

    @inline(never)
    @_optimize(speed)
    private func round(_ lanes: GptqLanes, _ index: Int) {
        let block = task.pointee.block(index)
        update(lanes, block, task.pointee.inverse(index))
        let end = min(block.upperBound, scratch.k)
        var rounding = i4q_column_rounding()
        rounding.current = current
        rounding.factor = UnsafePointer(task.pointee.inverse(index))
        rounding.columns = Int64(block.count)
        rounding.groups = UnsafePointer(groups)
        rounding.encodings = UnsafePointer(lanes.encodings)
        rounding.table = lanes.usesTable ? UnsafePointer(lanes.table) : nil
        let scheme = task.pointee.tensor.scheme
        rounding.ggml_bias = !scheme.usesGgmlRounding ? 0 : scheme.kind == .offset ? 0.5 : 8.5
        rounding.codes = lanes.codes + block.lowerBound &* 16
        rounding.values = values
        // With a correction an error (current - value) / factor is not what is left in the end.
        let hasCross = task.pointee.factor.correction != nil
        rounding.losses = hasCross ? (room + 1024).assumingMemoryBound(to: Double.self) : lanes.losses
        var begin = block.lowerBound
        while begin < end {
            let groupEnd = task.pointee.options.isStatic ? end : min(begin &+ scratch.groupSize, end)
            takeGroups(begin..<groupEnd, block.lowerBound)
            if !task.pointee.options.isStatic {
                let first = begin &- block.lowerBound
                lanes.fit(Int(groups[first]), current + first &* 16, groupEnd &- begin, room)
            }
            while begin < groupEnd {
                rounding.begin = Int64(begin &- block.lowerBound)
                rounding.end = hasCross ? rounding.begin &+ 1 : Int64(groupEnd &- block.lowerBound)
                task.pointee.kernels.round_columns.unsafelyUnwrapped(&rounding)
                if hasCross { correct(begin &- block.lowerBound, block.count, task.pointee.corrections(index)) }
                begin = block.lowerBound &+ Int(rounding.end)
            }
        }
        let errors = lanes.errors + block.lowerBound &* 16
        for place in 0..<(end &- block.lowerBound) &* 16 { errors[place] -= values[place] }
        if hasCross { close(lanes, block, end) }
    }

    /// The groups of columns.
    private func takeGroups(_ range: Range<Int>, _ begin: Int) {
        for position in range {
            groups[position &- begin] = task.pointee.order.columns[position] / Int32(truncatingIfNeeded: scratch.groupSize)
        }
    }

    /// Chains of at most chainLength.
    private func add(_ update: inout i4q_rank_update, _ left: UnsafePointer<Float>, _ right: UnsafePointer<Float>, depth: Int) {
        var begin = 0
        while begin < depth {
            update.left = left + begin &* 16
            update.right = right + begin &* 16
            update.depth = Int64(min(chainLength, depth &- begin))
            task.pointee.kernels.rank_update.unsafelyUnwrapped(&update)
            begin &+= chainLength
        }
    }

    /// The block's weights as earlier columns leave them: weight + sums U.
    @inline(never)
    @_optimize(speed)
    private func update(_ lanes: GptqLanes, _ block: Range<Int>, _ inverse: UnsafeMutablePointer<Float>) {
        let weights = lanes.errors + block.lowerBound &* 16
        if block.lowerBound == 0 {
            current.update(from: weights, count: block.count &* 16)
            return
        }
        // The values' place serves for the sums in binary32; their own place for the products.
        for place in 0..<block.count &* 16 {
            values[place] = Float(lanes.sums[place])
            lanes.sums[place] = Double(weights[place])
        }
        var update = i4q_rank_update()
        update.left_panels = 1
        update.right_panels = 1
        for panel in 0..<block.count / 16 {
            update.out = lanes.sums + panel &* 256
            add(&update, inverse + panel &* block.count &* 16, values, depth: panel &* 16 &+ 16)
        }
        for place in 0..<block.count &* 16 { current[place] = Float(lanes.sums[place]) }
    }
}

// MARK: GPTAQ

extension GptqRows {
    /// Adds to the block's later columns what a column's weight as it was makes up for.
    @_optimize(speed) @inline(never)
    private func correct(_ column: Int, _ columns: Int, _ corrections: UnsafePointer<Float>) {
        let weights = UnsafeRawPointer(current).load(fromByteOffset: column &* 64, as: SIMD16<Float>.self)
        for later in column &+ 1..<max(columns, column &+ 1) {
            let place = UnsafeMutableRawPointer(current) + later &* 64
            let factor = corrections[(later / 16 &* columns &+ column) &* 16 &+ later % 16]
            let sum = place.load(as: SIMD16<Float>.self) + weights * SIMD16(repeating: factor)
            place.storeBytes(of: sum, as: SIMD16<Float>.self)
        }
    }

    /// All weights times the cross matrix: what 2 (w D) d takes up.
    @inline(never)
    private func pull(_ cross: Cross) {
        let product = CrossProduct(cross: cross, columns: scratch.k, order: task.pointee.order, scale: task.pointee.factor.source.scale,
                                   kernels: task.pointee.kernels, room: values)
        let first = lanes(0)
        for panel in 0..<scratch.padded / 16 {
            for index in 0..<laneBlocks { lanes(index).sums.update(repeating: 0, count: 256) }
            product.add(panel, first.errors, stride: scratch.lanes.bytes, blocks: laneBlocks, first.sums)
            for index in 0..<laneBlocks {
                let lanes = lanes(index)
                for column in 0..<min(16, scratch.k &- panel &* 16) {
                    let place = Int(task.pointee.order.positions[panel &* 16 &+ column]) &* 16
                    for lane in 0..<16 { lanes.pulls[place &+ lane] = Float(lanes.sums[column &* 16 &+ lane]) }
                }
            }
        }
        for index in 0..<laneBlocks {
            let lanes = lanes(index)
            addPulls(lanes.losses + 80, lanes.pulls, lanes.nearest, scratch.k &* 16)
        }
    }

    private func addPulls(_ sums: UnsafeMutablePointer<Double>, _ pulls: UnsafePointer<Float>, _ errors: UnsafePointer<Float>,
                          _ count: Int) {
        for place in 0..<count { sums[place & 15] += 2 * (Double(pulls[place]) * Double(errors[place])) }
    }

    /// The block's part of the losses, and its weights as they were.
    @inline(never)
    private func close(_ lanes: GptqLanes, _ block: Range<Int>, _ end: Int) {
        let begin = block.lowerBound &* 16, count = end &* 16 &- begin
        var update = i4q_rank_update()
        update.left_panels = 1
        update.right_panels = 1
        for panel in 0..<block.count / 16 {
            update.out = lanes.kept + panel &* 256
            let factor = task.pointee.factor.elements + TrianglePanels.place(block.lowerBound, block.lowerBound &+ panel &* 16)
            add(&update, factor, lanes.errors + begin, depth: panel &* 16 &+ 16)
        }
        for column in 0..<block.count { i4q_add_squares(lanes.losses, lanes.kept + column &* 16) }
        addPulls(lanes.losses + 64, lanes.pulls + begin, lanes.errors + begin, count)
        (lanes.pulls + begin).update(from: current, count: count)
    }
}
