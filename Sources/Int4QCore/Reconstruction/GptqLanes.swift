// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Sixteen rows, or fewer at the matrix's end, and what is kept of them (GptqLanesLayout).
struct GptqLanes {
    private let task: UnsafePointer<Gptq>
    private let rows: Range<Int64>
    private let memory: UnsafeMutableRawPointer

    init(_ task: UnsafePointer<Gptq>, _ rows: Range<Int64>, _ memory: UnsafeMutableRawPointer) {
        self.task = task
        self.rows = rows
        self.memory = memory
    }

    private var layout: GptqLanesLayout { task.pointee.scratch.lanes }
    private var scheme: Scheme { task.pointee.tensor.scheme }
    private func floats(_ offset: Int) -> UnsafeMutablePointer<Float> { (memory + offset).assumingMemoryBound(to: Float.self) }
    private func doubles(_ offset: Int) -> UnsafeMutablePointer<Double> { (memory + offset).assumingMemoryBound(to: Double.self) }

    var errors: UnsafeMutablePointer<Float> { floats(layout.errors) }
    var nearest: UnsafeMutablePointer<Float> { floats(layout.nearest) }
    var codes: UnsafeMutablePointer<UInt8> { (memory + layout.codes).assumingMemoryBound(to: UInt8.self) }
    var encodings: UnsafeMutablePointer<i4q_lane_encoding> {
        (memory + layout.encodings).assumingMemoryBound(to: i4q_lane_encoding.self)
    }
    var table: UnsafeMutablePointer<i4q_lane_table> { (memory + layout.table).assumingMemoryBound(to: i4q_lane_table.self) }
    var usesTable: Bool { scheme.kind == .codebook }
    var sums: UnsafeMutablePointer<Double> { doubles(layout.sums) }
    /// Of GPTQ, then of rounding to nearest; what damping has added to the one and the other; what a cross matrix adds to them.
    var losses: UnsafeMutablePointer<Double> { doubles(layout.losses) }
    var pulls: UnsafeMutablePointer<Float> { floats(layout.pulls) }
    var kept: UnsafeMutablePointer<Double> { doubles(layout.kept) }

    func clearSums() { sums.update(repeating: 0, count: task.pointee.scratch.blockColumns &* 16) }

    // MARK: Begin

    /// Weights, errors of rounding to nearest, tables; with static groups their encodings.
    @inline(never)
    func begin() {
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: layout.bytes)
        // Neither fails: rounding to nearest has been done.
        try? TensorRuns.with(task.pointee.tensor, task.pointee.source, task.pointee.kernels) { (runs) throws(Failure) in
            for row in rows { try load(runs, row) }
        }
        if !task.pointee.options.isStatic && !usesTable { return }
        try? QuantizingMemory.use { (memory) throws(Failure) in
            let sink = TensorSink(tensor: task.pointee.tensor)
            let quantizer = RowQuantizer(sink, task.pointee.source, from: Int(rows.lowerBound), task.pointee.kernels, memory)
            for row in rows {
                let lane = Int(row &- rows.lowerBound)
                quantizer.begin(Int(row))
                if let table = quantizer.table { fill(lane, table, Int(row)) }
                if !task.pointee.options.isStatic { continue }
                for group in 0..<task.pointee.scratch.groups { put(try quantizer.parameters(Int(row), group), group, lane) }
            }
        }
    }

    private func load(_ runs: TensorRuns, _ row: Int64) throws(Failure) {
        let lane = Int(row &- rows.lowerBound)
        var column = 0
        while column < task.pointee.scratch.k {
            let count = try runs.load(Int(row), column)
            for index in 0..<count {
                let place = Int(task.pointee.order.positions[column &+ index]) &* 16 &+ lane
                errors[place] = runs.source[index]
                nearest[place] = runs.source[index] - runs.decoded[index]
            }
            column &+= count
        }
    }

    /// The cross matrix has been multiplied by then: what dead channels were in the float model counts all the same.
    @inline(never)
    func clearDead() {
        for position in 0..<task.pointee.scratch.k where task.pointee.factor.source.isDead(position: position) {
            (errors + position &* 16).update(repeating: 0, count: 16)
        }
    }

    @_optimize(speed)
    private func fill(_ lane: Int, _ source: UnsafePointer<i4q_code_table>, _ row: Int) {
        let codebook = task.pointee.tensor.codebook(row).unsafelyUnwrapped
        let steps = (UnsafeRawPointer(source) + 64).assumingMemoryBound(to: Int32.self)
        let limits = UnsafeMutableRawPointer(table).assumingMemoryBound(to: Float.self)
        let codes = (UnsafeMutableRawPointer(table) + 15 &* 64).assumingMemoryBound(to: Int32.self)
        let values = limits + 31 &* 16
        var code = source.pointee.first
        for index in 0..<16 {
            codes[index &* 16 &+ lane] = code
            values[index &* 16 &+ lane] = codebook[Int(code)]
            if index == 15 { break }
            limits[index &* 16 &+ lane] = UnsafeRawPointer(source).assumingMemoryBound(to: Float.self)[index]
            code &+= steps[index]
        }
    }

    // MARK: Groups

    /// Takes a group's parameters from its weights as they are now, [count][16]. A row whose weights have become too large for its
    /// scale's type, or infinite, is left to rounding to nearest.
    @inline(never)
    @_optimize(speed)
    func fit(_ group: Int, _ current: UnsafePointer<Float>, _ count: Int, _ room: UnsafeMutableRawPointer) {
        let values = room.assumingMemoryBound(to: Float.self)
        QuantizingTable.use { memory in
            let tensor = task.pointee.tensor
            var table = tensor.codebook(Int(rows.lowerBound)).map { scheme.makeTable($0, at: memory) }
            for row in rows {
                let lane = Int(row &- rows.lowerBound)
                if scheme.hasRowCodebooks && lane > 0 {
                    table = scheme.makeTable(tensor.codebook(Int(row)).unsafelyUnwrapped, at: memory)
                }
                for index in 0..<count { values[index] = current[index &* 16 &+ lane] }
                var part = i4q_group_range()
                task.pointee.kernels.group_range.unsafelyUnwrapped(values, Int64(count), &part)
                let range = GroupRange(part, values, count)
                let parameters = part.first_not_finite >= 0 ? nil : scheme.parameters(for: range, table: table)
                if let parameters, parameters.scale.isFinite && parameters.offset.isFinite {
                    put(parameters, group, lane)
                } else {
                    losses[lane] = .infinity
                }
            }
        }
    }

    @inline(never)
    private func put(_ parameters: GroupParameters, _ group: Int, _ lane: Int) {
        floats(layout.scales)[group &* 16 &+ lane] = parameters.scale
        floats(layout.offsets)[group &* 16 &+ lane] = parameters.offset
        memory.storeBytes(of: parameters.zeroPoint, toByteOffset: layout.zeroPoints &+ group &* 16 &+ lane, as: UInt8.self)

        let decoding = scheme.decoding(scale: parameters.scale, zeroPoint: parameters.zeroPoint, offset: parameters.offset,
                                       codebook: nil)
        let fields = UnsafeMutableRawPointer(encodings + group) + lane &* 4
        func store(_ field: Int, _ value: Float) { fields.storeBytes(of: value, toByteOffset: field &* 64, as: Float.self) }
        func store(_ field: Int, _ value: Int32) { fields.storeBytes(of: value, toByteOffset: field &* 64, as: Int32.self) }
        let only = Int32(parameters.onlyCode)
        store(3, decoding.scale)
        store(4, decoding.offset)
        store(5, decoding.zero)
        guard let encoding = parameters.encoding else {
            store(0, Float(1))
            store(6, only)
            store(7, only)
            return
        }
        store(0, encoding.ggml_bias != 0 ? encoding.reciprocal : encoding.scale)
        store(1, encoding.offset)
        store(2, encoding.gain)
        store(6, encoding.low)
        store(7, encoding.high)
    }

    // MARK: End

    /// What damping, and the diagonal of dead channels, add to the losses.
    @inline(never)
    func addDamping() {
        let source = task.pointee.factor.source
        for position in 0..<task.pointee.scratch.k {
            let weight = source.dampedShare + (source.isDead(position: position) ? source.mean : 0)
            i4q_add_weighted_squares(losses + 32, errors + position &* 16, weight)
            i4q_add_weighted_squares(losses + 48, nearest + position &* 16, weight)
        }
    }

    private func loss(_ lane: Int) -> Double { max(losses[lane] - losses[32 &+ lane], 0) + losses[64 &+ lane] }

    /// Whether GPTQ has improved a row. Both losses are known to about six digits of the damped ones. More of rounding to nearest's
    /// can only confirm it.
    private func isBetter(_ lane: Int) -> Bool {
        let pulls = losses[64 &+ lane].magnitude + losses[80 &+ lane].magnitude
        return loss(16 &+ lane) - loss(lane) > 1e-5 * (losses[lane] + losses[16 &+ lane] + pulls)
    }

    var isBetterEverywhere: Bool {
        for lane in 0..<rows.count where !isBetter(lane) { return false }
        return true
    }

    /// Writes the rows that GPTQ has improved to the tensor.
    @inline(never)
    func finish(_ outcome: inout GptqOutcome) {
        let source = task.pointee.factor.source, samples = Double(source.gram.rows)
        let unit = samples == 0 ? 0 : 1 / (source.scale * samples)
        for row in rows {
            let lane = Int(row &- rows.lowerBound)
            let isBetter = isBetter(lane)
            if isBetter { write(Int(row), lane) } else { outcome.nearestRows += 1 }
            outcome.loss += loss(isBetter ? lane : 16 &+ lane) * unit
            outcome.nearestLoss += loss(16 &+ lane) * unit
        }
    }

    private func write(_ row: Int, _ lane: Int) {
        let tensor = task.pointee.tensor, type = scheme.scaleType
        for group in 0..<task.pointee.scratch.groups {
            let index = tensor.groupIndex(row, group), place = group &* 16 &+ lane
            type.store(floats(layout.scales)[place], tensor.scales, index)
            let zeroPoint = memory.load(fromByteOffset: layout.zeroPoints &+ place, as: UInt8.self)
            if let zeroPoints = tensor.zeroPoints { zeroPoints[index] = zeroPoint }
            if let offsets = tensor.offsets { type.store(floats(layout.offsets)[place], offsets, index) }
        }
        let target = tensor.codesRow(row), positions = task.pointee.order.positions, k = task.pointee.scratch.k
        if scheme.width.bits == 8 {
            for column in 0..<k { target[column] = codes[Int(positions[column]) &* 16 &+ lane] }
            return
        }
        for pair in 0..<(k &+ 1) / 2 {
            let low = codes[Int(positions[2 &* pair]) &* 16 &+ lane]
            let high = 2 &* pair &+ 1 < k ? codes[Int(positions[2 &* pair &+ 1]) &* 16 &+ lane] : 0
            target[pair] = low | high << 4
        }
    }
}

/// Memory for one codebook's table.
private enum QuantizingTable {
    static func use(_ body: (UnsafeMutableRawPointer) -> Void) { StackMemory<3>.use { body($0) } }
}
