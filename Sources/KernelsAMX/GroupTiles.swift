// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// INT8 mode, groups that fit into the panel. For each, and for each 32 rows, sums leave the tiles to be scaled; tiles and vectors work at
// the same time if their instructions alternate, so three groups are under way at once:
//
//     turn i:   tile 0          tile 1          tile 2          tile 3
//               store i-1       store i-1       store i-1       store i-1         the sums of the group before
//               zero, multiply  zero, multiply  zero, multiply  zero, multiply    this group's products
//               scale i-2       scale i-2       scale i-2       scale i-2         a share of the rows each
//
// A tile is stored a whole turn after it was multiplied, when nobody has to wait for it.

/// Groups of a piece, for row after row of tiles: one turn for each.
private struct Turn {
    var group = 0
    /// Within the tile.
    var row: Int

    @_transparent
    mutating func advance(_ groups: Int, _ rows: Int) {
        group &+= 1
        if group < groups { return }
        group = 0
        row &+= rows
    }
}

enum GroupTiles<Scaling: TileScaling> {
    /// `rows` are a multiple of `rowsAtATime`, for which tiles are configured.
    @inline(never)
    static func run(_ p: i4q_product, _ t: i4q_tile, _ piece: TilePiece, rows: Range<Int>, rowsAtATime: Int, stepBytes: Int) {
        let shape = TileShape(rows: rowsAtATime, hasSecondBlock: piece.blocks > 1)
        let panel = TilePanel(t), activations = TileActivations(p), scaling = Scaling(p), groups = piece.groups.count
        let turns = rows.count / rowsAtATime &* groups
        let share = (rowsAtATime &+ shape.sums &- 1) / shape.sums
        let groupBytes = Int(p.group_size), pieceBytes = piece.k.count
        var multiplied = Turn(row: rows.lowerBound), scaled = multiplied
        var work = sums(p, t, panel, piece, scaled, 0)
        for index in 0..<turns &+ 2 {
            let multiplies = index < turns, stores = index > 0 && index <= turns, scales = index > 1
            let begin = multiplied.group &* groupBytes
            let offset = piece.k.lowerBound &+ begin
            let weights = UnsafeRawPointer(panel.base + begin &* 16)
            let steps = multiplies ? (min(groupBytes, pieceBytes &- begin) &+ stepBytes &- 1) / stepBytes : 0
            let target = panel.sums(index &- 1)
            if scales {
                work = sums(p, t, panel, piece, scaled, index)
                scaled.advance(groups, rowsAtATime)
            }
            if multiplies { shape.load(activations.at(row: Int(t.row_begin) &+ multiplied.row, offset), activations.rowStride, weights) }
            var next = 0
            slot(0, target, 0, stores, multiplies)
            next = scale(scaling, work, next, share, shape, scales)
            if shape.hasSecondBlock {
                slot(1, target, tileRowBytes, stores, multiplies)
                next = scale(scaling, work, next, share, shape, scales)
            }
            if shape.hasSecondHalf {
                slot(2, target, 16 &* tileBlocks &* tileRowBytes, stores, multiplies)
                next = scale(scaling, work, next, share, shape, scales)
                if shape.hasSecondBlock {
                    slot(3, target, (16 &* tileBlocks &+ 1) &* tileRowBytes, stores, multiplies)
                    next = scale(scaling, work, next, share, shape, scales)
                }
            }
            var step = 1
            while step < steps {
                let x = activations.at(row: Int(t.row_begin) &+ multiplied.row, offset &+ step &* stepBytes)
                shape.load(x, activations.rowStride, weights + step &* stepBytes &* 16)
                shape.multiply(SignedBytes.self)
                step &+= 1
            }
            multiplied.advance(groups, rowsAtATime)
        }
    }

    /// What one tile does in a turn but for scaling.
    @_transparent
    private static func slot(_ tile: Int32, _ target: UnsafeMutableRawPointer, _ place: Int, _ stores: Bool, _ multiplies: Bool) {
        if stores { i4q_tile_store(tile, target + place, Int64(tileBlocks &* tileRowBytes)) }
        if multiplies {
            i4q_tile_zero(tile)
            SignedBytes.multiply(tile)
        }
    }

    /// The next rows' share; returns where it ends.
    @_transparent
    private static func scale(_ scaling: Scaling, _ work: GroupSums, _ begin: Int, _ share: Int, _ shape: TileShape, _ scales: Bool) -> Int {
        let end = min(begin &+ share, shape.rows)
        if scales { work.scale(scaling, begin..<end, hasSecondBlock: shape.hasSecondBlock) }
        return end
    }

    @inline(__always)
    private static func sums(_ p: i4q_product, _ t: i4q_tile, _ panel: TilePanel, _ piece: TilePiece, _ turn: Turn, _ index: Int) -> GroupSums {
        let stride = Int(t.out_stride) &* 4, activations = TileActivations(p)
        let totals = UnsafeMutableRawPointer(t.out.unsafelyUnwrapped) + (turn.row &* stride &+ piece.block &* tileRowBytes)
        let group = piece.groups.lowerBound &+ turn.group, isFirst = group == 0
        let row = activations.at(row: Int(t.row_begin) &+ turn.row, Int(p.prepared_scales_offset) &+ group &* 8)
        return GroupSums(sums: UnsafeRawPointer(panel.sums(index)), sumsStride: tileBlocks &* tileRowBytes, totals: totals, totalsStride: stride, secondTotals: tileRowBytes,
                         before: isFirst ? panel.zeros : UnsafeRawPointer(totals), beforeStride: isFirst ? 0 : stride, secondBefore: isFirst ? 0 : tileRowBytes,
                         columns: UnsafeRawPointer(panel.columns(turn.group)), row: row, rowStride: activations.rowStride)
    }
}
