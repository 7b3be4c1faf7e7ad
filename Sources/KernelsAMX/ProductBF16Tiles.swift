// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// BF16 mode in tiles: weights are dequantized into a panel, a piece of k at a time, and used for all rows. Sums run over all of
// k in steps of 32, whatever the pieces: between two of them they wait as floats where the results will stand.

/// Values of k in a piece, and the panel's bytes of one block.
private let pieceDepth = Int(I4Q_PANEL_BYTES) / (tileBlocks &* bytesOfK) / 32 &* 32
private let pieceBytes = pieceDepth &* bytesOfK
/// Panel bytes of one value of k for a block: 16 columns of bfloat16.
private let bytesOfK = 32

func multiplyBF16Tiles(_ p: i4q_product, _ t: i4q_tile) {
    var configuration = TileConfiguration()
    // Few rows: straight through each pair of blocks, a stream from memory. Many: a piece of x stays in the cache for all blocks.
    let blocks = Int(t.block_count), width = Int(t.row_count) <= tileRows ? tileBlocks : blocks
    var block = 0
    while block < blocks {
        coverBlocks(p, t, block..<min(block &+ width, blocks), &configuration)
        block &+= width
    }
    configuration.release()
}

@inline(__always)
private func coverBlocks(_ p: i4q_product, _ t: i4q_tile, _ blocks: Range<Int>, _ configuration: inout TileConfiguration) {
    var k = 0
    while k < Int(p.k_padded) {
        let piece = k..<min(k &+ pieceDepth, Int(p.k_padded))
        var block = blocks.lowerBound
        while block < blocks.upperBound {
            let count = min(tileBlocks, blocks.upperBound &- block)
            for b in 0..<count { fill(p, t, block &+ b, piece, t.panel.unsafelyUnwrapped + b &* pieceBytes) }
            coverRows(p, t, block, count, piece, &configuration)
            block &+= count
        }
        k = piece.upperBound
    }
}

@inline(__always)
private func coverRows(_ p: i4q_product, _ t: i4q_tile, _ block: Int, _ blocks: Int, _ piece: Range<Int>,
                       _ configuration: inout TileConfiguration) {
    var row = 0
    while row < Int(t.row_count) {
        let rows = min(tileRows, Int(t.row_count) &- row)
        configuration.set(rows: rows)
        switch (rows > 16, blocks > 1) {
        case (true, true): PieceProduct<2, 2>.run(p, t, row, block, piece)
        case (true, false): PieceProduct<2, 1>.run(p, t, row, block, piece)
        case (false, true): PieceProduct<1, 2>.run(p, t, row, block, piece)
        case (false, false): PieceProduct<1, 1>.run(p, t, row, block, piece)
        }
        row &+= tileRows
    }
}

private enum BFloatPairs: TileArithmetic {
    @inline(__always) static func multiply(_ sum: Int32) { i4q_tile_multiply_bf16(sum) }
}

private enum PieceProduct<let rowTiles: Int, let blocks: Int> {
    typealias Tiles = TileProduct<BFloatPairs, rowTiles, blocks>

    @inline(never)
    static func run(_ p: i4q_product, _ t: i4q_tile, _ row: Int, _ block: Int, _ piece: Range<Int>) {
        let xStride = Int(p.prepared_row_bytes), stride = Int(t.out_stride) &* 4
        let x = UnsafeRawPointer(p.prepared.unsafelyUnwrapped) + ((Int(t.row_begin) &+ row) &* xStride &+ piece.lowerBound &* 2)
        let totals = UnsafeMutableRawPointer(t.out.unsafelyUnwrapped) + (row &* stride &+ block &* 64)
        if piece.lowerBound == 0 { Tiles.zero() } else { Tiles.load(totals, stride) }
        Tiles.add(x, xStride, t.panel.unsafelyUnwrapped, blockBytes: pieceBytes, steps: piece.count / 32)
        Tiles.store(totals, stride)
    }
}

// MARK: Dequantizing

@inline(__always)
private func fill(_ p: i4q_product, _ t: i4q_tile, _ block: Int, _ piece: Range<Int>, _ panel: UnsafeMutableRawPointer) {
    let weights = UnsafeRawPointer(p.blocks.unsafelyUnwrapped) + (Int(t.block_begin) &+ block) &* Int(p.block_bytes)
    if p.codebook == nil {
        Dequantizer<LinearCodes>.fill(p, weights, piece, panel)
    } else {
        Dequantizer<TableCodes>.fill(p, weights, piece, panel)
    }
}

/// What a code's value (code - 8, or a codebook's) becomes in one group.
private protocol GroupWeights {
    @inline(__always) func weights(_ values: Floats) -> Floats
}

private struct ScaledWeights: GroupWeights {
    let scale: Floats
    @inline(__always) func weights(_ values: Floats) -> Floats { scale * values }
}

private struct ShiftedWeights: GroupWeights {
    let scale: Floats
    /// 8 - zero point: the sum is exact.
    let shift: Floats
    @inline(__always) func weights(_ values: Floats) -> Floats { scale * (values + shift) }
}

private struct OffsetWeights: GroupWeights {
    let scale: Floats
    let offset: Floats
    @inline(__always)
    func weights(_ values: Floats) -> Floats { fusedMultiplyAdd(scale, values + Floats(repeating: 8), offset) }
}

private enum Dequantizer<Codes: CodeReader> {
    @inline(never)
    static func fill(_ p: i4q_product, _ block: UnsafeRawPointer, _ piece: Range<Int>, _ panel: UnsafeMutableRawPointer) {
        let codes = Codes(codebook: p.codebook)
        let groupSize = Int(p.group_size)
        // The last group may end before the padding does. There x is zero, but what is left in a panel may be NaN.
        let end = min(piece.upperBound, Int(p.group_count) &* groupSize)
        var k = piece.lowerBound
        while k < end {
            let group = k / groupSize
            let groupEnd = min((group &+ 1) &* groupSize, end)
            fillGroup(p, block, group, k..<groupEnd, codes, panel + (k &- piece.lowerBound) &* bytesOfK)
            k = groupEnd
        }
        zeroBytes(panel, from: (end &- piece.lowerBound) &* bytesOfK, to: piece.count &* bytesOfK)
    }

    @inline(__always)
    private static func fillGroup(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, _ k: Range<Int>, _ codes: Codes,
                                  _ panel: UnsafeMutableRawPointer) {
        let scale = loadColumnValues(block + Int(p.scales_offset), group, type: p.scale_type)
        if p.kind == Kind.asymmetric {
            let shift = i4q_float_from_i32(Ints(repeating: 8) &- loadZeroPoints(block + Int(p.zeros_offset), group))
            decode(block, k, codes, ShiftedWeights(scale: scale, shift: shift), panel)
        } else if p.kind == Kind.offset {
            let offset = loadColumnValues(block + Int(p.zeros_offset), group, type: p.scale_type)
            decode(block, k, codes, OffsetWeights(scale: scale, offset: offset), panel)
        } else {
            decode(block, k, codes, ScaledWeights(scale: scale), panel)
        }
    }

    @inline(__always)
    private static func decode<Weights: GroupWeights>(_ block: UnsafeRawPointer, _ k: Range<Int>, _ codes: Codes, _ group: Weights,
                                                      _ panel: UnsafeMutableRawPointer) {
        var source = block + k.lowerBound &* 8
        var target = panel
        for _ in 0..<k.count / codeRowDepth {
            i4q_prefetch(source + prefetchDistance)
            let packed = source.words(0)
            decodePair(packed, 0, codes, group, target)
            decodePair(packed, 1, codes, group, target + 64)
            decodePair(packed, 2, codes, group, target + 128)
            decodePair(packed, 3, codes, group, target + 192)
            source += codeRowBytes
            target += codeRowDepth &* bytesOfK
        }
    }

    @inline(__always)
    private static func decodePair<Weights: GroupWeights>(_ packed: Words, _ pair: UInt32, _ codes: Codes, _ group: Weights,
                                                          _ target: UnsafeMutableRawPointer) {
        let values = codes.values(packed, pair: pair)
        let pairs = i4q_avx512_pairs_of_bf16(group.weights(values.even), group.weights(values.odd))
        target.storeBytes(of: pairs, as: Register.self)
    }
}
