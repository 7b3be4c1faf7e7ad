// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

// GPTQ wants the upper triangular U with U^T U = H^-1, H being the damped Gram matrix. With H = M M^T, M upper triangular, U is the
// inverse of M; and what GPTQ does with U it can do with M itself, but for squares on its diagonal (docs/reconstruction.md). So no
// matrix is inverted but those squares.
//
// M comes from an ordinary Cholesky factor: with rows and columns in reverse order H is R^T R, R upper triangular, and
// M[i][j] = R[reverse j][reverse i]. R is found a row of 4 panels at a time, each panel to the right of the diagonal by a task of
// its own, and then turned into M where it stands.
//
// Elements are binary32; sums are chains of 128 products in binary32, added in binary64, as is all else.

/// Of what a factor is made: the matrix H, scaled by a power of two so that the mean of G's diagonal is 1..2.
struct DampedGram {
    let gram: Gram
    let order: ChannelOrder
    let scale: Double
    /// What a channel's diagonal is that no sample has used; scaled. Also what damping is a share of.
    let mean: Double
    let deadChannels: Int64
    var damping = 0.0

    init(_ gram: Gram, _ order: ChannelOrder) throws(Failure) {
        self.gram = gram
        self.order = order
        var sum = 0.0
        var dead: Int64 = 0
        for channel in 0..<Int(gram.layout.k) {
            let square = gram.diagonal(channel)
            if !(square >= 0 && square.isFinite) {
                throw Failure(INT4Q_ERROR_CORRUPT, "gram", .listed(index: Int64(channel), Float(square)),
                              expected: "finite sums of squares")
            }
            sum += square
            if square == 0 { dead += 1 }
        }
        let live = Double(gram.layout.k - dead)
        let mean = live == 0 ? 1 : sum / live
        scale = Double(sign: .plus, exponent: min(-mean.exponent, 1000), significand: 1)
        self.mean = mean * scale
        deadChannels = dead
    }

    var size: Int { gram.layout.padded }
    private var k: Int { Int(gram.layout.k) }
    /// What is added to each diagonal element but G's own, scaled.
    var dampedShare: Double { damping * mean }
    func isDead(position: Int) -> Bool { gram.diagonal(Int(order.columns[position])) == 0 }

    /// An element, rows and columns in reverse order; what is beyond k is a unit matrix.
    func element(_ row: Int, _ column: Int) -> Double {
        let a = size &- 1 &- row, b = size &- 1 &- column
        if a >= k || b >= k { return a == b ? 1 : 0 }
        let value = gram.products[TrianglePanels.symmetricPlace(Int(order.columns[a]), Int(order.columns[b]))] * scale
        if a != b { return value }
        return (value == 0 ? mean : value) + dampedShare
    }
}

struct TriangularFactor {
    /// Panels that become complete together.
    static var rowPanels: Int { 4 }
    /// The least share of a diagonal element that must be left when what the others explain has been taken away: below it,
    /// binary32 cannot tell a positive number from zero.
    static var leastPivot: Double { 0x1p-20 }

    var source: DampedGram
    let elements: UnsafeMutablePointer<Float>
    let kernels: i4q_kernels
    var correction: Correction?
    /// The row of panels that is being made.
    var row = 0
    /// How often damping was raised.
    var retries: Int64 = 0

    var panels: Int { source.size / panelWidth }
    var rows: Int { (panels &+ TriangularFactor.rowPanels &- 1) / TriangularFactor.rowPanels }
    var firstPanel: Int { row &* TriangularFactor.rowPanels }
    var endPanel: Int { min(firstPanel &+ TriangularFactor.rowPanels, panels) }

    /// Pairs of panels to the right of the row's own.
    var pairs: Int { (panels &- endPanel &+ 1) / 2 }

    /// Makes the squares on the diagonal, and what is between them. False if H is not positive definite.
    @inline(never)
    func makeDiagonal() -> Bool {
        for panel in firstPanel..<endPanel {
            if !make(panel, 1, elements) { return false }
        }
        return true
    }

    func makePair(_ pair: Int) {
        let panel = endPanel &+ 2 &* pair
        _ = make(panel, min(2, panels &- panel), elements)
    }

    /// The row's part of one panel or two, of the factor or of the correction. Two are both to the right of the row's own.
    @inline(never)
    func make(_ panel: Int, _ count: Int, _ matrix: UnsafeMutablePointer<Float>) -> Bool {
        // Sums [panel][64 rows][16], then a square of 16.
        StackMemory<288>.use { memory in
            let sums = memory.assumingMemoryBound(to: Double.self)
            let stride = TriangularFactor.rowPanels &* 256
            let tiles = min(endPanel, panel &+ 1) &- firstPanel
            var depth = 0
            while depth < firstPanel &* panelWidth {
                let length = min(chainLength, firstPanel &* panelWidth &- depth)
                for tile in 0..<tiles { add(tile, panel, count, matrix, depth, length, sums + tile &* 256, stride) }
                depth &+= chainLength
            }
            for tile in 0..<tiles {
                if tile > 0 {
                    add(tile, panel, count, matrix, firstPanel &* panelWidth, tile &* panelWidth, sums + tile &* 256, stride)
                }
                for index in 0..<count {
                    let isDone = solve(firstPanel &+ tile, panel &+ index, sums + (index &* stride &+ tile &* 256), matrix)
                    if !isDone { return false }
                }
            }
            return true
        }
    }

    @_optimize(speed)
    private func add(_ tile: Int, _ panel: Int, _ count: Int, _ matrix: UnsafePointer<Float>, _ depth: Int, _ length: Int,
                     _ out: UnsafeMutablePointer<Double>, _ stride: Int) {
        var update = i4q_rank_update()
        update.left = UnsafePointer(elements + TrianglePanels.place(depth, (firstPanel &+ tile) &* panelWidth))
        update.left_panels = 1
        update.right = matrix + TrianglePanels.place(depth, panel &* panelWidth)
        update.right_stride = Int64(TrianglePanels.offset(panel &+ 1) &- TrianglePanels.offset(panel))
        update.right_panels = Int64(count)
        update.depth = Int64(length)
        update.out = out
        update.out_stride = Int64(stride)
        kernels.rank_update.unsafelyUnwrapped(&update)
    }

    /// A square of 16, from the sums of products of what is above it.
    @_optimize(speed)
    private func solve(_ rowPanel: Int, _ panel: Int, _ sums: UnsafeMutablePointer<Double>,
                       _ matrix: UnsafeMutablePointer<Float>) -> Bool {
        let isDiagonal = rowPanel == panel, isFactor = matrix == elements
        let diagonal = elements + TrianglePanels.place(rowPanel &* panelWidth, rowPanel &* panelWidth)
        let target = matrix + TrianglePanels.place(rowPanel &* panelWidth, panel &* panelWidth)
        for row in 0..<panelWidth {
            let values = sums + row &* panelWidth
            let matrixRow = rowPanel &* panelWidth &+ row
            for column in 0..<panelWidth {
                let place = panel &* panelWidth &+ column
                let element = isFactor ? source.element(matrixRow, place) : correctionElement(matrixRow, place)
                values[column] = element - values[column]
            }
            for above in 0..<row {
                i4q_subtract_product(values, target + above &* panelWidth, diagonal[above &* panelWidth &+ row])
            }
            if isDiagonal && isFactor {
                let pivot = values[row]
                if !(pivot > TriangularFactor.leastPivot * source.element(matrixRow, matrixRow) && pivot.isFinite) { return false }
                diagonal[row &* panelWidth &+ row] = Float(pivot.squareRoot())
            }
            let divisor = Double(diagonal[row &* panelWidth &+ row])
            for column in 0..<panelWidth where !isDiagonal || column != row || !isFactor {
                target[row &* panelWidth &+ column] = isDiagonal && column <= row ? 0 : Float(values[column] / divisor)
            }
        }
        return true
    }

    // MARK: From R to M

    /// Swaps the squares of a row of squares with those whose place they have in M, each turned about the other diagonal.
    @inline(never)
    @_optimize(speed)
    func turn(_ row: Int, _ elements: UnsafeMutablePointer<Float>) {
        StackMemory<32>.use { memory in
            let mine = memory.assumingMemoryBound(to: Float.self), other = mine + 256
            var column = row
            while row &+ column < panels {
                let here = elements + TrianglePanels.place(row &* panelWidth, column &* panelWidth)
                let last = panels &- 1
                let there = elements + TrianglePanels.place((last &- column) &* panelWidth, (last &- row) &* panelWidth)
                for i in 0..<panelWidth {
                    for j in 0..<panelWidth {
                        mine[i &* panelWidth &+ j] = here[(15 &- j) &* panelWidth &+ 15 &- i]
                        other[i &* panelWidth &+ j] = there[(15 &- j) &* panelWidth &+ 15 &- i]
                    }
                }
                there.update(from: mine, count: 256)
                here.update(from: other, count: 256)
                column &+= 1
            }
        }
    }

    // MARK: Inverses of squares on M's diagonal

    /// Writes the inverse of M[begin..<end][begin..<end] as panels [(end - begin) / 16][end - begin][16].
    @inline(never)
    @_optimize(speed)
    func invert(_ begin: Int, _ end: Int, into target: UnsafeMutablePointer<Float>) {
        StackMemory<2>.use { memory in
            let lanes = memory.assumingMemoryBound(to: Double.self)
            let height = end &- begin
            for panel in 0..<height / panelWidth {
                let inverse = target + panel &* height &* panelWidth
                for row in panel &* panelWidth &+ panelWidth..<max(height, panel &* panelWidth &+ panelWidth) {
                    for lane in 0..<panelWidth { inverse[row &* panelWidth &+ lane] = 0 }
                }
                var row = panel &* panelWidth &+ panelWidth
                while row > 0 {
                    row &-= 1
                    for lane in 0..<panelWidth { lanes[lane] = panel &* panelWidth &+ lane == row ? 1 : 0 }
                    for below in row &+ 1..<panel &* panelWidth &+ panelWidth {
                        let element = elements[TrianglePanels.place(begin &+ row, begin &+ below)]
                        i4q_subtract_product(lanes, inverse + below &* panelWidth, element)
                    }
                    let divisor = Double(elements[TrianglePanels.place(begin &+ row, begin &+ row)])
                    for lane in 0..<panelWidth { inverse[row &* panelWidth &+ lane] = Float(lanes[lane] / divisor) }
                }
            }
        }
    }
}

// MARK: All of it

extension TriangularFactor {
    /// Makes R, with more damping where it has to be, and turns it into M; then the correction. Between rows of panels `options`
    /// reports progress.
    @inline(never)
    mutating func complete(_ options: GptqOptions, _ parallel: ParallelFor, progressTotal: Int) throws(Failure) {
        var isDone = false
        for attempt in 0..<options.raw.attempts where !isDone {
            retries = attempt
            source.damping = options.raw.damping + Double(attempt) * options.raw.damping_step
            isDone = try attemptOnce(options, parallel, progressTotal)
        }
        if !isDone {
            try source.gram.validate("gram")
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "options.damping", .number(Float(source.damping)),
                          expected: "a damping with which the Gram matrix is positive definite")
        }
        if correction != nil {
            try parallel.run(&self, count: (panels + 1) / 2) { work, index, _ in
                work.unsafelyUnwrapped.assumingMemoryBound(to: TriangularFactor.self).pointee.makeCorrection(Int(index))
            }
        }
        try parallel.run(&self, count: (panels + 1) / 2) { work, index, _ in
            let factor = work.unsafelyUnwrapped.assumingMemoryBound(to: TriangularFactor.self)
            factor.pointee.turn(Int(index), factor.pointee.elements)
            if let correction = factor.pointee.correction { factor.pointee.turn(Int(index), correction.elements) }
        }
    }

    private mutating func attemptOnce(_ options: GptqOptions, _ parallel: ParallelFor,
                                      _ progressTotal: Int) throws(Failure) -> Bool {
        for next in 0..<rows {
            try options.reportProgress(next, progressTotal, parallel)
            row = next
            if !makeDiagonal() { return false }
            try parallel.run(&self, count: pairs) { work, index, _ in
                work.unsafelyUnwrapped.assumingMemoryBound(to: TriangularFactor.self).pointee.makePair(Int(index))
            }
        }
        return true
    }
}

// MARK: GPTAQ's correction

// T = alpha * triu(D U^T, 1). As U is M's inverse, T M^T = D to the right of T's diagonal, and each row of T follows from its own
// elements further to the right. In reverse order, with Y[i][j] = T[reverse j][reverse i], that is R^T Y = D turned likewise: what
// makes a panel of R out of H makes one of Y out of D.

extension TriangularFactor {
    struct Correction {
        let cross: Cross
        let alpha: Double
        let elements: UnsafeMutablePointer<Float>
    }

    @inline(never)
    private func correctionElement(_ row: Int, _ column: Int) -> Double {
        let a = source.size &- 1 &- row, b = source.size &- 1 &- column, k = Int(source.gram.layout.k)
        guard let correction, a < k && b < k else { return 0 }
        let columns = source.order.columns
        return correction.cross.element(Int(columns[b]), Int(columns[a])) * (correction.alpha * source.scale)
    }

    /// All rows of a pair of panels. The last pairs are the longest.
    private func makeCorrection(_ index: Int) {
        guard let correction else { return }
        let panel = ((panels &+ 1) / 2 &- 1 &- index) &* 2, count = min(2, panels &- panel)
        var part = self
        for row in 0..<rows {
            part.row = row
            if part.endPanel <= panel {
                _ = part.make(panel, count, correction.elements)
            } else {
                for index in 0..<count where part.firstPanel <= panel &+ index {
                    _ = part.make(panel &+ index, 1, correction.elements)
                }
            }
        }
    }

    /// What rounding a block's columns adds to its own later ones: P = T U in it, panels as those of U.
    @inline(never)
    func multiplyCorrection(_ begin: Int, _ end: Int, by inverse: UnsafePointer<Float>, into target: UnsafeMutablePointer<Float>) {
        guard let correction else { return }
        StackMemory<2>.use { memory in
            let lanes = memory.assumingMemoryBound(to: Double.self)
            let height = end &- begin
            for panel in 0..<height / panelWidth {
                for row in 0..<height {
                    for lane in 0..<panelWidth { lanes[lane] = 0 }
                    for column in row &+ 1..<max(panel &* panelWidth &+ panelWidth, row &+ 1) {
                        i4q_subtract_product(lanes, inverse + (panel &* height &+ column) &* panelWidth,
                                             correction.elements[TrianglePanels.place(begin &+ row, begin &+ column)])
                    }
                    let product = target + (panel &* height &+ row) &* panelWidth
                    for lane in 0..<panelWidth { product[lane] = Float(-lanes[lane]) }
                }
            }
        }
    }
}
