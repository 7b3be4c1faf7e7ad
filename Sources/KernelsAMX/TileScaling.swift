// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// INT8 mode: what becomes of a group's sums, as on every instruction set (docs/numerics.md).

protocol TileScaling {
    /// Whether few rows have code of their own for it.
    static var isCommon: Bool { get }
    init(_ p: i4q_product)
    /// `extra` is what the panel has beside the scale; `row` has the scale and the share of a row of x.
    func total(_ sum: Words, _ scale: Floats, _ extra: Words, _ row: UnsafeRawPointer, _ before: Floats) -> Floats
}

extension TileScaling {
    @_transparent
    func scaled(_ dot: Words, _ scale: Floats, _ row: UnsafeRawPointer, _ before: Floats) -> Floats {
        fusedMultiplyAdd(i4q_float_from_i32(unsafeBitCast(dot, to: Ints.self)), scale * Floats(repeating: row.float(0)), before)
    }
}

/// Where the panel's bytes are the weights but for the scale.
struct PlainInt8: TileScaling {
    static var isCommon: Bool { true }
    @_transparent init(_ p: i4q_product) {}

    @_transparent
    func total(_ sum: Words, _ scale: Floats, _ extra: Words, _ row: UnsafeRawPointer, _ before: Floats) -> Floats {
        scaled(sum, scale, row, before)
    }
}

/// The extra is what bytes are too large by: the share is the negative sum of x.
struct ShiftedInt8: TileScaling {
    static var isCommon: Bool { false }
    @_transparent init(_ p: i4q_product) {}

    @_transparent
    func total(_ sum: Words, _ scale: Floats, _ extra: Words, _ row: UnsafeRawPointer, _ before: Floats) -> Floats {
        scaled(sum &+ extra &* Words(repeating: UInt32(bitPattern: row.int32(4))), scale, row, before)
    }
}

/// The extra is what the sum of x is multiplied by. The share is -8 of those (8 bits: -128), so this is the sum exactly as if
/// converted by itself.
struct OffsetInt8: TileScaling {
    static var isCommon: Bool { false }
    private let perShare: Float
    @_transparent init(_ p: i4q_product) { perShare = p.code_bits == 8 ? -0.0078125 : -0.125 }

    @_transparent
    func total(_ sum: Words, _ scale: Floats, _ extra: Words, _ row: UnsafeRawPointer, _ before: Floats) -> Floats {
        let x = Floats(repeating: Float(row.int32(4)) * perShare)
        return fusedMultiplyAdd(x, floats(fromBits: extra) * Floats(repeating: row.float(0)), scaled(sum, scale, row, before))
    }
}

/// One group's sums of some rows on their way to the totals.
struct GroupSums {
    let sums: UnsafeRawPointer
    let sumsStride: Int
    let totals: UnsafeMutableRawPointer
    let totalsStride: Int
    /// From the first block's totals to the second's.
    let secondTotals: Int
    /// The totals so far: those, or zeros.
    let before: UnsafeRawPointer
    let beforeStride: Int
    let secondBefore: Int
    let columns: UnsafeRawPointer
    let row: UnsafeRawPointer
    let rowStride: Int

    @_transparent
    func scale<Scaling: TileScaling>(_ scaling: Scaling, _ rows: Range<Int>, hasSecondBlock: Bool) {
        let scale = columns.floats(0), extra = columns.words(TilePanel.extras)
        if !hasSecondBlock {
            for r in rows { self.scale(scaling, r, 0, 0, 0, scale, extra) }
            return
        }
        let second = columns.floats(tileRowBytes), extraOfSecond = columns.words(TilePanel.extras &+ tileRowBytes)
        for r in rows {
            self.scale(scaling, r, 0, 0, 0, scale, extra)
            self.scale(scaling, r, tileRowBytes, secondTotals, secondBefore, second, extraOfSecond)
        }
    }

    @_transparent
    private func scale<Scaling: TileScaling>(_ scaling: Scaling, _ r: Int, _ ofSums: Int, _ ofTotals: Int, _ ofBefore: Int,
                                              _ scale: Floats, _ extra: Words) {
        let total = scaling.total(sums.words(r &* sumsStride &+ ofSums), scale, extra, row + r &* rowStride,
                                  before.floats(r &* beforeStride &+ ofBefore))
        totals.storeBytes(of: total, toByteOffset: r &* totalsStride &+ ofTotals, as: Floats.self)
    }
}
