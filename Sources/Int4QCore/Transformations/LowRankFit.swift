// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

// The A B of some rank that is closest to a residual R in the norm of a Gram matrix: with the first eigenvectors of R G R^T as
// columns of A, and B = A^T R (docs/transformations.md). They are found by subspace iteration from random columns Q:
//
//     P = R^T Q     S = G P     Q = orthonormal columns that span R S's
//
// and at last the eigenvectors of P^T S. R is made anew from weights and codes each time; what is stored has l columns, some more
// than the rank. Matrices stand in panels of 16 columns, [panel][row][16]. Products with R are binary32 in chains of 128, continued
// in binary64, those with G binary64. Every sum has one order, whatever the workers.

/// Where the parts of the scratch are.
public struct LowRankScratch {
    let rows: Int
    let columns: Int
    /// Panels of all dimensions, and of those that are kept.
    let panels: Int
    let keptPanels: Int
    let p: Int
    let s: Int
    let square: Int
    let otherSquare: Int
    let values: Int
    let sums: Int
    let workers: Int
    let workerBytes: Int
    public let bytes: UInt64
    var dimensions: Int { panels * panelWidth }

    @inline(never)
    public init(n: Int64, k: Int64, rank: Int64, workers: UInt32) throws(Failure) {
        try requireAtLeast(n, 1, "n")
        try requireAtLeast(k, 1, "k")
        // So that no size overflows, whatever their number.
        let most = Int64(Int32.max)
        if n > most { throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, "n", .integer(n), expected: "at most", bound: UInt64(most)) }
        if k > most { throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, "k", .integer(k), expected: "at most", bound: UInt64(most)) }
        try LowRank.requireRank(rank, n, k, "rank")
        rows = (Int(n) + 15) & ~15
        columns = (Int(k) + 15) & ~15
        keptPanels = (Int(rank) + 15) / panelWidth
        panels = min((Int(rank) + 8 + 15) / panelWidth, min(rows, columns) / panelWidth)
        let lanes = panels * panelWidth
        p = wholeLines(rows * lanes * 4)
        s = p + wholeLines(columns * lanes * 4)
        square = s + wholeLines(columns * lanes * 4)
        otherSquare = square + wholeLines(lanes * lanes * 8)
        values = otherSquare + wholeLines(lanes * lanes * 8)
        sums = values + wholeLines(lanes * 16)
        self.workers = sums + wholeLines(max(rows / panelWidth, columns / panelWidth) * 8)
        let strip = 16 * chainLength * 64 + panels * 32768, lanesOfRows = columns * 64 + max(panels * 2048, GramForm.productBytes)
        workerBytes = max(wholeLines(strip), max(wholeLines(lanesOfRows), 16384 + panels * 2048))
        bytes = try CheckedSize(UInt64(workerBytes), "worker_count", argument: Int64(workers)).times(UInt64(workers))
            .plus(UInt64(self.workers)).value
    }
}

public struct LowRankOptions {
    let raw: int4q_lowrank_options
    var measuresLoss: Bool { raw.flags & UInt32(INT4Q_LOWRANK_SKIP_LOSS) == 0 }

    @inline(never)
    public init(_ raw: int4q_lowrank_options) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_lowrank_options.self, "options.struct_size")
        try requireWorkers(raw.worker_count, "options.worker_count")
        if raw.flags & ~UInt32(INT4Q_LOWRANK_SKIP_LOSS) != 0 {
            throw .invalid("options.flags", Int64(raw.flags), expected: "INT4Q_LOWRANK_* or 0")
        }
        if raw.iterations < 0 || raw.iterations > 1000 {
            throw .invalid("options.iterations", Int64(raw.iterations), expected: "0 to 1000")
        }
        self.raw = raw
    }
}

public struct LowRankFit {
    private let factors: LowRank
    private let gram: Gram?
    private let options: LowRankOptions
    private let scratch: LowRankScratch
    private let memory: UnsafeMutableRawPointer
    private let kernels: i4q_kernels
    private var residual: Residual
    private var gramScale = 1.0
    /// The first row with a value that is not finite.
    private var badRow: Int64 = .max
    /// Whether products R^T Q are added up with S rather than stored.
    private var addsProducts = false
    private var startLoss = 0.0
    private var reduction = 0.0

    @inline(never)
    public init(_ tensor: QuantizedTensor?, _ source: Matrix, rows: Int64, _ gram: Gram?, _ options: LowRankOptions,
                _ factors: LowRank, _ scratch: LowRankScratch, _ memory: UnsafeMutableRawPointer,
                _ kernels: i4q_kernels) throws(Failure) {
        self.factors = factors
        self.gram = gram
        self.options = options
        self.scratch = scratch
        self.memory = memory
        self.kernels = kernels
        residual = Residual(tensor: tensor, source: source, rows: Int(rows), kernels: kernels)
        if let gram {
            try gram.requireColumns(Int64(source.columns), "a Gram matrix of the factors' k,")
            try gram.validate("gram")
        }
    }

    private func floats(_ offset: Int) -> UnsafeMutablePointer<Float> { (memory + offset).assumingMemoryBound(to: Float.self) }
    private func doubles(_ offset: Int) -> UnsafeMutablePointer<Double> { (memory + offset).assumingMemoryBound(to: Double.self) }
    private var q: UnsafeMutablePointer<Float> { floats(0) }
    private var p: UnsafeMutablePointer<Float> { floats(scratch.p) }
    /// G P, or P itself.
    private var s: UnsafeMutablePointer<Float> { gram == nil ? p : floats(scratch.s) }
    private var square: UnsafeMutablePointer<Double> { doubles(scratch.square) }
    private var otherSquare: UnsafeMutablePointer<Double> { doubles(scratch.otherSquare) }
    private var sums: UnsafeMutablePointer<Double> { doubles(scratch.sums) }
    private func worker(_ index: Int) -> UnsafeMutableRawPointer { memory + (scratch.workers &+ index &* scratch.workerBytes) }
    private var dimensions: Int { scratch.dimensions }

    @inline(never)
    public mutating func run(_ parallel: ParallelFor) throws(Failure) {
        try findScales(parallel)
        if options.measuresLoss { try measureStart(parallel) }
        fillRandomly()
        for _ in 0...Int(options.raw.iterations) {
            try project(parallel)
            try parallel.run(&self, count: scratch.rows / panelWidth) { work, index, worker in
                work.unsafelyUnwrapped.assumingMemoryBound(to: LowRankFit.self).pointee.multiply(block: Int(index), Int(worker))
            }
            orthonormalize()
        }
        try project(parallel)
        chooseEigenvectors()
        for index in 0..<factors.rank { try store(index) }
        try measureReduction(parallel)
    }

    public func write(to report: UnsafeMutablePointer<int4q_lowrank_report>) {
        report.pointee.start_loss = startLoss
        report.pointee.loss = options.measuresLoss ? max(startLoss - reduction, 0) : 0
        report.pointee.reduction = reduction
    }

    // MARK: Scales and losses

    private func rows(_ block: Int) -> Range<Int> { block &* 16..<min(block &* 16 &+ 16, residual.rows) }

    private var rowBlocks: Int { scratch.rows / panelWidth }

    /// R times a power of two has elements of about 1, and so has G on its diagonal.
    @inline(never)
    private mutating func findScales(_ parallel: ParallelFor) throws(Failure) {
        try parallel.run(&self, count: rowBlocks) { work, index, _ in
            let fit = work.unsafelyUnwrapped.assumingMemoryBound(to: LowRankFit.self)
            for row in fit.pointee.rows(Int(index)) {
                let sum = fit.pointee.sums + Int(index)
                if row & 15 == 0 { sum.pointee = 0 }
                do throws(Failure) {
                    sum.pointee = max(sum.pointee, Double(try fit.pointee.residual.largest(row..<row + 1)))
                } catch {
                    i4q_atomic_least_i64(&fit.pointee.badRow, Int64(row))
                    return
                }
            }
        }
        if badRow != .max { _ = try residual.largest(Int(badRow)..<Int(badRow) + 1) } // once more, for the sake of the error
        var largest = 0.0
        for block in 0..<rowBlocks { largest = max(largest, sums[block]) }
        if !largest.isFinite {
            throw Failure(INT4Q_ERROR_NOT_FINITE, "source", .number(Float(largest)), expected: "residuals that binary32 can hold")
        }
        if largest > 0 { residual.scale = Float(sign: .plus, exponent: -max(largest.exponent, -100), significand: 1) }
        guard let gram else { return }
        var sum = 0.0
        for channel in 0..<Int(gram.layout.k) { sum += gram.diagonal(channel) }
        let mean = sum / Double(gram.layout.k)
        if mean > 0 { gramScale = Double(sign: .plus, exponent: -max(mean.exponent, -1000), significand: 1) }
    }

    /// From sums of scaled R to means of R's own.
    private var share: Double { (gram?.share ?? 1) / (Double(residual.scale) * Double(residual.scale)) }

    @inline(never)
    private mutating func measureStart(_ parallel: ParallelFor) throws(Failure) {
        try parallel.run(&self, count: rowBlocks) { work, index, worker in
            work.unsafelyUnwrapped.assumingMemoryBound(to: LowRankFit.self).pointee.measure(block: Int(index), Int(worker))
        }
        for block in 0..<rowBlocks { startLoss += sums[block] }
        startLoss *= share
    }

    @inline(never)
    private func measure(block: Int, _ index: Int) {
        guard let gram else { sums[block] = residual.squares(rows(block)); return }
        let form = GramForm(gram, errors: worker(index), products: worker(index) + scratch.columns &* 64, kernels)
        residual.load(rows(block), into: form.errors)
        form.add(0..<gram.panels)
        sums[block] = 0
        for lane in 0..<16 { sums[block] += form.sums[lane] }
    }

    // MARK: Products

    /// out[panel][16 leftPanels rows][16] += left^T right, rows of both `stride` floats per panel.
    @inline(never)
    private func add(_ left: UnsafePointer<Float>, _ leftStride: Int, _ leftPanels: Int, _ right: UnsafePointer<Float>,
                     _ rightStride: Int, _ rightPanels: Int, depth: Int, to out: UnsafeMutablePointer<Double>, _ outStride: Int) {
        var row = 0
        while row < depth {
            var panel = 0
            while panel < rightPanels {
                let count = min(2, rightPanels &- panel)
                var update = i4q_rank_update()
                update.left = left + row &* 16
                update.left_stride = Int64(leftStride)
                update.left_panels = Int64(leftPanels)
                update.right = right + (panel &* rightStride &+ row &* 16)
                update.right_stride = Int64(rightStride)
                update.right_panels = Int64(count)
                update.depth = Int64(min(chainLength, depth &- row))
                update.out = out + panel &* outStride
                update.out_stride = Int64(outStride)
                kernels.rank_update.unsafelyUnwrapped(&update)
                panel &+= count
            }
            row &+= chainLength
        }
    }

    /// P = R^T Q, a strip of 256 columns of R to a task; S = G P, a panel to a task.
    @inline(never)
    private mutating func project(_ parallel: ParallelFor) throws(Failure) {
        try transposedProduct(parallel)
        try multiplyByGram(parallel)
    }

    private mutating func transposedProduct(_ parallel: ParallelFor) throws(Failure) {
        try parallel.run(&self, count: (residual.columns + 255) / 256) { work, index, worker in
            work.unsafelyUnwrapped.assumingMemoryBound(to: LowRankFit.self).pointee.multiply(strip: Int(index), Int(worker))
        }
    }

    private mutating func multiplyByGram(_ parallel: ParallelFor) throws(Failure) {
        if gram == nil { return }
        try parallel.run(&self, count: scratch.columns / panelWidth) { work, index, worker in
            let fit = work.unsafelyUnwrapped.assumingMemoryBound(to: LowRankFit.self).pointee
            fit.gram?.multiply(panel: Int(index), fit.p, fit.s, lanePanels: fit.scratch.panels, scale: fit.gramScale,
                               fit.worker(Int(worker)).assumingMemoryBound(to: Double.self), fit.kernels)
        }
    }

    @inline(never)
    private func multiply(strip: Int, _ index: Int) {
        let columns = strip &* 256..<min(strip &* 256 &+ 256, residual.columns)
        let panels = worker(index).assumingMemoryBound(to: Float.self)
        let out = (worker(index) + 16 * chainLength * 64).assumingMemoryBound(to: Double.self)
        out.update(repeating: 0, count: scratch.panels &* 4096)
        let width = (columns.count &+ 15) / 16
        var row = 0
        while row < residual.rows {
            let count = min(chainLength, residual.rows &- row)
            residual.load(row..<row &+ count, columns, panels: panels)
            add(panels, chainLength &* 16, width, q + row &* 16, scratch.rows &* 16, scratch.panels, depth: count, to: out, 4096)
            row &+= chainLength
        }
        var sum = 0.0
        for panel in 0..<scratch.panels {
            let place = panel &* scratch.columns &* 16 &+ strip &* 4096, values = out + panel &* 4096
            for element in 0..<width &* 256 {
                if addsProducts {
                    sum += values[element] * Double(s[place &+ element])
                } else {
                    p[place &+ element] = Float(values[element])
                }
            }
        }
        if addsProducts { sums[strip] = sum }
    }

    /// Sixteen rows of Q = R S.
    @inline(never)
    private func multiply(block: Int, _ index: Int) {
        let errors = worker(index).assumingMemoryBound(to: Float.self)
        let out = (worker(index) + scratch.columns &* 64).assumingMemoryBound(to: Double.self)
        residual.load(rows(block), into: errors)
        out.update(repeating: 0, count: scratch.panels &* 256)
        add(errors, 0, 1, s, scratch.columns &* 16, scratch.panels, depth: residual.columns, to: out, 256)
        for panel in 0..<scratch.panels {
            let target = q + (panel &* scratch.rows &+ block &* 16) &* 16
            for element in 0..<256 { target[element] = Float(out[panel &* 256 &+ element]) }
        }
    }

    // MARK: Orthonormal columns

    /// Uniform in -1/2..<1/2; rows beyond the last one are zero.
    @inline(never)
    private func fillRandomly() {
        var numbers = RandomNumbers(seed: options.raw.seed)
        q.update(repeating: 0, count: scratch.rows &* dimensions)
        for row in 0..<residual.rows {
            for column in 0..<dimensions {
                q[(column / 16 &* scratch.rows &+ row) &* 16 &+ column % 16] = Float(numbers.fraction() - 0.5)
            }
        }
    }

    /// Gram and Schmidt's way, twice: a panel against those before it, then each of its columns against those before it. What is
    /// left of a column that depends on others is noise: the second round shows whether that has a direction of its own, or the
    /// column becomes zero. (There may be more columns than dimensions.)
    @inline(never)
    private func orthonormalize() {
        for panel in 0..<scratch.panels {
            let target = q + panel &* scratch.rows &* 16
            for round in 0..<2 {
                subtractEarlier(panel, target)
                for column in 0..<16 {
                    subtractEarlierColumns(column, target)
                    normalize(column, target, least: round == 0 ? 0 : 0.25)
                }
            }
        }
    }

    @inline(never)
    private func subtractEarlier(_ panel: Int, _ target: UnsafeMutablePointer<Float>) {
        if panel == 0 { return }
        let products = square, shares = UnsafeMutableRawPointer(otherSquare).assumingMemoryBound(to: Float.self)
        let count = panel &* 256
        products.update(repeating: 0, count: count)
        add(q, scratch.rows &* 16, panel, target, 0, 1, depth: residual.rows, to: products, 0)
        for element in 0..<count { shares[element] = Float(products[element]) }
        StackMemory<2>.use { memory in
            let lanes = memory.assumingMemoryBound(to: Double.self)
            for row in 0..<residual.rows {
                let values = target + row &* 16
                for lane in 0..<16 { lanes[lane] = Double(values[lane]) }
                for other in 0..<panel &* 16 {
                    let element = q[(other / 16 &* scratch.rows &+ row) &* 16 &+ other % 16]
                    i4q_subtract_product(lanes, shares + other &* 16, element)
                }
                for lane in 0..<16 { values[lane] = Float(lanes[lane]) }
            }
        }
    }

    @inline(never)
    private func subtractEarlierColumns(_ column: Int, _ target: UnsafeMutablePointer<Float>) {
        if column == 0 { return }
        StackMemory<2>.use { memory in
            let dots = memory.assumingMemoryBound(to: Double.self)
            for row in 0..<residual.rows {
                let values = target + row &* 16, own = Double(values[column])
                for other in 0..<column { dots[other] += Double(values[other]) * own }
            }
            for row in 0..<residual.rows {
                let values = target + row &* 16
                var own = Double(values[column])
                for other in 0..<column { own -= Double(values[other]) * dots[other] }
                values[column] = Float(own)
            }
        }
    }

    @inline(never)
    private func normalize(_ column: Int, _ target: UnsafeMutablePointer<Float>, least: Double) {
        var sum = 0.0
        for row in 0..<residual.rows { sum += Double(target[row &* 16 &+ column]) * Double(target[row &* 16 &+ column]) }
        let factor = sum > least ? 1 / sum.squareRoot() : 0
        for row in 0..<residual.rows { target[row &* 16 &+ column] = Float(Double(target[row &* 16 &+ column]) * factor) }
    }

    // MARK: Factors

    /// Q and P times the first eigenvectors of P^T S.
    @inline(never)
    private func chooseEigenvectors() {
        let l = dimensions
        square.update(repeating: 0, count: l &* l)
        add(p, scratch.columns &* 16, scratch.panels, s, scratch.columns &* 16, scratch.panels, depth: residual.columns, to: square,
            l &* 16)
        let matrix = otherSquare
        func product(_ row: Int, _ column: Int) -> Double { square[(column / 16 &* l &+ row) &* 16 &+ column % 16] }
        for row in 0..<l {
            for column in 0..<l { matrix[row &* l &+ column] = (product(row, column) + product(column, row)) / 2 }
        }
        let vectors = square, values = doubles(scratch.values)
        SymmetricMatrix(size: l, elements: matrix).diagonalize(vectors)
        for index in 0..<l { values[index] = matrix[index &* l &+ index] }
        // The matrix is no longer needed: [panel][l][16], each column an eigenvector.
        let chosen = UnsafeMutableRawPointer(matrix).assumingMemoryBound(to: Float.self)
        chosen.update(repeating: 0, count: l &* l)
        var first = 0.0
        for index in 0..<factors.rank {
            var best = 0
            for other in 1..<l where values[other] > values[best] { best = other }
            if index == 0 { first = values[best] }
            if values[best] > first * 0x1p-40 {
                for row in 0..<l { chosen[(index / 16 &* l &+ row) &* 16 &+ index % 16] = Float(vectors[best &* l &+ row]) }
            }
            values[best] = -.infinity
        }
        multiply(q, residual.rows, scratch.rows, by: chosen)
        multiply(p, residual.columns, scratch.columns, by: chosen)
    }

    /// Each row of l elements becomes its product with a matrix [panel][l][16], of which the panels that are kept count; the rest
    /// becomes zero.
    @inline(never)
    private func multiply(_ target: UnsafeMutablePointer<Float>, _ rows: Int, _ stride: Int, by matrix: UnsafePointer<Float>) {
        StackMemory<17>.use { memory in
            let own = memory.assumingMemoryBound(to: Float.self)
            for row in 0..<rows {
                for panel in 0..<scratch.panels {
                    (own + panel &* 16).update(from: target + (panel &* stride &+ row) &* 16, count: 16)
                }
                for panel in 0..<scratch.panels {
                    var sums = SIMD16<Float>(repeating: 0)
                    let columns = UnsafeRawPointer(matrix + panel &* dimensions &* 16)
                    for index in 0..<(panel < scratch.keptPanels ? dimensions : 0) {
                        sums += (columns + index &* 64).load(as: SIMD16<Float>.self) * SIMD16<Float>(repeating: own[index])
                    }
                    UnsafeMutableRawPointer(target + (panel &* stride &+ row) &* 16).storeBytes(of: sums, as: SIMD16<Float>.self)
                }
            }
        }
    }

    /// Rounds a column of A and a row of B to their type, where they stand, too. A's largest magnitude and B's become about equal.
    @inline(never)
    private func store(_ index: Int) throws(Failure) {
        let a = q + (index / 16 &* scratch.rows &* 16 &+ index % 16), b = p + (index / 16 &* scratch.columns &* 16 &+ index % 16)
        let largestA = largest(a, residual.rows), largestB = largest(b, residual.columns) / Double(residual.scale)
        let shift = largestA == 0 || largestB == 0 ? 0 : (largestB.exponent - largestA.exponent) / 2
        let factor = Double(sign: .plus, exponent: Double.Exponent(shift), significand: 1)
        for row in 0..<residual.rows {
            try store(a + row &* 16, times: factor, factors.a, row, index, "factors.a")
        }
        for column in 0..<residual.columns {
            try store(b + column &* 16, times: 1 / (factor * Double(residual.scale)), factors.b, index, column, "factors.b")
        }
    }

    private func largest(_ values: UnsafePointer<Float>, _ count: Int) -> Double {
        var largest: Float = 0
        for index in 0..<count { largest = max(largest, values[index &* 16].magnitude) }
        return Double(largest)
    }

    @inline(never)
    private func store(_ value: UnsafeMutablePointer<Float>, times factor: Double, _ matrix: Matrix, _ row: Int, _ column: Int,
                       _ name: Text) throws(Failure) {
        matrix.type.store(Float(Double(value.pointee) * factor), matrix.mutableRow(row), column)
        let stored = matrix.type.load(matrix.row(row), column)
        if !stored.isFinite {
            throw Failure(INT4Q_ERROR_NOT_FINITE, name, .element(row: Int64(row), column: Int64(column), stored),
                          expected: "factors that their type can hold")
        }
        value.pointee = Float(Double(stored) / factor)
    }

    /// 2 <A^T R, B G> - <A^T A, B G B^T>: by how much tr((R - A B) G (R - A B)^T) is less than tr(R G R^T).
    @inline(never)
    private mutating func measureReduction(_ parallel: ParallelFor) throws(Failure) {
        try multiplyByGram(parallel)
        addsProducts = true
        try transposedProduct(parallel)
        var sum = 0.0
        for strip in 0..<(residual.columns + 255) / 256 { sum += 2 * sums[strip] }
        let l = dimensions
        square.update(repeating: 0, count: 2 &* (scratch.values &- scratch.otherSquare) / 8) // both squares
        add(q, scratch.rows &* 16, scratch.panels, q, scratch.rows &* 16, scratch.panels, depth: residual.rows, to: square, l &* 16)
        add(p, scratch.columns &* 16, scratch.panels, s, scratch.columns &* 16, scratch.panels, depth: residual.columns,
            to: otherSquare, l &* 16)
        for index in 0..<l &* l { sum -= square[index] * otherSquare[index] }
        reduction = sum * share / gramScale
    }
}

/// A symmetric matrix of binary64, row by row.
struct SymmetricMatrix {
    let size: Int
    let elements: UnsafeMutablePointer<Double>

    /// Jacobi's rotations, until nothing beside the diagonal counts. Row i of `vectors` becomes the eigenvector of element (i, i).
    @inline(never)
    func diagonalize(_ vectors: UnsafeMutablePointer<Double>) {
        for index in 0..<size &* size { vectors[index] = index / size == index % size ? 1 : 0 }
        for _ in 0..<40 {
            var rotations = 0
            for p in 0..<size {
                for q in p &+ 1..<max(size, p &+ 1) {
                    let element = elements[p &* size &+ q]
                    let scale = (elements[p &* size &+ p] * elements[q &* size &+ q]).magnitude
                    if element * element <= scale * 0x1p-104 || element == 0 { continue }
                    rotate(p, q, element, vectors)
                    rotations &+= 1
                }
            }
            if rotations == 0 { return }
        }
    }

    @inline(__always)
    private func rotate(_ p: Int, _ q: Int, _ element: Double, _ vectors: UnsafeMutablePointer<Double>) {
        let rowP = elements + p &* size, rowQ = elements + q &* size
        let ratio = (rowQ[q] - rowP[p]) / (2 * element)
        let tangent = (ratio < 0 ? -1 : 1) / (ratio.magnitude + (ratio * ratio + 1).squareRoot())
        let cosine = 1 / (tangent * tangent + 1).squareRoot(), sine = tangent * cosine
        let first = rowP[p] - tangent * element, second = rowQ[q] + tangent * element
        turn(rowP, rowQ, cosine, sine)
        turn(vectors + p &* size, vectors + q &* size, cosine, sine)
        for other in 0..<size {
            elements[other &* size &+ p] = rowP[other]
            elements[other &* size &+ q] = rowQ[other]
        }
        rowP[p] = first
        rowQ[q] = second
        rowP[q] = 0
        rowQ[p] = 0
    }

    @inline(__always)
    private func turn(_ a: UnsafeMutablePointer<Double>, _ b: UnsafeMutablePointer<Double>, _ cosine: Double, _ sine: Double) {
        for index in 0..<size {
            let x = a[index], y = b[index]
            a[index] = cosine * x - sine * y
            b[index] = sine * x + cosine * y
        }
    }
}
