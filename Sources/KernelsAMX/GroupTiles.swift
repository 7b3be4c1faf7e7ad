// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Groups that fit into the panel. For each, and for each 32 rows, sums leave the tiles to be scaled; tiles and vectors work at
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
    typealias Arithmetic = Scaling.Arithmetic

    /// `rows` are a multiple of `rowsAtATime`, for which tiles are configured.
    @inline(never)
    static func run(_ p: i4q_product, _ t: i4q_tile, _ piece: TilePiece, rows: Range<Int>, rowsAtATime: Int, stepBytes: Int) {
        let shape = TileShape(rows: rowsAtATime, hasSecondBlock: piece.blocks > 1)
        let panel = TilePanel(t), activations = TileActivations(p), scaling = Scaling(p), groups = piece.groups.count
        let turns = rows.count / rowsAtATime &* groups
        let share = (rowsAtATime &+ shape.sums &- 1) / shape.sums
        let groupBytes = Int(p.group_size) &* Arithmetic.elementBytes, pieceBytes = piece.k.count &* Arithmetic.elementBytes
        var multiplied = Turn(row: rows.lowerBound), scaled = multiplied
        var work = sums(p, t, panel, piece, scaled, 0), ahead = activations.ahead(p, t, piece, multiplied.row, Arithmetic.self)
        for index in 0..<turns &+ 2 {
            let multiplies = index < turns, stores = index > 0 && index <= turns, scales = index > 1
            let begin = multiplied.group &* groupBytes
            let offset = piece.k.lowerBound &* Arithmetic.elementBytes &+ begin
            let weights = UnsafeRawPointer(panel.base + begin &* 16)
            let steps = multiplies ? (min(groupBytes, pieceBytes &- begin) &+ stepBytes &- 1) / stepBytes : 0
            let target = TileSums(panel, turn: index &- 1)
            if scales {
                work = sums(p, t, panel, piece, scaled, index)
                scaled.advance(groups, rowsAtATime)
            }
            if multiplies {
                if multiplied.group == 0 { ahead = activations.ahead(p, t, piece, multiplied.row, Arithmetic.self) }
                ahead.ask()
                shape.load(activations.at(row: Int(t.row_begin) &+ multiplied.row, offset), activations.rowStride, weights)
            }
            var next = 0
            slot(target, 0, 0, 0, stores, multiplies)
            next = scale(scaling, work, next, share, shape, scales)
            if shape.hasSecondBlock {
                slot(target, 1, 0, 1, stores, multiplies)
                next = scale(scaling, work, next, share, shape, scales)
            }
            if shape.hasSecondHalf {
                slot(target, 2, 1, 0, stores, multiplies)
                next = scale(scaling, work, next, share, shape, scales)
                if shape.hasSecondBlock {
                    slot(target, 3, 1, 1, stores, multiplies)
                    next = scale(scaling, work, next, share, shape, scales)
                }
            }
            var step = 1
            while step < steps {
                let x = activations.at(row: Int(t.row_begin) &+ multiplied.row, offset &+ step &* stepBytes)
                ahead.ask()
                shape.load(x, activations.rowStride, weights + step &* stepBytes &* 16)
                shape.multiply(Arithmetic.self)
                step &+= 1
            }
            multiplied.advance(groups, rowsAtATime)
        }
    }

    /// What one tile does in a turn but for scaling.
    @_transparent
    private static func slot(_ target: TileSums, _ tile: Int32, _ half: Int, _ block: Int, _ stores: Bool, _ multiplies: Bool) {
        if stores { target.store(tile, half, block) }
        if multiplies {
            i4q_tile_zero(tile)
            Arithmetic.multiply(tile)
        }
    }

    /// The next rows' share; returns where it ends.
    @_transparent
    private static func scale(_ scaling: Scaling, _ work: GroupSums<Scaling>, _ begin: Int, _ share: Int, _ shape: TileShape, _ scales: Bool) -> Int {
        let end = min(begin &+ share, shape.rows)
        if scales { work.scale(scaling, begin..<end, hasSecondBlock: shape.hasSecondBlock) }
        return end
    }

    @inline(__always)
    private static func sums(_ p: i4q_product, _ t: i4q_tile, _ panel: TilePanel, _ piece: TilePiece, _ turn: Turn, _ index: Int) -> GroupSums<Scaling> {
        GroupSums(p, t, TileSums(panel, turn: index), group: piece.groups.lowerBound &+ turn.group, row: turn.row, block: piece.block,
                  blockStep: 1, place: turn.group)
    }
}
