// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Where a cross matrix is in memory: [header] [panels of 16 columns], each of `padded` rows, 16 binary64 side by side.
public struct CrossLayout {
    public let k: Int64
    public let totalBytes: UInt64

    var panels: Int { TrianglePanels(columns: Int(k)).panels }
    var padded: Int { panels &* panelWidth }

    @inline(never)
    public init(k: Int64) throws(Failure) {
        try requireAtLeast(k, 1, "k")
        self.k = k
        let padded = try CheckedSize(UInt64(k), "k").roundedUp(to: 16)
        totalBytes = try padded.times(padded.value).times(8).plus(SavedBlock.headerBytes).value
    }
}

/// A caller's cross matrix whose header was checked: D[i][j], the sum over rows of (x[i] - y[i]) * y[j].
public struct Cross {
    public let layout: CrossLayout
    let block: RowSums
    private static var magic: UInt64 { 0x0052_5843_5134_4e49 } // "IN4QCXR"

    @inline(never)
    public init(_ pointer: UnsafeRawPointer?, bytes: UInt64, _ names: Gram.Names = .cross) throws(Failure) {
        block = RowSums(block: try SavedBlock(pointer, bytes, names.memory, names.bytes, magic: Cross.magic,
                                              "bytes that start as a cross matrix does"))
        do throws(Failure) {
            layout = try CrossLayout(k: block.k)
        } catch {
            throw .corrupt(names.memory, "a size", "one that int4q_cross_size() accepts")
        }
        try block.requireWhole(layout.totalBytes)
    }

    /// A matrix in new memory, which has seen nothing.
    @inline(never)
    public init(_ layout: CrossLayout, in pointer: UnsafeMutableRawPointer) {
        self.layout = layout
        block = RowSums(making: layout.totalBytes, k: layout.k, magic: Cross.magic, in: pointer)
    }

    var products: UnsafeMutablePointer<Double> {
        (block.memory + Int(SavedBlock.headerBytes)).assumingMemoryBound(to: Double.self)
    }
    private var count: Int { layout.padded &* layout.padded }
    var rows: Int64 { block.rows }

    /// 16 elements of a row.
    @inline(__always)
    func panel(_ panel: Int, row: Int) -> UnsafeMutablePointer<Double> { products + (panel &* layout.padded &+ row) &* panelWidth }
    @inline(__always)
    func element(_ row: Int, _ column: Int) -> Double { panel(column / panelWidth, row: row)[column % panelWidth] }

    /// That it is of the same rows as a Gram matrix, and of its channels; or of these and `residuals` more.
    @inline(never)
    public func requireMatch(_ gram: Gram, _ name: Text, residuals: Int64 = 0) throws(Failure) {
        if layout.k != gram.layout.k && layout.k - gram.layout.k != residuals {
            throw Failure(INT4Q_ERROR_MISMATCH, name, .integer(layout.k), expected: "a cross matrix of the Gram matrix's k,",
                          bound: UInt64(gram.layout.k))
        }
        if rows != gram.rows {
            throw Failure(INT4Q_ERROR_MISMATCH, name, .integer(rows), expected: "as many rows as the Gram matrix has seen")
        }
    }
}

extension Cross {
    public func write(to info: UnsafeMutablePointer<int4q_gram_info>) { block.write(to: info) }

    @inline(never)
    public func write(rows: Range<Int64>, to matrix: UnsafeMutablePointer<Double>, stride: Int64) {
        for row in rows {
            for column in 0..<Int(layout.k) { matrix[Int(row) &* Int(stride) &+ column] = element(Int(row), column) }
        }
    }

    /// Whether all sums can have come from batches. `name` is the argument to blame.
    @inline(never)
    public func validate(_ name: Text) throws(Failure) {
        try block.validateCounts(name)
        try requireFinite(products, count, name)
        let k = Int(layout.k), isEmpty = rows == 0
        for row in 0..<layout.padded {
            for column in 0..<layout.padded where (isEmpty || row >= k || column >= k) && element(row, column) != 0 {
                throw .corrupt(name, "a sum in padding", "zeros there, and before the first row")
            }
        }
    }

    /// Adds what another one has seen. Both have been validated.
    @inline(never)
    public func merge(_ other: Cross) throws(Failure) {
        try block.requireRoom(for: other.block)
        try requireFiniteSums(products, other.products, count)
        for index in 0..<count { products[index] += other.products[index] }
        block.add(rows: other.rows, batches: other.block.batches)
    }

    /// Takes a matrix that was computed elsewhere.
    @inline(never)
    public func set(_ matrix: UnsafePointer<Double>, stride: Int64, rows: Int64) throws(Failure) {
        try RowSums.requireCountable(rows)
        let k = Int(layout.k)
        for row in 0..<k {
            for column in 0..<k where !matrix[row &* Int(stride) &+ column].isFinite {
                throw Failure(INT4Q_ERROR_NOT_FINITE, "matrix",
                              .element(row: Int64(row), column: Int64(column), Float(matrix[row &* Int(stride) &+ column])),
                              expected: "finite numbers")
            }
        }
        _ = Cross(layout, in: block.memory)
        for row in 0..<k {
            for column in 0..<k { panel(column / 16, row: row)[column % 16] = matrix[row &* Int(stride) &+ column] }
        }
        block.add(rows: rows, batches: 1)
    }

    /// Takes a batch of x, and of y.
    @inline(never)
    public func push(_ x: Matrix, _ y: Matrix, rows: Int64, scratch: UnsafeMutableRawPointer, _ kernels: i4q_kernels,
                     _ parallel: ParallelFor) throws(Failure) {
        var push = GramPush(gram: nil, products: products, x: x, other: y, kernels: kernels,
                            packed: scratch.assumingMemoryBound(to: Float.self), rows: 0..<0)
        try push.run(rows, into: block, parallel)
    }
}
