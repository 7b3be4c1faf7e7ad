// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// Which parts a blob carries beside its codes, and how large they are: what its header says of them, and what a caller asks for.
public struct PartsShape {
    static let mostRanks: Int64 = 256

    var flags: UInt32 = 0
    var rank: Int64 = 0
    /// INT4Q_TYPE_* of the low-rank part; 0 without.
    var lowRankType: int4q_type = 0
    var sparseCount: Int64 = 0
    var rotationSeed: UInt64 = 0
    var rotationOrder: Int64 = 0

    static var permutation: UInt32 { UInt32(INT4Q_PART_PERMUTATION) }
    static var rotation: UInt32 { UInt32(INT4Q_PART_ROTATION) }
    static var sparse: UInt32 { UInt32(INT4Q_PART_SPARSE) }
    static var lowRank: UInt32 { UInt32(INT4Q_PART_LOW_RANK) }
    static var all: UInt32 { permutation | rotation | sparse | lowRank }

    func has(_ part: UInt32) -> Bool { flags & part != 0 }
    public var isEmpty: Bool { flags == 0 }

    init() {}

    /// Of a caller's description; looks at no elements.
    @inline(never)
    public init(_ raw: int4q_parts, k: Int64) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_parts.self, "parts.struct_size")
        try requireZero(raw.reserved, "parts.reserved")
        if raw.permutation != nil { flags |= PartsShape.permutation }
        if raw.rotation_order != 0 { flags |= PartsShape.rotation }
        if raw.sparse_row_offsets != nil { flags |= PartsShape.sparse }
        if raw.rank != 0 { flags |= PartsShape.lowRank }
        rotationOrder = raw.rotation_order
        rotationSeed = raw.rotation_seed
        sparseCount = raw.sparse_count
        rank = raw.rank
        lowRankType = raw.low_rank_type
        try check(k: k)
        try requireAligned(UInt(bitPattern: raw.permutation), to: 4, "parts.permutation")
        try requireAligned(UInt(bitPattern: raw.sparse_row_offsets), to: 8, "parts.sparse_row_offsets")
        try PartsShape.requirePresence(raw.sparse_columns, sparseCount > 0, 4, "parts.sparse_columns")
        try PartsShape.requirePresence(raw.sparse_values, sparseCount > 0, 4, "parts.sparse_values")
        try PartsShape.requirePresence(raw.low_rank_a, rank > 0, elementBytes, "parts.low_rank_a")
        try PartsShape.requirePresence(raw.low_rank_b, rank > 0, elementBytes, "parts.low_rank_b")
        let form = raw.low_rank_form
        if form != Int32(INT4Q_LOW_RANK_ROWS) && (rank == 0 || form != Int32(INT4Q_LOW_RANK_BLOCKS)) {
            throw .invalid("parts.low_rank_form", Int64(form), expected: "one of INT4Q_LOW_RANK_*, 0 without a low-rank part")
        }
    }

    private static func requirePresence(_ pointer: UnsafeRawPointer?, _ isWanted: Bool, _ alignment: Int,
                                        _ name: Text) throws(Failure) {
        if isWanted { _ = try require(pointer, name, alignment: alignment); return }
        if pointer != nil {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, name, .text("a pointer"), expected: "NULL: there is nothing there")
        }
    }

    /// Of a header whose flags are not 0.
    @inline(never)
    init(header: UnsafeRawPointer, k: Int64, _ name: Text) throws(Failure) {
        func get<T: BitwiseCopyable>(_ type: T.Type, _ offset: Int) -> T { header.load(fromByteOffset: offset, as: T.self) }
        typealias Offset = BlobHeader.Offset
        flags = get(UInt32.self, Offset.partFlags)
        rank = Int64(get(UInt16.self, Offset.partRank))
        lowRankType = int4q_type(get(UInt16.self, Offset.lowRankType))
        sparseCount = get(Int64.self, Offset.sparseCount)
        rotationSeed = get(UInt64.self, Offset.rotationSeed)
        rotationOrder = Int64(get(UInt32.self, Offset.rotationOrder))
        if flags & ~PartsShape.all != 0 { throw .invalid(name, Int64(flags), expected: "INT4Q_PART_* in its header") }
        try check(k: k)
    }

    private func check(k: Int64) throws(Failure) {
        if isEmpty { return try requireNothing() }
        if k > Int64(Int32.max) { throw .invalid("k", k, expected: "with parts at most", bound: UInt64(Int32.max)) }
        if has(PartsShape.rotation) {
            try requireOrder(rotationOrder, k)
        }
        try requireAtLeast(sparseCount, 0, "parts.sparse_count")
        if has(PartsShape.lowRank) {
            if rank < 1 || rank > PartsShape.mostRanks { throw .invalid("parts.rank", rank, expected: "1 to 256, or 0") }
            _ = try ElementType(lowRankType, "parts.low_rank_type")
        }
        try requireNothing()
    }

    /// Fields of parts that are not there.
    private func requireNothing() throws(Failure) {
        typealias Field = (value: Int64, part: UInt32, name: Text)
        let fields: InlineArray<5, Field> = [
            (rotationOrder, PartsShape.rotation, "parts.rotation_order"),
            (Int64(bitPattern: rotationSeed), PartsShape.rotation, "parts.rotation_seed"),
            (sparseCount, PartsShape.sparse, "parts.sparse_count"), (rank, PartsShape.lowRank, "parts.rank"),
            (Int64(lowRankType), PartsShape.lowRank, "parts.low_rank_type"),
        ]
        for index in 0..<5 where !has(fields[index].part) && fields[index].value != 0 {
            throw .invalid(fields[index].name, fields[index].value, expected: "0: the part is not there")
        }
    }

    private func requireOrder(_ order: Int64, _ k: Int64) throws(Failure) {
        try Hadamard.requireOrder(order, "parts.rotation_order")
        if k % order != 0 { throw .invalid("parts.rotation_order", order, expected: "a divisor of k,", bound: UInt64(k)) }
    }

    var elementBytes: Int { lowRankType == int4q_type(INT4Q_TYPE_F32) ? 4 : 2 }

    /// Of a shape that was checked; nil without a rotation.
    var hadamard: Hadamard? { has(PartsShape.rotation) ? try? Hadamard(order: rotationOrder, seed: rotationSeed) : nil }
}

/// Where the parts stand, from their first byte on; each section is padded to 64 bytes with zeros: docs/blob-format.md.
public struct PartsLayout {
    let permutation: UInt64
    let rowOffsets: UInt64
    let columns: UInt64
    let values: UInt64
    let a: UInt64
    let b: UInt64
    public let totalBytes: UInt64

    @inline(never)
    public init(_ shape: PartsShape, n: Int64, k: Int64) throws(Failure) {
        try requireAtLeast(n, 1, "n")
        try requireAtLeast(k, 1, "k")
        var end: UInt64 = 0
        func take(_ count: CheckedSize, _ bytes: UInt64) throws(Failure) -> UInt64 {
            let start = end
            end = try count.times(bytes).roundedUp(to: 64).plus(start).value
            return start
        }
        permutation = try take(CheckedSize(UInt64(shape.has(PartsShape.permutation) ? k : 0), "k"), 4)
        let elements = CheckedSize(UInt64(shape.sparseCount), "parts.sparse_count")
        let offsets = shape.has(PartsShape.sparse) ? try CheckedSize(UInt64(n), "n").plus(1) : CheckedSize(0, "n")
        rowOffsets = try take(offsets, 8)
        columns = try take(elements, 4)
        values = try take(elements, 4)
        let rankBytes = UInt64(shape.rank) * UInt64(shape.elementBytes)
        a = try take(CheckedSize(UInt64((n - 1) / BlobLayout.blockRows + 1), "n", argument: n), 16 * rankBytes)
        b = try take(CheckedSize(UInt64(k), "k"), rankBytes)
        totalBytes = end
    }
}
