// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// What becomes of a group's sums: the operations that follow them on every instruction set (docs/numerics.md).

protocol TileScaling {
    associatedtype Arithmetic: TileArithmetic
    /// Whether few rows have code of their own for it.
    static var isCommon: Bool { get }
    /// Bytes that a row has for each group.
    static var rowBytes: Int { get }
    init(_ p: i4q_product)
    /// `extra` is what the panel has beside the scale; `row` what a row of x has for the group.
    func total(_ sum: Words, _ scale: Floats, _ extra: Words, _ row: UnsafeRawPointer, _ before: Floats) -> Floats
}

/// BF16 mode with exact codes.
struct PlainBFloat: TileScaling {
    typealias Arithmetic = BFloatPairs
    static var isCommon: Bool { true }
    static var rowBytes: Int { 0 }
    @_transparent init(_ p: i4q_product) {}

    @_transparent
    func total(_ sum: Words, _ scale: Floats, _ extra: Words, _ row: UnsafeRawPointer, _ before: Floats) -> Floats {
        fusedMultiplyAdd(scale, floats(fromBits: sum), before)
    }
}

/// A row of x has a scale and a share.
protocol Int8Scaling: TileScaling where Arithmetic == SignedBytes {}

extension Int8Scaling {
    @_transparent static var rowBytes: Int { 8 }

    @_transparent
    func scaled(_ dot: Words, _ scale: Floats, _ row: UnsafeRawPointer, _ before: Floats) -> Floats {
        fusedMultiplyAdd(i4q_float_from_i32(unsafeBitCast(dot, to: Ints.self)), scale * Floats(repeating: row.float(0)), before)
    }
}

/// Where the panel's bytes are the weights but for the scale.
struct PlainInt8: Int8Scaling {
    typealias Arithmetic = SignedBytes
    static var isCommon: Bool { true }
    @_transparent init(_ p: i4q_product) {}

    @_transparent
    func total(_ sum: Words, _ scale: Floats, _ extra: Words, _ row: UnsafeRawPointer, _ before: Floats) -> Floats {
        scaled(sum, scale, row, before)
    }
}

/// The extra is what bytes are too large by: the share is the negative sum of x.
struct ShiftedInt8: Int8Scaling {
    typealias Arithmetic = SignedBytes
    static var isCommon: Bool { false }
    @_transparent init(_ p: i4q_product) {}

    @_transparent
    func total(_ sum: Words, _ scale: Floats, _ extra: Words, _ row: UnsafeRawPointer, _ before: Floats) -> Floats {
        scaled(sum &+ extra &* Words(repeating: UInt32(bitPattern: row.int32(4))), scale, row, before)
    }
}

/// The extra is what the sum of x is multiplied by. The share is -8 of those (8 bits: -128), so this is the sum exactly as if
/// converted by itself.
struct OffsetInt8: Int8Scaling {
    typealias Arithmetic = SignedBytes
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
struct GroupSums<Scaling: TileScaling> {
    private let sums: UnsafeRawPointer
    private let sumsStride: Int
    private let totals: UnsafeMutableRawPointer
    private let totalsStride: Int
    private let secondTotals: Int
    /// The totals so far: those, or zeros.
    private let before: UnsafeRawPointer
    private let beforeStride: Int
    private let secondBefore: Int
    private let columns: UnsafeRawPointer
    private let row: UnsafeRawPointer
    private let rowStride: Int

    /// Sums of `group`, in the tile of the result from `row` and `block` on; the second block is `blockStep` further. The group's
    /// columns stand in the panel at `place`.
    @inline(__always)
    init(_ p: i4q_product, _ t: i4q_tile, _ sums: TileSums, group: Int, row: Int, block: Int, blockStep: Int, place: Int) {
        let activations = TileActivations(p), panel = TilePanel(t), isFirst = group == 0
        self.sums = UnsafeRawPointer(sums.base)
        sumsStride = sums.stride
        totalsStride = Int(t.out_stride) &* 4
        totals = UnsafeMutableRawPointer(t.out.unsafelyUnwrapped) + (row &* totalsStride &+ block &* tileRowBytes)
        secondTotals = blockStep &* tileRowBytes
        before = isFirst ? panel.zeros : UnsafeRawPointer(totals)
        beforeStride = isFirst ? 0 : totalsStride
        secondBefore = isFirst ? 0 : secondTotals
        columns = UnsafeRawPointer(panel.columns(place))
        self.row = activations.at(row: Int(t.row_begin) &+ row, Int(p.prepared_scales_offset) &+ group &* Scaling.rowBytes)
        rowStride = activations.rowStride
    }

    @_transparent
    func scale(_ scaling: Scaling, rows: Int, hasSecondBlock: Bool) {
        let scale = columns.floats(0), extra = columns.words(TilePanel.extras)
        if !hasSecondBlock {
            for r in 0..<rows { self.scale(scaling, r, 0, 0, 0, scale, extra) }
            return
        }
        let second = columns.floats(tileRowBytes), extraOfSecond = columns.words(TilePanel.extras &+ tileRowBytes)
        for r in 0..<rows {
            self.scale(scaling, r, 0, 0, 0, scale, extra)
            self.scale(scaling, r, tileRowBytes, secondTotals, secondBefore, second, extraOfSecond)
        }
    }

    @_transparent
    private func scale(_ scaling: Scaling, _ r: Int, _ ofSums: Int, _ ofTotals: Int, _ ofBefore: Int, _ scale: Floats, _ extra: Words) {
        let total = scaling.total(sums.words(r &* sumsStride &+ ofSums), scale, extra, row + r &* rowStride,
                                  before.floats(r &* beforeStride &+ ofBefore))
        totals.storeBytes(of: total, toByteOffset: r &* totalsStride &+ ofTotals, as: Floats.self)
    }
}
