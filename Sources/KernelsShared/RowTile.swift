// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// F32 mode with codebooks of rows, and with codes that are no nibbles. Each lane has a table of its own, which no permutation of one
// register reads: decoding takes longer than multiplying a few rows. (Other widths could do with less; they are here so that there is
// one product for all of them.) So a piece of k of some blocks is decoded once, by one copy of the code, and used for all
// rows of the tile. Same operations in the same order as the other products. A group may be longer than a piece; its sums so far
// then wait in memory.
//
//     panel:  [k of the piece][block] 64 bytes each: decoded weights
//             [row][block] 64 bytes each: sums of a group that goes on
//             [block] 1024 bytes each: room for tables
//
// With two blocks and the 256 rows that a tile has at most these are 50 KiB of I4Q_PANEL_BYTES.

/// A product that covers tiles by itself.
protocol WholeTile {
    static func run(_ p: i4q_product, _ t: i4q_tile)
}

/// Values of k in a piece: with many rows, as many as the first-level cache has room for; with a few, so few that the processor
/// begins to decode the next ones before the sums of these, each waiting for the one before, are complete.
private let deepPiece = 128, shallowPiece = 32

private struct RowPiece {
    var k: Range<Int>
    /// Where all of k ends.
    let end: Int
    /// In which the piece begins.
    var group = 0
}

enum RowTile<let rows: Int, let blocks: Int>: WholeTile {
    @inline(never)
    static func run(_ p: i4q_product, _ t: i4q_tile) {
        var block = 0
        while block < Int(t.block_count) {
            if blocks > 1 && Int(t.block_count) &- block >= blocks {
                RowBlocks<rows, blocks>.run(p, t, block: block)
                block &+= blocks
            } else {
                RowBlocks<rows, 1>.run(p, t, block: block)
                block &+= 1
            }
        }
    }
}

/// Some blocks of a tile, all of its rows: `rows` at a time and the last ones alone.
private enum RowBlocks<let rows: Int, let blocks: Int> {
    @inline(__always)
    static func run(_ p: i4q_product, _ t: i4q_tile, block: Int) {
        let panel = t.panel.unsafelyUnwrapped
        let weights = UnsafeRawPointer(p.blocks.unsafelyUnwrapped) + (Int(t.block_begin) &+ block) &* Int(p.block_bytes)
        let sums = panel + deepPiece &* blocks &* 64
        let room = sums + Int(t.row_count) &* blocks &* 64
        if p.codebooks_offset != 0 { for b in 0..<blocks { RowLookup.prepare(tables(p, weights, b), room + b &* 1024) } }
        let depth = Int(t.row_count) < rows ? shallowPiece : deepPiece
        var piece = RowPiece(k: 0..<0, end: min(Int(p.group_count) &* Int(p.group_size), Int(p.k_padded)))
        while piece.k.upperBound < piece.end {
            piece.k = piece.k.upperBound..<min(piece.k.upperBound &+ depth, piece.end)
            while (piece.group &+ 1) &* Int(p.group_size) <= piece.k.lowerBound { piece.group &+= 1 }
            for b in 0..<blocks {
                let block = weights + b &* Int(p.block_bytes), target = panel + b &* 64
                if p.codebooks_offset == 0 {
                    decodePiece(block, piece.k, p, into: target, stride: blocks &* 64)
                } else {
                    decodePiece(block, piece.k, tables: tables(p, weights, b), room + b &* 1024, into: target, stride: blocks &* 64)
                }
            }
            multiply(p, t, weights, piece, panel, sums, block)
        }
    }

    @inline(__always)
    private static func tables(_ p: i4q_product, _ weights: UnsafeRawPointer, _ b: Int) -> UnsafeRawPointer {
        weights + (b &* Int(p.block_bytes) &+ Int(p.codebooks_offset))
    }

    @inline(__always)
    private static func multiply(_ p: i4q_product, _ t: i4q_tile, _ weights: UnsafeRawPointer, _ piece: RowPiece,
                                 _ panel: UnsafeMutableRawPointer, _ sums: UnsafeMutableRawPointer, _ block: Int) {
        var row = 0
        while row < Int(t.row_count) {
            let x = UnsafeRawPointer(p.prepared.unsafelyUnwrapped) + (Int(t.row_begin) &+ row) &* Int(p.prepared_row_bytes)
            let out = t.out.unsafelyUnwrapped + (row &* Int(t.out_stride) &+ block &* lanes)
            let waiting = sums + row &* blocks &* 64
            if Int(t.row_count) &- row >= rows {
                RowSums<rows, blocks>.add(p, weights, piece, panel, x, out, Int(t.out_stride), waiting)
                row &+= rows
            } else {
                RowSums<1, blocks>.add(p, weights, piece, panel, x, out, Int(t.out_stride), waiting)
                row &+= 1
            }
        }
    }
}

/// The one place where codes become weights.
@inline(never)
private func decodePiece(_ block: UnsafeRawPointer, _ piece: Range<Int>, tables: UnsafeRawPointer, _ room: UnsafeRawPointer,
                         into panel: UnsafeMutableRawPointer, stride: Int) {
    var k = piece.lowerBound, target = panel
    while k < piece.upperBound {
        RowLookup.decode(block + k &* 8, tables, room, into: target, stride: stride)
        target += codeRowDepth &* stride
        k &+= codeRowDepth
    }
}

/// Linear codes of 1, 2 and 8 bits, less their middle. Four values of k at a time: a byte each of every lane.
@inline(never)
private func decodePiece(_ block: UnsafeRawPointer, _ piece: Range<Int>, _ p: i4q_product, into panel: UnsafeMutableRawPointer, stride: Int) {
    let bits = Int(p.code_bits), perRow = 8 / bits
    let mask = Words(repeating: (1 &<< UInt32(truncatingIfNeeded: bits)) &- 1)
    let shift = Words(repeating: p.kind == Kind.binary ? 1 : 0)
    let middle = Ints(repeating: bits == 8 ? 128 : 1)
    var part = piece.lowerBound / 4, target = panel
    while part < piece.upperBound / 4 {
        let row = part &* bits / 8
        let words = block.words(row &* codeRowBytes) &>> Words(repeating: UInt32(truncatingIfNeeded: (part &- row &* perRow) &* bits))
        // k 0 4 1 5 of eight, then k 2 6 3 7.
        let first = target + (part & 1) &* 2 &* stride
        for byte in 0..<4 {
            let codes = (words &>> Words(repeating: UInt32(truncatingIfNeeded: 8 &* byte))) & mask
            let values = i4q_float_from_i32(unsafeBitCast(codes &<< shift, to: Ints.self) &- middle)
            first.storeBytes(of: values, toByteOffset: ((byte & 1) &* 4 &+ byte / 2) &* stride, as: Floats.self)
        }
        if part & 1 == 1 { target += codeRowDepth &* stride }
        part &+= 1
    }
}

private enum RowSums<let rows: Int, let blocks: Int> {
    typealias Accumulators = InlineArray<blocks, InlineArray<rows, Floats>>
    typealias Totals = TotalsInMemory<rows, blocks>

    @inline(never)
    static func add(_ p: i4q_product, _ weights: UnsafeRawPointer, _ piece: RowPiece, _ panel: UnsafeRawPointer,
                    _ x: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>, _ outStride: Int, _ waiting: UnsafeMutableRawPointer) {
        let totals = Totals(out, stride: outStride, step: 1, isFirst: piece.k.lowerBound == 0)
        let sums = UnsafeMutablePointer<Float>(OpaquePointer(waiting))
        let kept = Totals(sums, stride: blocks &* lanes, step: 1, isFirst: false)
        let groupSize = Int(p.group_size)
        var group = piece.group
        var dots = Accumulators(repeating: .init(repeating: Floats(repeating: 0)))
        if group &* groupSize != piece.k.lowerBound { dots = kept.load() }
        var k = piece.k.lowerBound, values = panel
        while k < piece.k.upperBound {
            let groupEnd = min((group &+ 1) &* groupSize, piece.end)
            let stop = min(groupEnd, piece.k.upperBound)
            while k < stop {
                multiplyAdd(&dots, values, x + k &* 4, Int(p.prepared_row_bytes))
                values += blocks &* 64
                k &+= 1
            }
            if stop < groupEnd { return kept.store(dots) }
            let sums = x + (Int(p.prepared_sums_offset) &+ group &* 4)
            scale(0, totals, dots[0], p, group, weights, sums)
            if blocks > 1 { scale(1, totals, dots[1], p, group, weights + Int(p.block_bytes), sums) }
            dots = Accumulators(repeating: .init(repeating: Floats(repeating: 0)))
            group &+= 1
        }
    }

    @inline(__always)
    private static func multiplyAdd(_ dots: inout Accumulators, _ values: UnsafeRawPointer, _ x: UnsafeRawPointer, _ xStride: Int) {
        var vectors = InlineArray<blocks, Floats>(repeating: Floats(repeating: 0))
        for b in 0..<blocks { vectors[b] = values.floats(b &* 64) }
        for r in 0..<rows {
            let activation = Floats(repeating: x.float(r &* xStride))
            for b in 0..<blocks { dots[b][r] = fusedMultiplyAdd(activation, vectors[b], dots[b][r]) }
        }
    }

    @inline(__always)
    private static func scale(_ b: Int, _ totals: Totals, _ dots: InlineArray<rows, Floats>, _ p: i4q_product, _ group: Int,
                              _ block: UnsafeRawPointer, _ sums: UnsafeRawPointer) {
        let scale = loadColumnValues(block + Int(p.scales_offset), group, type: p.scale_type)
        addGroup(dots, to: totals, b, p, scale: scale, centre: loadCentre(p, block, group, scale, middle: 128), sums)
    }
}
