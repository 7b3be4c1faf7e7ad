// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// BF16 mode in tiles: weights are dequantized and rounded, and sums run over all of k in steps of 32, groups notwithstanding.

func multiplyBF16Tiles(_ p: i4q_product, _ t: i4q_tile) {
    if p.kind == Kind.asymmetric {
        CoverSums<Dequantizer<ShiftedWeights>>.run(p, t)
    } else if p.kind == Kind.offset {
        CoverSums<Dequantizer<OffsetWeights>>.run(p, t)
    } else {
        CoverSums<Dequantizer<ScaledWeights>>.run(p, t)
    }
}

/// A tile of the result: pieces of weights are dequantized, and each is used for all rows.
private enum CoverSums<Unpacker: TileUnpacker> {
    @inline(never)
    static func run(_ p: i4q_product, _ t: i4q_tile) {
        var configuration = TileConfiguration()
        if Int(t.row_count) <= tileRows { coverFewRows(p, t, &configuration) } else { coverPieces(p, t, &configuration) }
        configuration.release()
    }

    /// The two blocks of a pair lie apart, so that each is a stream from memory that goes on into the block behind it.
    @inline(__always)
    private static func coverFewRows(_ p: i4q_product, _ t: i4q_tile, _ configuration: inout TileConfiguration) {
        let blocks = Int(t.block_count), pairs = blocks / tileBlocks
        configuration.set(rows: Int(t.row_count), stepBytes: tileRowBytes)
        for pair in 0..<pairs { coverFewRows(p, t, block: pair, step: pairs) }
        if pairs &* tileBlocks < blocks { coverFewRows(p, t, block: blocks &- 1, step: 0) }
    }

    @inline(never)
    private static func coverFewRows(_ p: i4q_product, _ t: i4q_tile, block: Int, step: Int) {
        let shape = TileShape(rows: Int(t.row_count), hasSecondBlock: step > 0), panel = TilePanel(t), activations = TileActivations(p)
        var ahead = UnpackAhead<Unpacker>(p, t, block: block, step: step, depth: 32)
        shape.eachSum { tile, _, _ in i4q_tile_zero(tile) }
        for place in 0..<Int(p.k_padded) / 32 {
            ahead.unpackStep(p, panel)
            shape.load(activations.at(row: Int(t.row_begin), place &* 64), activations.rowStride, UnsafeRawPointer(panel.step(place)))
            shape.multiply(BFloatPairs.self)
        }
        let stride = Int(t.out_stride) &* 4, totals = UnsafeMutableRawPointer(t.out.unsafelyUnwrapped) + block &* tileRowBytes
        shape.eachSum { tile, half, b in i4q_tile_store(tile, totals + (half &* 16 &* stride &+ b &* step &* tileRowBytes), Int64(stride)) }
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

// MARK: Dequantizing

/// What a value of codes (code - 8, or a codebook's) becomes in one group.
private protocol GroupWeights {
    init()
    init(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, scale: Floats)
    func weights(_ values: Floats) -> Floats
}

private struct ScaledWeights: GroupWeights {
    private var scale = Floats(repeating: 0)
    @_transparent init() {}
    @_transparent init(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, scale: Floats) { self.scale = scale }
    @_transparent func weights(_ values: Floats) -> Floats { scale * values }
}

private struct ShiftedWeights: GroupWeights {
    private var scale = Floats(repeating: 0)
    /// 8 - zero point: the sum is exact.
    private var shift = Floats(repeating: 0)
    @_transparent init() {}

    @_transparent
    init(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, scale: Floats) {
        self.scale = scale
        shift = i4q_float_from_i32(Ints(repeating: 8) &- loadZeroPoints(block + Int(p.zeros_offset), group))
    }

    @_transparent func weights(_ values: Floats) -> Floats { scale * (values + shift) }
}

private struct OffsetWeights: GroupWeights {
    private var scale = Floats(repeating: 0)
    private var offset = Floats(repeating: 0)
    @_transparent init() {}

    @_transparent
    init(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, scale: Floats) {
        self.scale = scale
        offset = loadColumnValues(block + Int(p.zeros_offset), group, type: p.scale_type)
    }

    @_transparent func weights(_ values: Floats) -> Floats { fusedMultiplyAdd(scale, values + Floats(repeating: 8), offset) }
}

/// A code row becomes four rows of a tile: pairs of neighbours in k.
private struct Dequantizer<Weights: GroupWeights>: TileUnpacker {
    typealias Arithmetic = BFloatPairs
    static var scalesGroups: Bool { false }
    static var isCommon: Bool { true }
    private let table: Floats
    private var group = Weights()

    @inline(__always)
    init(_ p: i4q_product) {
        table = p.codebook.map { UnsafeRawPointer($0).floats(0) } ?? Floats(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7)
    }

    @inline(__always)
    mutating func enter(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int) {
        self.group = Weights(p, block, group, scale: loadColumnValues(block + Int(p.scales_offset), group, type: p.scale_type))
    }

    @inline(__always)
    func unpack(_ block: UnsafeRawPointer, k: Int, count: Int, _ panel: UnsafeMutableRawPointer) {
        var source = block + k &* 8, target = panel
        for _ in 0..<count &>> 3 {
            i4q_prefetch(source + prefetchDistance)
            i4q_prefetch_far(source + farDistance)
            let packed = source.words(0)
            dequantizePair(packed, 0, target)
            dequantizePair(packed, 1, target + 64)
            dequantizePair(packed, 2, target + 128)
            dequantizePair(packed, 3, target + 192)
            source += codeRowBytes
            target += 256
        }
    }

    /// Permutations read the low four bits of each index.
    @_transparent
    private func dequantizePair(_ packed: Words, _ pair: UInt32, _ target: UnsafeMutableRawPointer) {
        let even = unsafeBitCast(packed &>> Words(repeating: 4 &* pair), to: Register.self)
        let odd = unsafeBitCast(packed &>> Words(repeating: 4 &* pair &+ 16), to: Register.self)
        let pairs = i4q_avx512_pairs_of_bf16(group.weights(i4q_avx512_permute(even, table)), group.weights(i4q_avx512_permute(odd, table)))
        target.storeBytes(of: pairs, as: Register.self)
    }

    @inline(__always)
    func columns(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, _ scale: Floats) -> (scale: Floats, extra: Words) {
        (scale: scale, extra: Words(repeating: 0))
    }
}
