// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// The codebook or codebooks that a caller gives with a scheme: 16 floats, or n x 16.
struct CallersCodebooks {
    private let base: UnsafePointer<Float>
    private let isPerRow: Bool

    /// Nil for the kinds that have none. One for the tensor is checked here; those of rows when the rows are known.
    init?(_ scheme: Scheme, _ pointer: UnsafePointer<Float>?, n: Int64, _ name: Text) throws(Failure) {
        if scheme.kind != .codebook { return nil }
        base = try require(pointer, name)
        isPerRow = scheme.hasRowCodebooks
        if !isPerRow {
            try requireUsable(codebook: base, name)
            return
        }
        _ = try CheckedSize(UInt64(n), "n").times(CallersCodebooks.rowBytes).plus(UInt64(UInt(bitPattern: base)))
    }

    static let rowBytes: UInt64 = 64

    func row(_ row: Int) -> UnsafePointer<Float> { isPerRow ? base + row &* 16 : base }

    func check(_ rows: Range<Int64>, _ name: Text) throws(Failure) {
        if !isPerRow { return }
        for index in rows { try requireUsable(codebook: row(Int(index)), row: index, name) }
    }
}

/// 16 finite values, at least one of them not zero.
func requireUsable(codebook: UnsafePointer<Float>, row: Int64 = 0, _ name: Text) throws(Failure) {
    var largest: Float = 0
    for index in 0..<16 {
        let value = codebook[index]
        if !value.isFinite {
            throw Failure(INT4Q_ERROR_NOT_FINITE, name, .element(row: row, column: Int64(index), value), expected: "finite values")
        }
        largest = max(largest, value.magnitude)
    }
    if largest == 0 {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, name, .text("all zero"), expected: "a value that is not zero")
    }
}
