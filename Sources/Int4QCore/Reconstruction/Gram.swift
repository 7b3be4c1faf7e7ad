// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A caller's Gram matrix whose header was checked. What lies behind the header is believed only as far as memory safety does not
/// depend on it.
public struct Gram {
    public struct Names {
        let memory: StaticString
        let bytes: StaticString
        public init(_ memory: StaticString, _ bytes: StaticString) {
            self.memory = memory
            self.bytes = bytes
        }
        public static var usual: Names { Names("gram", "gram_bytes") }
    }

    public let layout: GramLayout
    let memory: UnsafeMutableRawPointer

    /// The header: where its fields are. Little-endian, as everything here.
    private enum Field {
        static var magic: Int { 0 }
        static var version: Int { 8 }
        static var k: Int { 16 }
        static var totalBytes: Int { 24 }
        static var rows: Int { 32 }
        static var batches: Int { 40 }
        static var reserved: Int { 48 }
    }
    private static var magic: UInt64 { 0x004d_5247_5134_4e49 } // "IN4QGRM"
    private static var version: UInt32 { 1 }

    @inline(never)
    public init(_ pointer: UnsafeRawPointer?, bytes: UInt64, _ names: Names) throws(Failure) {
        memory = UnsafeMutableRawPointer(mutating: try require(pointer, names.memory, alignment: Int(INT4Q_ALIGNMENT)))
        try requireBytes(bytes, needed: GramLayout.headerBytes, names.bytes)
        if memory.load(fromByteOffset: Field.magic, as: UInt64.self) != Gram.magic {
            throw Gram.corrupt(names.memory, "a header", "bytes that start as a Gram matrix does")
        }
        let version = memory.load(fromByteOffset: Field.version, as: UInt32.self)
        if version != Gram.version {
            throw Failure(INT4Q_ERROR_BLOB_VERSION, names.memory, .unsigned(UInt64(version)), expected: "version",
                          bound: UInt64(Gram.version))
        }
        do throws(Failure) {
            layout = try GramLayout(k: memory.load(fromByteOffset: Field.k, as: Int64.self))
        } catch {
            throw Gram.corrupt(names.memory, "a size", "one that int4q_gram_size() accepts")
        }
        if memory.load(fromByteOffset: Field.totalBytes, as: UInt64.self) != layout.totalBytes || !hasZeroedReserve {
            throw Gram.corrupt(names.memory, "a header", "sizes that agree with its k")
        }
        try requireBytes(bytes, needed: layout.totalBytes, names.bytes)
    }

    /// A matrix in new memory, which has seen nothing.
    @inline(never)
    public init(_ layout: GramLayout, in pointer: UnsafeMutableRawPointer) {
        self.layout = layout
        memory = pointer
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: Int(layout.totalBytes))
        memory.storeBytes(of: Gram.magic, toByteOffset: Field.magic, as: UInt64.self)
        memory.storeBytes(of: Gram.version, toByteOffset: Field.version, as: UInt32.self)
        memory.storeBytes(of: layout.k, toByteOffset: Field.k, as: Int64.self)
        memory.storeBytes(of: layout.totalBytes, toByteOffset: Field.totalBytes, as: UInt64.self)
    }

    /// A copy of a checked one.
    init(_ other: Gram, at pointer: UnsafeMutableRawPointer) {
        layout = other.layout
        memory = pointer
    }

    private var hasZeroedReserve: Bool {
        var all = memory.load(fromByteOffset: Field.version + 4, as: UInt32.self)
        for offset in stride(from: Field.reserved, to: Int(GramLayout.headerBytes), by: 4) {
            all |= memory.load(fromByteOffset: offset, as: UInt32.self)
        }
        return all == 0
    }

    static func corrupt(_ name: StaticString, _ value: StaticString, _ expected: StaticString) -> Failure {
        Failure(INT4Q_ERROR_CORRUPT, name, .text(value), expected: expected)
    }
}

extension Gram {
    var rows: Int64 {
        get { memory.load(fromByteOffset: Field.rows, as: Int64.self) }
        nonmutating set { memory.storeBytes(of: newValue, toByteOffset: Field.rows, as: Int64.self) }
    }
    var batches: Int64 {
        get { memory.load(fromByteOffset: Field.batches, as: Int64.self) }
        nonmutating set { memory.storeBytes(of: newValue, toByteOffset: Field.batches, as: Int64.self) }
    }

    private func doubles(_ offset: Int) -> UnsafeMutablePointer<Double> { (memory + offset).assumingMemoryBound(to: Double.self) }
    var sums: UnsafeMutablePointer<Double> { doubles(layout.sums) }
    var magnitudes: UnsafeMutablePointer<Double> { doubles(layout.magnitudes) }
    var maxima: UnsafeMutablePointer<Float> { (memory + layout.maxima).assumingMemoryBound(to: Float.self) }
    /// The triangle, in TrianglePanels' order.
    var products: UnsafeMutablePointer<Double> { doubles(layout.products) }
    func diagonal(_ channel: Int) -> Double { products[TrianglePanels.place(channel, channel)] }

    /// Of rows: that many fit into binary64, and the sum of two into 63 bits.
    static var mostRows: Int64 { 1 << 53 }
}

// MARK: What it tells

extension Gram {
    public func write(to info: UnsafeMutablePointer<int4q_gram_info>) {
        info.pointee.total_bytes = layout.totalBytes
        info.pointee.k = layout.k
        info.pointee.rows = rows
        info.pointee.batches = batches
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
    public func validate(_ name: StaticString) throws(Failure) {
        if rows < 0 || rows > Gram.mostRows || batches < 0 || batches > rows {
            throw Gram.corrupt(name, "a number of rows or batches", "numbers that can have been counted")
        }
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
        for index in 0..<layout.triangle.count where !products[index].isFinite {
            throw Gram.corrupt(name, "a sum that is not finite", "finite sums")
        }
    }

    /// Adds what another one has seen. Both have been validated.
    @inline(never)
    public func merge(_ other: Gram) throws(Failure) {
        if other.layout.k != layout.k {
            throw Failure(INT4Q_ERROR_MISMATCH, "from", .integer(other.layout.k), expected: "channels as in `into`,",
                          bound: UInt64(layout.k))
        }
        if rows + other.rows > Gram.mostRows {
            throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, "from", .integer(other.rows), expected: "rows that add up to at most",
                          bound: UInt64(Gram.mostRows))
        }
        for channel in 0..<layout.padded {
            sums[channel] += other.sums[channel]
            magnitudes[channel] += other.magnitudes[channel]
            maxima[channel] = max(maxima[channel], other.maxima[channel])
        }
        for index in 0..<layout.triangle.count { products[index] += other.products[index] }
        rows += other.rows
        batches += other.batches
    }

    /// Takes a matrix that was computed elsewhere.
    @inline(never)
    public func set(_ matrix: UnsafePointer<Double>, stride: Int64, rows: Int64) throws(Failure) {
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
        self.rows = rows
        batches = 1
    }
}
