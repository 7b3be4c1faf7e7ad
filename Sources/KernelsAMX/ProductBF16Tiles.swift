// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// BF16 mode in tiles. In long groups codes are exact, and sums are scaled group by group. In short ones that would take longer than
// products do: there weights are dequantized and rounded, and sums run over all of k in steps of 32, groups notwithstanding.

func multiplyBF16Tiles(_ p: i4q_product, _ t: i4q_tile) {
    if p.rounds_weights == 0 {
        CoverTiles<ExactCodes, PlainBFloat>.run(p, t)
    } else if p.scale_type == ElementType.f16 && (p.kind == Kind.symmetric || p.kind == Kind.asymmetric) {
        CoverSums<LinearWeights>.run(p, t)
    } else {
        CoverSums<TableWeights>.run(p, t)
    }
}

/// A tile of the result: pieces of weights are dequantized, and each is used for all rows.
private enum CoverSums<Unpacker: Dequantizer> {
    @inline(never)
    static func run(_ p: i4q_product, _ t: i4q_tile) {
        var configuration = TileConfiguration()
        if Int(t.row_count) <= tileRows { coverFewRows(p, t, &configuration) } else { coverPieces(p, t, &configuration) }
        configuration.release()
    }

    @inline(__always)
    private static func coverFewRows(_ p: i4q_product, _ t: i4q_tile, _ configuration: inout TileConfiguration) {
        configuration.set(rows: Int(t.row_count), stepBytes: tileRowBytes)
        eachPairApart(t) { block, step in coverFewRows(p, t, block: block, step: step) }
    }

    /// Two blocks `step` apart, or one if that is 0. Products are some steps behind (UnpackAhead.swift).
    @inline(never)
    private static func coverFewRows(_ p: i4q_product, _ t: i4q_tile, block: Int, step: Int) {
        let shape = TileShape(rows: Int(t.row_count), hasSecondBlock: step > 0), panel = TilePanel(t), activations = TileActivations(p)
        let steps = Int(p.k_padded) / 32
        var weights = DequantizedSteps<Unpacker>(p, t, block: block, step: step)
        shape.eachSum { tile, _, _ in i4q_tile_zero(tile) }
        for place in 0..<steps &+ stepsAhead {
            if place < steps { weights.unpackStep(p, panel.step(place)) }
            if place < stepsAhead { continue }
            let behind = place &- stepsAhead
            shape.load(activations.at(row: Int(t.row_begin), behind &* 64), activations.rowStride, UnsafeRawPointer(panel.step(behind)))
            shape.multiply(BFloatPairs.self)
        }
        let totals = TileSums(totals: t, row: 0, block: block, blockStep: step)
        shape.eachSum { tile, half, b in totals.store(tile, half, b) }
    }

    /// A piece of x stays in the cache for all blocks.
    @inline(__always)
    private static func coverPieces(_ p: i4q_product, _ t: i4q_tile, _ configuration: inout TileConfiguration) {
        let depth = TilePanel.depth(BFloatPairs.self), size = Int(p.group_size), rows = 0..<Int(t.row_count)
        var k = 0
        while k < Int(p.k_padded) {
            let end = min(k &+ depth, Int(p.k_padded))
            let groups = k / size..<min((end &+ size &- 1) / size, Int(p.group_count))
            var block = 0
            while block < Int(t.block_count) {
                let piece = TilePiece(k: k..<end, block: block, blocks: min(tileBlocks, Int(t.block_count) &- block), groups: groups)
                fillPanel(Unpacker.self, p, t, piece)
                addPiece(BFloatPairs.self, p, t, piece, rows: rows, starts: k == 0, waitsInTotals: true, &configuration)
                block &+= tileBlocks
            }
            k = end
        }
    }
}

/// One or two blocks on their way into the panel, 32 values of k at a time.
private struct DequantizedSteps<Unpacker: Dequantizer> {
    private var unpacker: Unpacker
    private let first: UnsafeRawPointer
    private let blockBytes: Int
    private let blocks: Int
    private var group = 0
    private var groupEnd: Int
    private var k = 0

    @inline(__always)
    init(_ p: i4q_product, _ t: i4q_tile, block: Int, step: Int) {
        unpacker = Unpacker(p)
        first = blockAddress(p, t, block)
        blockBytes = step &* Int(p.block_bytes)
        blocks = step > 0 ? 2 : 1
        groupEnd = Int(p.group_size)
    }

    /// A group is entered anew for each of its steps: with two blocks, keeping what that finds would take memory, and more time.
    @_transparent
    mutating func unpackStep(_ p: i4q_product, _ target: UnsafeMutableRawPointer) {
        let end = k &+ 32
        var target = target
        repeat {
            let count = min(end, groupEnd) &- k
            for b in 0..<blocks {
                let block = first + b &* blockBytes
                if group < Int(p.group_count) { unpacker.enter(p, block, group) } else { unpacker.enterPadding() }
                unpacker.unpack(block, k: k, count: count, target + b &* panelBlockBytes)
            }
            target += count &* Unpacker.bytesOfK
            k &+= count
            if k == groupEnd {
                group &+= 1
                groupEnd &+= Int(p.group_size)
            }
        } while k < end
    }
}

// MARK: Dequantizing

/// A code row becomes four rows of a tile: pairs of neighbours in k, the even ones in the low halves.
private protocol CodeRowUnpacker: TileUnpacker where Arithmetic == BFloatPairs {
    func unpackRow(_ packed: Words, _ target: UnsafeMutableRawPointer)
}

extension CodeRowUnpacker {
    @inline(__always)
    func unpack(_ block: UnsafeRawPointer, k: Int, count: Int, _ panel: UnsafeMutableRawPointer) {
        var source = block + k &* 8, target = panel
        for _ in 0..<count &>> 3 {
            i4q_prefetch(source + prefetchDistance)
            i4q_prefetch_far(source + farDistance)
            unpackRow(source.words(0), target)
            source += codeRowBytes
            target += 256
        }
    }
}

/// Where each pair is a permutation of its own.
private protocol PairUnpacker: CodeRowUnpacker {
    /// k 2 `pair` and 2 `pair` + 1 of each lane.
    func pairs(_ packed: Words, _ pair: UInt32) -> Register
}

extension PairUnpacker {
    @_transparent
    func unpackRow(_ packed: Words, _ target: UnsafeMutableRawPointer) {
        target.storeBytes(of: pairs(packed, 0), as: Register.self)
        target.storeBytes(of: pairs(packed, 1), toByteOffset: 64, as: Register.self)
        target.storeBytes(of: pairs(packed, 2), toByteOffset: 128, as: Register.self)
        target.storeBytes(of: pairs(packed, 3), toByteOffset: 192, as: Register.self)
    }
}

/// Weights that are dequantized.
private protocol Dequantizer: CodeRowUnpacker {
    /// Instead of a group, where there is none any more: all weights are zero.
    mutating func enterPadding()
}

extension Dequantizer {
    @_transparent func setColumns(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, _ panel: TilePanel, _ place: Int, _ b: Int) {}
}

/// scale * (code - zero point), scales of binary16. First bytes move to where a float's lane has them twice:
///
///     lane  2 j: k 0..3 of column j; 2 j + 1: k 4..7 of it
///     bits  31..24   23..20  19..16   15..12  11..8   7..0
///           -        -       k        k + 1   -       -           k and k + 1: a byte of the code row
///
/// With 2^7's exponent bits 16..19 make 2^7 + code, with 2^11's bits 12..15 make 2^11 + code, so that a fused multiply-add makes it a
/// weight: scale * (2^11 + zero point) has 23 bits and is exact. Lanes are in the order of pairs when they have been rounded.
private struct LinearWeights: Dequantizer {
    private var first = HalfColumns()
    private var second = HalfColumns()
    @inline(__always) init(_ p: i4q_product) {}

    @inline(__always)
    mutating func enter(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int) {
        let scale = loadColumnValues(block + Int(p.scales_offset), group, type: p.scale_type)
        let zero = p.kind == Kind.asymmetric ? i4q_float_from_i32(loadZeroPoints(block + Int(p.zeros_offset), group)) : Floats(repeating: 8)
        first = HalfColumns(scale, zero, from: 0)
        second = HalfColumns(scale, zero, from: 8)
    }

    @inline(__always)
    mutating func enterPadding() {
        first = HalfColumns()
        second = HalfColumns()
    }

    @_transparent
    func unpackRow(_ packed: Words, _ target: UnsafeMutableRawPointer) {
        let p = unsafeBitCast(packed, to: Register.self)
        let left = Register(p[0], p[1], p[0], p[1], p[2], p[3], p[2], p[3]), right = Register(p[4], p[5], p[4], p[5], p[6], p[7], p[6], p[7])
        unpackBytes(left, right, 0, target)
        unpackBytes(left, right, 1, target + 128)
    }

    /// Bytes `byte` and `byte` + 2 of each column, whose quarters of a register stand twice.
    @_transparent
    private func unpackBytes(_ left: Register, _ right: Register, _ byte: UInt32, _ target: UnsafeMutableRawPointer) {
        let places = Words(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14) &+ Words(repeating: byte)
        let index = unsafeBitCast(places &* Words(repeating: 0x0101_0101), to: Register.self)
        let ofFirst = unsafeBitCast(i4q_avx512_lookup_bytes(left, index), to: Words.self)
        let ofSecond = unsafeBitCast(i4q_avx512_lookup_bytes(right, index), to: Words.self)
        target.storeBytes(of: i4q_avx512_narrow_bf16(first.low(ofFirst), second.low(ofSecond)), as: Register.self)
        target.storeBytes(of: i4q_avx512_narrow_bf16(first.high(ofFirst), second.high(ofSecond)), toByteOffset: 64, as: Register.self)
    }
}

/// Eight columns' parameters, each for two lanes.
private struct HalfColumns {
    private var scale = Floats(repeating: 0)
    private var lowCentre = Floats(repeating: 0)
    private var highCentre = Floats(repeating: 0)
    @_transparent init() {}

    @_transparent
    init(_ scale: Floats, _ zero: Floats, from column: UInt32) {
        let index = unsafeBitCast(Words(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7) &+ Words(repeating: column), to: Register.self)
        let zero = i4q_avx512_permute(index, zero)
        self.scale = i4q_avx512_permute(index, scale)
        lowCentre = self.scale * (Floats(repeating: -0x1p7) - zero)
        highCentre = self.scale * (Floats(repeating: -0x1p11) - zero)
    }

    @_transparent
    func low(_ lanes: Words) -> Floats {
        fusedMultiplyAdd(floats(fromBits: lanes & Words(repeating: 0xf_0000) | Words(repeating: 0x4300_0000)), scale, lowCentre)
    }

    @_transparent
    func high(_ lanes: Words) -> Floats {
        fusedMultiplyAdd(floats(fromBits: lanes & Words(repeating: 0xf000) | Words(repeating: 0x4500_0000)), scale, highCentre)
    }
}

/// Every kind and every type of scales: fma(scale, value + shift, offset) of code - 8 or a codebook's value.
private struct TableWeights: Dequantizer, PairUnpacker {
    private let table: Floats
    private var scale = Floats(repeating: 0)
    /// 8 - zero point, or 8; the sum is exact.
    private var shift = Floats(repeating: 0)
    private var offset = Floats(repeating: 0)

    @inline(__always) init(_ p: i4q_product) { table = codeValues(p.codebook) }

    @inline(__always)
    mutating func enter(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int) {
        scale = loadColumnValues(block + Int(p.scales_offset), group, type: p.scale_type)
        if p.kind == Kind.asymmetric {
            shift = i4q_float_from_i32(Ints(repeating: 8) &- loadZeroPoints(block + Int(p.zeros_offset), group))
        } else if p.kind == Kind.offset {
            shift = Floats(repeating: 8)
            offset = loadColumnValues(block + Int(p.zeros_offset), group, type: p.scale_type)
        }
    }

    @inline(__always)
    mutating func enterPadding() {
        scale = Floats(repeating: 0)
        shift = Floats(repeating: 0)
        offset = Floats(repeating: 0)
    }

    /// Permutations read the low four bits of each index.
    @_transparent
    private func weights(_ packed: Words, _ bits: UInt32) -> Floats {
        let value = i4q_avx512_permute(unsafeBitCast(packed &>> Words(repeating: bits), to: Register.self), table)
        return fusedMultiplyAdd(scale, value + shift, offset)
    }

    @_transparent
    func pairs(_ packed: Words, _ pair: UInt32) -> Register {
        i4q_avx512_pairs_of_bf16(weights(packed, 4 &* pair), weights(packed, 4 &* pair &+ 16))
    }
}

// MARK: Exact codes

/// Codes less 8 or less their zero points, or a codebook's values, rounded.
private struct ExactCodes: GroupUnpacker, PairUnpacker {
    static var isCommon: Bool { true }
    /// Where zero points are subtracted, the integers 0 .. 15 and -16 .. -1.
    private let codes: BFloatCodes
    private let isShifted: Bool
    /// Zero points, in both halves of a lane.
    private var zeroPoints = Register(repeating: 0)

    @inline(__always)
    init(_ p: i4q_product) {
        isShifted = p.kind == Kind.asymmetric
        let linear = codeValues(nil)
        codes = isShifted ? BFloatCodes(linear + Floats(repeating: 8), linear - Floats(repeating: 8)) : BFloatCodes(codebook: p.codebook)
    }

    @inline(__always)
    mutating func enter(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int) {
        if !isShifted { return }
        let points = unsafeBitCast(loadZeroPoints(block + Int(p.zeros_offset), group), to: Words.self)
        zeroPoints = unsafeBitCast(points | points &<< Words(repeating: 16), to: Register.self)
    }

    @_transparent
    func pairs(_ packed: Words, _ pair: UInt32) -> Register {
        if !isShifted { return codes.bfloats(packed, pair: pair) }
        let nibbles = unsafeBitCast(packed &>> Words(repeating: 4 &* pair), to: Register.self) & Register(repeating: 0x000f_000f_000f_000f)
        return codes.bfloats(i4q_avx512_subtract_halves(nibbles, zeroPoints))
    }

    @inline(__always)
    func columns(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, _ scale: Floats) -> (scale: Floats, extra: Words) {
        (scale: scale, extra: Words(repeating: 0))
    }
}
