// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Where coordinate descent keeps what it knows of 16 rows, [padded][16] unless said otherwise:
///
///     [errors] [products and sums] [weights] [vectors: changes, levels] [residuals, binary64] [codes, a byte each]
///     [groups][16] scales     [16 or 256][16] values of codes     [16][16] a square of G, turned     [16] losses before, binary64
public struct DescentScratch {
    let padded: Int
    let products: Int
    let weights: Int
    let vectors: Int
    let residuals: Int
    let codes: Int
    let scales: Int
    let values: Int
    let turned: Int
    let losses: Int
    public let bytes: UInt64

    @inline(never)
    public init(_ scheme: Scheme, k: Int64) throws(Failure) {
        let rows = try TensorLayout(scheme, n: 1, k: k)
        padded = Int(try CheckedSize(UInt64(k), "k").roundedUp(to: 16).value)
        // All that follows is less than this.
        _ = try CheckedSize(UInt64(padded), "k", argument: k).times(512)
        products = padded * 64
        weights = products + wholeLines(GramForm.productBytes)
        vectors = weights + padded * 64
        residuals = vectors + padded * 64
        codes = residuals + padded * 128
        scales = codes + padded * 16
        values = scales + Int(rows.groupsPerRow) * 64
        turned = values + 64 * (Int(scheme.width.largest) + 1)
        losses = turned + 2048
        bytes = UInt64(losses + 128)
    }
}

/// Coordinate descent on d G d^T, d = weights - values: 16 rows at a time, a row in each lane.
///
/// With r = G d, moving column j's error by x adds x (2 r_j + x G_jj) to a row's loss. Within a panel of 16 columns r is kept up to
/// date column by column; what a panel's changes do to the others is added when the panel is done.
public struct GramDescent {
    private let tensor: QuantizedTensor
    private let source: Matrix
    private let form: GramForm
    private let kernels: i4q_kernels
    private let sweeps: Int64
    private let refits: Bool
    private let scratch: DescentScratch
    private let memory: UnsafeMutableRawPointer
    private var sweepsDone: Int64 = 0
    private var changedCodes: Int64 = 0
    private var changedScales: Int64 = 0
    private var loss = 0.0
    private var startLoss = 0.0

    @inline(never)
    public init(_ tensor: QuantizedTensor, _ source: Matrix, _ gram: Gram, _ options: int4q_descent_options,
                _ scratch: DescentScratch, _ memory: UnsafeMutableRawPointer, _ kernels: i4q_kernels) throws(Failure) {
        try requireStructSize(options.struct_size, of: int4q_descent_options.self, "options.struct_size")
        refits = options.flags == UInt32(INT4Q_DESCENT_REFIT_SCALES)
        if options.flags != 0 && !refits {
            throw .invalid("options.flags", Int64(options.flags), expected: "INT4Q_DESCENT_* added up")
        }
        if options.sweeps < 1 || options.sweeps > 10000 {
            throw .invalid("options.sweeps", options.sweeps, expected: "1 to 10000")
        }
        if refits && tensor.scheme.hasUnitScale {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "options.flags", .text("INT4Q_DESCENT_REFIT_SCALES"),
                          expected: "0 where scales are INT4Q_SCALE_ONE")
        }
        if tensor.scheme.isFew {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "tensor.scheme.kind", .integer(Int64(tensor.scheme.raw.kind)),
                          expected: "a kind with codes of 4 or 8 bits")
        }
        try gram.requireColumns(tensor.layout.k, "a Gram matrix of the tensor's k,")
        self.tensor = tensor
        self.source = source
        self.kernels = kernels
        form = GramForm(gram, errors: memory, products: memory + scratch.products, kernels)
        sweeps = options.sweeps
        self.scratch = scratch
        self.memory = memory
    }

    public func write(to report: UnsafeMutablePointer<int4q_scale_search_report>) {
        report.pointee.loss = loss
        report.pointee.start_loss = startLoss
    }

    public func write(to report: UnsafeMutablePointer<int4q_descent_report>) {
        report.pointee.sweeps = sweepsDone
        report.pointee.changed_codes = changedCodes
        report.pointee.changed_scales = changedScales
        report.pointee.loss = loss
        report.pointee.start_loss = startLoss
    }

    private func floats(_ offset: Int) -> UnsafeMutablePointer<Float> { (memory + offset).assumingMemoryBound(to: Float.self) }
    private func doubles(_ offset: Int) -> UnsafeMutablePointer<Double> { (memory + offset).assumingMemoryBound(to: Double.self) }
    private var vectors: UnsafeMutablePointer<Float> { floats(scratch.vectors) }
    private var residuals: UnsafeMutablePointer<Double> { doubles(scratch.residuals) }
    private var codes: UnsafeMutablePointer<UInt8> { (memory + scratch.codes).assumingMemoryBound(to: UInt8.self) }
    private var scales: UnsafeMutablePointer<Float> { floats(scratch.scales) }
    /// Of the group that takeValues() was last called for: [code][lane].
    private var values: UnsafeMutablePointer<Float> { floats(scratch.values) }
    private var k: Int { source.columns }
    private var gram: Gram { form.gram }
    private func columns(_ group: Int) -> Range<Int> {
        group &* tensor.layout.groupSize..<min((group &+ 1) &* tensor.layout.groupSize, k)
    }

    @inline(never)
    public mutating func run(_ rows: Range<Int64>) throws(Failure) {
        var row = rows.lowerBound
        while row < rows.upperBound {
            let end = min(row + 16, rows.upperBound)
            try descend(row..<end)
            row = end
        }
    }

    @inline(never)
    private mutating func descend(_ rows: Range<Int64>) throws(Failure) {
        try begin(rows)
        let before = doubles(scratch.losses), after = form.sums
        var sweep: Int64 = 0, isChanged = true
        while isChanged && sweep < sweeps {
            isChanged = sweepCodes(rows)
            if refits {
                for group in 0..<Int(tensor.layout.groupsPerRow) where refit(rows, group) { isChanged = true }
            }
            sweep += 1
        }
        sweepsDone = max(sweepsDone, sweep)
        form.add(0..<gram.panels)
        keep(rows, before, after)
    }

    /// Takes rows and their losses.
    @inline(never)
    private func begin(_ rows: Range<Int64>) throws(Failure) {
        try form.load(tensor, source, rows, kernels, weights: floats(scratch.weights))
        form.add(0..<gram.panels)
        doubles(scratch.losses).update(from: form.sums, count: 16)
        takeTensor(rows)
        residuals.update(repeating: 0, count: scratch.padded &* 16)
        for panel in 0..<gram.panels { spread(panel, form.errors + panel &* 256, own: true) }
    }

    /// Writes the rows that have become better.
    @inline(never)
    private mutating func keep(_ rows: Range<Int64>, _ before: UnsafePointer<Double>, _ after: UnsafePointer<Double>) {
        for row in rows {
            let lane = Int(row - rows.lowerBound), isBetter = after[lane] < before[lane]
            if isBetter { write(Int(row), lane) }
            startLoss += before[lane] * gram.share
            loss += (isBetter ? after[lane] : before[lane]) * gram.share
        }
    }

    // MARK: The tensor

    private var isNibble: Bool { tensor.scheme.width.isNibble }
    private var largest: Int { Int(tensor.scheme.width.largest) }
    private func code(_ packed: UnsafePointer<UInt8>, _ column: Int) -> UInt8 {
        isNibble ? packed[column / 2] >> (column & 1 == 0 ? 0 : 4) & 15 : packed[column]
    }

    @inline(never)
    private func takeTensor(_ rows: Range<Int64>) {
        let type = tensor.scheme.scaleType
        for row in rows {
            let lane = Int(row - rows.lowerBound), packed = tensor.codesRow(Int(row))
            for column in 0..<k { codes[column &* 16 &+ lane] = code(packed, column) }
            for group in 0..<Int(tensor.layout.groupsPerRow) {
                scales[group &* 16 &+ lane] = type.load(tensor.scales, tensor.groupIndex(Int(row), group))
            }
        }
    }

    @inline(never)
    private mutating func write(_ row: Int, _ lane: Int) {
        let packed = tensor.codesRow(row), type = tensor.scheme.scaleType
        for column in 0..<k {
            let code = codes[column &* 16 &+ lane], shift: UInt8 = column & 1 == 0 ? 0 : 4
            if self.code(packed, column) == code { continue }
            changedCodes += 1
            if isNibble {
                packed[column / 2] = packed[column / 2] & (0xf0 >> shift) | code << shift
            } else {
                packed[column] = code
            }
        }
        for group in 0..<Int(tensor.layout.groupsPerRow) {
            let index = tensor.groupIndex(row, group), scale = scales[group &* 16 &+ lane]
            if type.load(tensor.scales, index) == scale || !refits { continue }
            type.store(scale, tensor.scales, index)
            changedScales += 1
        }
    }

    /// What each code stands for in a group, as dequantizing gives it; or what the scale is multiplied by.
    @inline(never)
    private func takeValues(_ rows: Range<Int64>, _ group: Int, isLevel: Bool = false) {
        StackMemory<20>.use { room in
            let all = (room + 1024).assumingMemoryBound(to: UInt8.self), decoded = room.assumingMemoryBound(to: Float.self)
            for code in 0...largest {
                all[code] = UInt8(truncatingIfNeeded: isNibble ? code &* 0x22 &+ 0x10 : code)
            }
            for row in rows {
                let lane = Int(row - rows.lowerBound)
                let index = tensor.groupIndex(Int(row), group)
                let offset: Float = isLevel ? 0 : tensor.offsets.map { tensor.scheme.scaleType.load($0, index) } ?? 0
                var decoding = tensor.scheme.decoding(scale: isLevel ? 1 : scales[group &* 16 &+ lane],
                                                      zeroPoint: tensor.zeroPoints?[index] ?? 0, offset: offset,
                                                      codebook: tensor.codebook(Int(row)))
                kernels.decode.unsafelyUnwrapped(&decoding, all, Int64(largest &+ 1), decoded)
                for code in 0...largest { values[code &* 16 &+ lane] = decoded[code] }
            }
        }
    }

    // MARK: Codes

    /// Whether any code has changed.
    @inline(never)
    @_optimize(speed)
    private func sweepCodes(_ rows: Range<Int64>) -> Bool {
        var isChanged = false
        for group in 0..<Int(tensor.layout.groupsPerRow) {
            takeValues(rows, group)
            let columns = columns(group)
            var panel = columns.lowerBound / panelWidth
            while panel &* panelWidth < columns.upperBound {
                vectors.update(repeating: 0, count: 256)
                var isPanelChanged = false
                for column in panel &* panelWidth..<min(panel &* panelWidth &+ panelWidth, columns.upperBound) {
                    for lane in 0..<rows.count where improve(column, lane) { isPanelChanged = true }
                }
                if isPanelChanged {
                    spread(panel, vectors, own: false)
                    isChanged = true
                }
                panel &+= 1
            }
        }
        return isChanged
    }

    /// Gives one weight its best code, and its panel's residuals what that does.
    @_optimize(speed)
    private func improve(_ column: Int, _ lane: Int) -> Bool {
        let place = column &* 16 &+ lane, square = gram.diagonal(column)
        if !(square > 0) { return false }
        let weight = floats(scratch.weights)[place], error = form.errors[place], residual = residuals[place]
        var least = 0.0, best = error, bestCode = -1
        for code in candidates(Double(weight) - Double(error) + residual / square, lane) {
            let candidate = weight - values[code &* 16 &+ lane], change = Double(candidate) - Double(error)
            let gain = change * (2 * residual + change * square)
            if gain < least {
                least = gain
                best = candidate
                bestCode = code
            }
        }
        if bestCode < 0 { return false }
        codes[place] = UInt8(truncatingIfNeeded: bestCode)
        form.errors[place] = best
        let change = best - error, panel = column / panelWidth &* panelWidth
        vectors[(column &- panel) &* 16 &+ lane] += change
        for other in panel..<panel &+ panelWidth {
            residuals[other &* 16 &+ lane] += gram.products[TrianglePanels.place(column, other)] * Double(change)
        }
        return true
    }

    /// The codes of which one is the nearest to a value: all of 4 bits; of 8 bits, which are evenly spaced, that one.
    private func candidates(_ wanted: Double, _ lane: Int) -> ClosedRange<Int> {
        let lowest = tensor.scheme.isRestricted ? 1 : 0
        if isNibble { return lowest...largest }
        let first = Double(values[lane]), span = Double(values[largest &* 16 &+ lane]) - first
        let steps = (wanted - first) / span * Double(largest)
        let code = steps > Double(lowest) ? Int(min(steps, Double(largest)) + 0.5) : lowest
        return code...code
    }

    /// Adds to residuals what changes of a panel's errors, [16][16], do to those of all panels, or of all others.
    @inline(never)
    @_optimize(speed)
    private func spread(_ panel: Int, _ changes: UnsafePointer<Float>, own: Bool) {
        let turned = doubles(scratch.turned)
        var operands = i4q_wide_product()
        operands.vectors = changes
        operands.depth = Int64(panelWidth)
        for other in 0..<gram.panels where own || other != panel {
            if other < panel {
                // Only the upper triangle is there.
                let square = gram.products + TrianglePanels.place(other &* panelWidth, panel &* panelWidth)
                for i in 0..<panelWidth {
                    for j in 0..<panelWidth { turned[i &* panelWidth &+ j] = square[j &* panelWidth &+ i] }
                }
                operands.matrix = UnsafePointer(turned)
            } else {
                operands.matrix = UnsafePointer(gram.products + TrianglePanels.place(panel &* panelWidth, other &* panelWidth))
            }
            operands.out = residuals + other &* 256
            form.product(&operands)
        }
    }

    // MARK: Scales

    /// With u the levels of a group's codes, scaling by s + x adds x (x u G u^T - 2 u r) to a row's loss.
    @inline(never)
    private func refit(_ rows: Range<Int64>, _ group: Int) -> Bool {
        let columns = columns(group), first = columns.lowerBound / panelWidth, type = tensor.scheme.scaleType
        let panels = first..<(columns.upperBound &+ panelWidth &- 1) / panelWidth
        takeLevels(rows, group, columns)
        let squares = GramForm(gram, errors: vectors, products: form.products, kernels)
        squares.add(panels)
        var isChanged = false
        for row in rows {
            let lane = Int(row - rows.lowerBound), square = squares.sums[lane], place = group &* 16 &+ lane
            var slope = 0.0
            for column in columns {
                slope += Double(vectors[(column &- columns.lowerBound) &* 16 &+ lane]) * residuals[column &* 16 &+ lane]
            }
            let old = scales[place], new = type.rounded(Float(Double(old) + slope / square)), step = Double(new) - Double(old)
            // Neither overflow nor a change of sign.
            if !(square > 0) || !new.isFinite || !(new * old > 0) || !(step * (step * square - 2 * slope) < 0) { continue }
            scales[place] = new
            isChanged = true
        }
        if !isChanged { return false }
        takeValues(rows, group)
        for place in 0..<panels.count &* 256 { vectors[place] = 0 }
        for column in columns {
            for lane in 0..<rows.count {
                let place = column &* 16 &+ lane
                let error = floats(scratch.weights)[place] - values[Int(codes[place]) &* 16 &+ lane]
                vectors[place &- columns.lowerBound &* 16] = error - form.errors[place]
                form.errors[place] = error
            }
        }
        for panel in panels { spread(panel, vectors + (panel &- first) &* 256, own: true) }
        return true
    }

    /// Of a group's codes: what is multiplied by the scale.
    @inline(never)
    private func takeLevels(_ rows: Range<Int64>, _ group: Int, _ columns: Range<Int>) {
        takeValues(rows, group, isLevel: true)
        vectors.update(repeating: 0, count: ((columns.count &+ 15) & ~15) &* 16)
        for column in columns {
            for lane in 0..<rows.count {
                let code = Int(codes[column &* 16 &+ lane])
                vectors[(column &- columns.lowerBound) &* 16 &+ lane] = values[code &* 16 &+ lane]
            }
        }
    }
}

// MARK: Search for scales

extension GramDescent {
    /// Evolution of scales with one parent and one child; how many children were better.
    @inline(never)
    public mutating func search(_ rows: Range<Int64>, _ search: int4q_scale_search) throws(Failure) -> Int64 {
        var accepted: Int64 = 0, row = rows.lowerBound
        while row < rows.upperBound {
            let block = row..<min(row + 16, rows.upperBound)
            try begin(block)
            let before = doubles(scratch.losses), after = form.sums
            for round in 0..<search.rounds {
                for group in 0..<Int(tensor.layout.groupsPerRow) {
                    accepted += Int64(vary(block, group, search, UInt64(round)).nonzeroBitCount)
                }
            }
            form.add(0..<gram.panels)
            keep(block, before, after)
            row = block.upperBound
        }
        return accepted
    }

    /// Tries other scales for a group of some rows, with the nearest codes; the rows that keep them.
    @inline(never)
    private func vary(_ rows: Range<Int64>, _ group: Int, _ search: int4q_scale_search, _ round: UInt64) -> UInt16 {
        let columns = columns(group), first = columns.lowerBound / panelWidth, type = tensor.scheme.scaleType
        let panels = first..<(columns.upperBound &+ panelWidth &- 1) / panelWidth, own = scales + group &* 16
        var old = InlineArray<16, Float>(repeating: 0)
        for row in rows {
            let lane = Int(row - rows.lowerBound)
            var random = RandomNumbers(seed: search.seed &+ UInt64(row) &* 0xd6e8_feb8_6659_fd93
                &+ round &* 0xa076_1d64_78bd_642f &+ UInt64(group) &* 0xe703_7ed1_a0b4_28db)
            old[lane] = own[lane]
            let new = type.rounded(Float(Double(own[lane]) * (1 + search.reach * (2 * random.fraction() - 1))))
            if new.isFinite && new != 0 { own[lane] = new }
        }
        takeValues(rows, group)
        vectors.update(repeating: 0, count: panels.count &* 256)
        for column in columns {
            for lane in 0..<rows.count {
                let place = column &* 16 &+ lane
                let error = floats(scratch.weights)[place] - values[nearest(place) &* 16 &+ lane]
                vectors[place &- columns.lowerBound &* 16] = error - form.errors[place]
            }
        }
        let squares = GramForm(gram, errors: vectors, products: form.products, kernels)
        squares.add(panels)
        var kept: UInt16 = 0
        for lane in 0..<rows.count {
            var slope = 0.0
            for column in columns {
                slope += Double(vectors[(column &- columns.lowerBound) &* 16 &+ lane]) * residuals[column &* 16 &+ lane]
            }
            if 2 * slope + squares.sums[lane] < 0 { kept |= 1 &<< UInt16(truncatingIfNeeded: lane) } else { own[lane] = old[lane] }
        }
        if kept == 0 { return 0 }
        for column in columns {
            for lane in 0..<rows.count {
                let place = column &* 16 &+ lane, change = place &- columns.lowerBound &* 16
                if kept &>> UInt16(truncatingIfNeeded: lane) & 1 == 0 {
                    vectors[change] = 0
                    continue
                }
                codes[place] = UInt8(truncatingIfNeeded: nearest(place))
                form.errors[place] = floats(scratch.weights)[place] - values[Int(codes[place]) &* 16 &+ lane]
            }
        }
        for panel in panels { spread(panel, vectors + (panel &- first) &* 256, own: true) }
        return kept
    }

    /// The code of a weight's nearest value, of those that takeValues() has left.
    @_optimize(speed) @inline(never)
    private func nearest(_ place: Int) -> Int {
        let weight = floats(scratch.weights)[place], own = values + (place & 15)
        var best = 0, least = Float.infinity
        for code in (tensor.scheme.isRestricted ? 1 : 0)..<16 {
            let distance = (weight - own[code &* 16]).magnitude
            if distance < least {
                least = distance
                best = code
            }
        }
        return best
    }
}
