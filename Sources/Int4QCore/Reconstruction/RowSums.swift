// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// The header that Gram and cross matrices have: a number of channels, and how many rows and batches they have seen.
struct RowSums {
    private enum Field {
        static var k: Int { 16 }
        static var totalBytes: Int { 24 }
        static var rows: Int { 32 }
        static var batches: Int { 40 }
    }

    let block: SavedBlock
    var memory: UnsafeMutableRawPointer { block.memory }

    init(block: SavedBlock) { self.block = block }

    @inline(never)
    init(making total: UInt64, k: Int64, magic: UInt64, in pointer: UnsafeMutableRawPointer) {
        block = SavedBlock(making: total, at: Field.totalBytes, magic: magic, in: pointer)
        block.memory.storeBytes(of: k, toByteOffset: Field.k, as: Int64.self)
    }

    func requireWhole(_ total: UInt64) throws(Failure) {
        try block.requireWhole(total, at: Field.totalBytes, counts: 2, "sizes that agree with its k")
    }

    var k: Int64 { memory.load(fromByteOffset: Field.k, as: Int64.self) }
    var rows: Int64 { memory.load(fromByteOffset: Field.rows, as: Int64.self) }
    var batches: Int64 { memory.load(fromByteOffset: Field.batches, as: Int64.self) }

    /// Of rows: that many fit into binary64, and the sum of two into 63 bits.
    private static var mostRows: Int64 { 1 << 53 }

    @inline(never)
    static func requireCountable(_ rows: Int64) throws(Failure) {
        if rows > mostRows {
            throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, "rows", .integer(rows), expected: "at most", bound: UInt64(mostRows))
        }
    }

    func add(rows: Int64, batches: Int64) {
        memory.storeBytes(of: self.rows &+ rows, toByteOffset: Field.rows, as: Int64.self)
        memory.storeBytes(of: self.batches &+ batches, toByteOffset: Field.batches, as: Int64.self)
    }

    @inline(never)
    func requireRoom(forRows rows: Int64, _ name: Text) throws(Failure) {
        // Rows of a header may be anything.
        if self.rows < 0 || self.rows > RowSums.mostRows || rows > RowSums.mostRows - self.rows {
            throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, name, .integer(rows), expected: "rows that add up to at most",
                          bound: UInt64(RowSums.mostRows))
        }
    }

    /// Whether another one, which has been validated, can be added.
    @inline(never)
    func requireRoom(for other: RowSums) throws(Failure) {
        if other.k != k {
            throw Failure(INT4Q_ERROR_MISMATCH, "from", .integer(other.k), expected: "channels as in `into`,", bound: UInt64(k))
        }
        try requireRoom(forRows: other.rows, "from")
    }

    @inline(never)
    func requireColumns(_ columns: Int) throws(Failure) {
        if Int64(columns) != k {
            throw Failure(INT4Q_ERROR_MISMATCH, "columns", .integer(Int64(columns)), expected: "the matrix's k,", bound: UInt64(k))
        }
    }

    @inline(never)
    func validateCounts(_ name: Text) throws(Failure) {
        if rows < 0 || rows > RowSums.mostRows || batches < 0 || batches > rows {
            throw .corrupt(name, "a number of rows or batches", "numbers that can have been counted")
        }
    }

    @inline(never)
    func write(to info: UnsafeMutablePointer<int4q_gram_info>) {
        info.pointee.total_bytes = memory.load(fromByteOffset: Field.totalBytes, as: UInt64.self)
        info.pointee.k = k
        info.pointee.rows = rows
        info.pointee.batches = batches
    }
}

@inline(never)
func requireFinite(_ sums: UnsafePointer<Double>, _ count: Int, _ name: Text) throws(Failure) {
    for index in 0..<count where !sums[index].isFinite { throw .corrupt(name, "a sum that is not finite", "finite sums") }
}

/// That two matrices can be merged: a file's sums may be finite and so large that what they are added to is lost.
@inline(never)
func requireFiniteSums(_ sums: UnsafePointer<Double>, _ others: UnsafePointer<Double>, _ count: Int) throws(Failure) {
    for index in 0..<count where !(sums[index] + others[index]).isFinite {
        throw Failure(INT4Q_ERROR_NOT_FINITE, "from", .text("a sum that is too large"), expected: "sums that stay finite")
    }
}
