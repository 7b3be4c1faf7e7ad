// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A caller's Gram matrix whose header was checked.
public struct Gram {
    public struct Names {
        let memory: Text
        let bytes: Text
        public init(_ memory: Text, _ bytes: Text) {
            self.memory = memory
            self.bytes = bytes
        }
        public static var usual: Names { Names("gram", "gram_bytes") }
        public static var cross: Names { Names("cross", "cross_bytes") }
    }

    public let layout: GramLayout
    let block: RowSums
    var memory: UnsafeMutableRawPointer { block.memory }
    private static var magic: UInt64 { 0x004d_5247_5134_4e49 } // "IN4QGRM"

    @inline(never)
    public init(_ pointer: UnsafeRawPointer?, bytes: UInt64, _ names: Names) throws(Failure) {
        block = RowSums(block: try SavedBlock(pointer, bytes, names.memory, names.bytes, magic: Gram.magic,
                                              "bytes that start as a Gram matrix does"))
        do throws(Failure) {
            layout = try GramLayout(k: block.k)
        } catch {
            throw .corrupt(names.memory, "a size", "one that int4q_gram_size() accepts")
        }
        try block.requireWhole(layout.totalBytes)
    }

    /// A matrix in new memory, which has seen nothing.
    @inline(never)
    public init(_ layout: GramLayout, in pointer: UnsafeMutableRawPointer) {
        self.layout = layout
        block = RowSums(making: layout.totalBytes, k: layout.k, magic: Gram.magic, in: pointer)
    }

    /// A copy of a checked one.
    init(_ other: Gram, at pointer: UnsafeMutableRawPointer) {
        layout = other.layout
        block = RowSums(block: SavedBlock(other.block.block, at: pointer))
    }
}

extension Gram {
    var rows: Int64 { block.rows }

    private func doubles(_ offset: Int) -> UnsafeMutablePointer<Double> { (memory + offset).assumingMemoryBound(to: Double.self) }
    var sums: UnsafeMutablePointer<Double> { doubles(layout.sums) }
    var magnitudes: UnsafeMutablePointer<Double> { doubles(layout.magnitudes) }
    var maxima: UnsafeMutablePointer<Float> { (memory + layout.maxima).assumingMemoryBound(to: Float.self) }
    /// The triangle, in TrianglePanels' order.
    var products: UnsafeMutablePointer<Double> { doubles(layout.products) }
    func diagonal(_ channel: Int) -> Double { products[TrianglePanels.place(channel, channel)] }
}

// MARK: What it tells

extension Gram {
    public func write(to info: UnsafeMutablePointer<int4q_gram_info>) {
        block.write(to: info)
    }

    public func write(channels: Range<Int64>, to target: UnsafeMutablePointer<int4q_channel>) {
        for index in channels {
            let channel = Int(index)
            target[Int(index - channels.lowerBound)] = int4q_channel(
                sum: sums[channel], sum_magnitudes: magnitudes[channel], sum_squares: diagonal(channel),
                max_magnitude: maxima[channel], reserved: 0)
        }
    }

    @inline(never)
    public func write(rows: Range<Int64>, to matrix: UnsafeMutablePointer<Double>, stride: Int64) {
        for row in rows {
            let target = matrix + Int(row) &* Int(stride)
            for column in 0..<Int(layout.k) { target[column] = products[TrianglePanels.symmetricPlace(Int(row), column)] }
        }
    }

    /// Whether all sums can have come from batches. `name` is the argument to blame.
    @inline(never)
    public func validate(_ name: Text) throws(Failure) {
        try block.validateCounts(name)
        for channel in 0..<layout.padded {
            let largest = maxima[channel], square = diagonal(channel)
            let isPossible = sums[channel].isFinite && magnitudes[channel].isFinite && magnitudes[channel] >= 0 && largest.isFinite
                && largest >= 0 && square >= 0 && square.isFinite
            let isEmpty = sums[channel] == 0 && magnitudes[channel] == 0 && largest == 0 && square == 0
            if !isPossible || (!isEmpty && (channel >= Int(layout.k) || rows == 0)) {
                throw Failure(INT4Q_ERROR_CORRUPT, name, .listed(index: Int64(channel), Float(square)),
                              expected: "sums of a channel that can have come from its rows")
            }
        }
        try requireFinite(products, layout.triangle.count, name)
        // Where there is no channel, or no row was seen, nothing was added.
        let k = Int(layout.k), isEmpty = rows == 0
        for panel in 0..<layout.triangle.panels where isEmpty || panel == layout.triangle.panels - 1 {
            for row in 0..<(panel + 1) * panelWidth {
                for column in panel * panelWidth..<(panel + 1) * panelWidth where isEmpty || row >= k || column >= k {
                    if products[TrianglePanels.place(row, column)] != 0 {
                        throw .corrupt(name, "a sum in padding", "zeros there, and before the first row")
                    }
                }
            }
        }
    }

    /// Adds what another one has seen. Both have been validated.
    @inline(never)
    public func merge(_ other: Gram) throws(Failure) {
        try block.requireRoom(for: other.block)
        try requireFiniteSums(sums, other.sums, layout.padded)
        try requireFiniteSums(magnitudes, other.magnitudes, layout.padded)
        try requireFiniteSums(products, other.products, layout.triangle.count)
        for channel in 0..<layout.padded {
            sums[channel] += other.sums[channel]
            magnitudes[channel] += other.magnitudes[channel]
            maxima[channel] = max(maxima[channel], other.maxima[channel])
        }
        for index in 0..<layout.triangle.count { products[index] += other.products[index] }
        block.add(rows: other.block.rows, batches: other.block.batches)
    }

    /// As if each row had been pushed with this weight more; what different channels have in common then shrinks.
    @inline(never)
    public func scale(weight: Double, shrinkage: Double) {
        let root = weight.squareRoot()
        for channel in 0..<layout.padded {
            sums[channel] *= root
            magnitudes[channel] *= root
            maxima[channel] *= Float(root)
        }
        let kept = weight * (1 - shrinkage)
        for column in 0..<layout.padded {
            for row in 0..<(column / panelWidth &+ 1) &* panelWidth {
                products[TrianglePanels.place(row, column)] *= row == column ? weight : kept
            }
        }
    }

    /// Takes a matrix that was computed elsewhere.
    @inline(never)
    public func set(_ matrix: UnsafePointer<Double>, stride: Int64, rows: Int64) throws(Failure) {
        try RowSums.requireCountable(rows)
        for row in 0..<Int(layout.k) {
            let source = matrix + row &* Int(stride)
            for column in row..<Int(layout.k) where !source[column].isFinite || (row == column && source[column] < 0) {
                throw Failure(INT4Q_ERROR_NOT_FINITE, "matrix",
                              .element(row: Int64(row), column: Int64(column), Float(source[column])),
                              expected: "finite numbers, on the diagonal not negative")
            }
        }
        _ = Gram(layout, in: memory)
        for row in 0..<Int(layout.k) {
            for column in row..<Int(layout.k) {
                let value = matrix[row &* Int(stride) &+ column]
                products[TrianglePanels.place(row, column)] = value
                // A square on the diagonal is whole.
                if row / panelWidth == column / panelWidth { products[TrianglePanels.place(column, row)] = value }
            }
        }
        block.add(rows: rows, batches: 1)
    }
}
