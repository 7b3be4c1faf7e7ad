// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Groups that fit into the panel. For each, and for each 32 rows, sums leave the tiles to be scaled. So that nobody waits
// for anybody, three groups are under way at once:
//
//     turn i:   each tile: store its sums of group i - 1, zero, multiply by group i; scale the sums of group i - 2
//
// A tile is stored a whole turn after it was multiplied, when nobody has to wait for it. (Scaling a share of the rows after each tile
// is no faster.)

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
        let groupBytes = Int(p.group_size) &* Arithmetic.elementBytes, pieceBytes = piece.k.count &* Arithmetic.elementBytes
        var multiplied = Turn(row: rows.lowerBound), scaled = multiplied
        var ahead = activations.ahead(p, t, piece, multiplied.row, Arithmetic.self)
        for index in 0..<turns &+ 2 {
            let before = TileSums(panel, turn: index &- 1)
            if index < turns {
                if multiplied.group == 0 { ahead = activations.ahead(p, t, piece, multiplied.row, Arithmetic.self) }
                let begin = multiplied.group &* groupBytes, end = min(begin &+ groupBytes, pieceBytes)
                var k = begin
                while k < end {
                    ahead.ask()
                    let x = activations.at(row: Int(t.row_begin) &+ multiplied.row, piece.k.lowerBound &* Arithmetic.elementBytes &+ k)
                    shape.load(x, activations.rowStride, UnsafeRawPointer(panel.base + k &* 16))
                    shape.multiply(Arithmetic.self, isFirst: k == begin, hasSums: index > 0, before)
                    k &+= stepBytes
                }
                multiplied.advance(groups, rowsAtATime)
            } else if index == turns {
                shape.eachSum { tile, half, block in before.store(tile, half, block) }
            }
            if index > 1 {
                sums(p, t, panel, piece, scaled, index).scale(scaling, rows: rowsAtATime, hasSecondBlock: shape.hasSecondBlock)
                scaled.advance(groups, rowsAtATime)
            }
        }
    }

    @inline(__always)
    private static func sums(_ p: i4q_product, _ t: i4q_tile, _ panel: TilePanel, _ piece: TilePiece, _ turn: Turn, _ index: Int) -> GroupSums<Scaling> {
        GroupSums(p, t, TileSums(panel, turn: index), group: piece.groups.lowerBound &+ turn.group, row: turn.row, block: piece.block,
                  blockStep: 1, place: turn.group)
    }
}
