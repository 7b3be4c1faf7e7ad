// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// Parts whose shape was checked, in a caller's memory or in a blob; their elements may be anything until check() has seen them.
public struct BlobParts {
    public let shape: PartsShape
    let raw: int4q_parts
    let n: Int64
    let k: Int64

    public init(_ raw: int4q_parts, n: Int64, k: Int64) throws(Failure) {
        shape = try PartsShape(raw, k: k)
        self.raw = raw
        self.n = n
        self.k = k
    }

    /// Those that a blob carries.
    @inline(never)
    public init(_ blob: Blob) {
        shape = blob.parts
        n = blob.layout.n
        k = blob.layout.k
        var raw = int4q_parts()
        raw.struct_size = UInt32(MemoryLayout<int4q_parts>.stride)
        // A header with these sizes was checked.
        if let layout = try? PartsLayout(shape, n: n, k: k), !shape.isEmpty {
            let base = blob.base + Int(blob.layout.totalBytes)
            func at<T>(_ offset: UInt64, _ type: T.Type) -> UnsafePointer<T> { (base + Int(offset)).assumingMemoryBound(to: type) }
            if shape.has(PartsShape.permutation) { raw.permutation = at(layout.permutation, UInt32.self) }
            if shape.has(PartsShape.sparse) { raw.sparse_row_offsets = at(layout.rowOffsets, Int64.self) }
            if shape.sparseCount > 0 {
                raw.sparse_columns = at(layout.columns, Int32.self)
                raw.sparse_values = at(layout.values, Float.self)
            }
            if shape.has(PartsShape.lowRank) {
                raw.low_rank_a = base + Int(layout.a)
                raw.low_rank_b = base + Int(layout.b)
                raw.low_rank_form = Int32(INT4Q_LOW_RANK_BLOCKS)
            }
        }
        raw.rotation_order = shape.rotationOrder
        raw.rotation_seed = shape.rotationSeed
        raw.sparse_count = shape.sparseCount
        raw.rank = shape.rank
        raw.low_rank_type = shape.lowRankType
        self.raw = raw
    }

    public func write(to parts: UnsafeMutablePointer<int4q_parts>) { parts.pointee = raw }

    /// Of a shape that has them.
    var permutation: UnsafePointer<UInt32> { raw.permutation.unsafelyUnwrapped }
    var rowOffsets: UnsafePointer<Int64> { raw.sparse_row_offsets.unsafelyUnwrapped }
    var lowRankType: ElementType { (try? ElementType(shape.lowRankType, "parts.low_rank_type")) ?? .f32 }

    /// Where A's element stands.
    func place(_ row: Int, _ rank: Int) -> Int {
        let ranks = Int(shape.rank)
        if raw.low_rank_form == Int32(INT4Q_LOW_RANK_ROWS) { return row &* ranks &+ rank }
        return ((row &>> 4) &* ranks &+ rank) &* 16 &+ (row & 15)
    }

    /// A row's sparse elements; within those that there are, whatever the offsets say.
    func elements(of row: Int) -> Range<Int> {
        let begin = min(max(rowOffsets[row], 0), shape.sparseCount)
        return Int(begin)..<Int(min(max(rowOffsets[row &+ 1], begin), shape.sparseCount))
    }

    /// An element's column, or the last one.
    func column(_ element: Int) -> Int {
        Int(min(UInt32(bitPattern: raw.sparse_columns.unsafelyUnwrapped[element]), UInt32(truncatingIfNeeded: k &- 1)))
    }

    // MARK: Elements

    @inline(never)
    public func check() throws(Failure) {
        if shape.has(PartsShape.permutation) { try checkPermutation() }
        if shape.has(PartsShape.sparse) { try checkSparse() }
        if shape.has(PartsShape.lowRank) {
            let a = raw.low_rank_a.unsafelyUnwrapped, b = raw.low_rank_b.unsafelyUnwrapped, rank = Int(shape.rank)
            try checkFinite(a, rows: Int(n), columns: rank, isA: true, "parts.low_rank_a")
            try checkFinite(b, rows: rank, columns: Int(k), isA: false, "parts.low_rank_b")
        }
    }

    private static let seenLines = 256

    /// Each element is below k and none is there twice. Bits on the stack say which were seen, for so many values at a time.
    @inline(never)
    private func checkPermutation() throws(Failure) {
        let count = Int(k), window = BlobParts.seenLines * 512
        for index in 0..<count where Int64(permutation[index]) >= k {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "parts.permutation", .entry(index: Int64(index), Int64(permutation[index])),
                          expected: "channels below", bound: UInt64(k))
        }
        try StackMemory<256>.use { (memory) throws(Failure) in
            let seen = memory.assumingMemoryBound(to: UInt32.self)
            var first = 0
            while first < count {
                seen.initialize(repeating: 0, count: window / 32)
                for index in 0..<count {
                    let place = Int(permutation[index]) &- first
                    if place < 0 || place >= window { continue }
                    let bit: UInt32 = 1 &<< UInt32(truncatingIfNeeded: place & 31)
                    if seen[place &>> 5] & bit != 0 {
                        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "parts.permutation",
                                      .entry(index: Int64(index), Int64(permutation[index])), expected: "each channel once")
                    }
                    seen[place &>> 5] |= bit
                }
                first &+= window
            }
        }
    }

    @inline(never)
    private func checkSparse() throws(Failure) {
        var before: Int64 = 0
        for row in 0...Int(n) {
            let offset = rowOffsets[row]
            let isFirst = row == 0, isLast = Int64(row) == n
            if offset < before || offset > shape.sparseCount || isFirst && offset != 0 || isLast && offset != shape.sparseCount {
                throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "parts.sparse_row_offsets", .entry(index: Int64(row), offset),
                              expected: "offsets that ascend from 0 to", bound: UInt64(shape.sparseCount))
            }
            before = offset
        }
        for row in 0..<Int(n) {
            var previous: Int32 = -1
            for element in elements(of: row) {
                let column = raw.sparse_columns.unsafelyUnwrapped[element], value = raw.sparse_values.unsafelyUnwrapped[element]
                if column <= previous || Int64(column) >= k {
                    throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "parts.sparse_columns",
                                  .entry(index: Int64(element), Int64(column)), expected: "columns that ascend in a row, from 0 or more to below", bound: UInt64(k))
                }
                if !value.isFinite {
                    throw Failure(INT4Q_ERROR_NOT_FINITE, "parts.sparse_values",
                                  .element(row: Int64(row), column: Int64(column), value), expected: "finite values")
                }
                previous = column
            }
        }
    }

    @inline(never)
    private func checkFinite(_ values: UnsafeRawPointer, rows: Int, columns: Int, isA: Bool, _ name: Text) throws(Failure) {
        let type = lowRankType
        for row in 0..<rows {
            for column in 0..<columns {
                let value = type.load(values, isA ? place(row, column) : row &* columns &+ column)
                if !value.isFinite {
                    throw Failure(INT4Q_ERROR_NOT_FINITE, name, .element(row: Int64(row), column: Int64(column), value),
                                  expected: "finite values")
                }
            }
        }
    }
}
