// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Sums over more of k than a panel holds: pieces are unpacked one after the other, and between them sums wait. If there is one sum
// for all of k, they wait where the totals will stand; groups of several long ones are taken 32 rows at a time.

@inline(__always)
private func waitingSums(_ t: i4q_tile, _ piece: TilePiece, _ row: Int, inTotals: Bool) -> TileSums {
    inTotals ? TileSums(totals: t, row: row, block: piece.block, blockStep: 1) : TileSums(TilePanel(t), turn: 0)
}

/// Adds a piece's products to the sums of `rows`.
@inline(never)
func addPiece<Arithmetic: TileArithmetic>(_ arithmetic: Arithmetic.Type, _ p: i4q_product, _ t: i4q_tile, _ piece: TilePiece, rows: Range<Int>,
                                          starts: Bool, waitsInTotals: Bool, _ configuration: inout TileConfiguration) {
    let panel = TilePanel(t), activations = TileActivations(p)
    let steps = (piece.k.count &* Arithmetic.elementBytes &+ tileRowBytes &- 1) / tileRowBytes
    var row = rows.lowerBound
    while row < rows.upperBound {
        let shape = TileShape(rows: min(tileRows, rows.upperBound &- row), hasSecondBlock: piece.blocks > 1)
        configuration.set(rows: shape.rows, stepBytes: tileRowBytes)
        let sums = waitingSums(t, piece, row, inTotals: waitsInTotals)
        shape.eachSum { tile, half, block in if starts { i4q_tile_zero(tile) } else { sums.load(tile, half, block) } }
        // Pieces begin with a line, so steps are lines.
        var x = activations.at(row: Int(t.row_begin) &+ row, piece.k.lowerBound &* Arithmetic.elementBytes), weights = UnsafeRawPointer(panel.base)
        var ahead = activations.ahead(p, t, piece, row, Arithmetic.self)
        for _ in 0..<steps {
            ahead.ask()
            shape.load(x, activations.rowStride, weights)
            shape.multiply(Arithmetic.self)
            x += activations.lineStride
            weights += 16 &* tileRowBytes
        }
        shape.eachSum { tile, half, block in sums.store(tile, half, block) }
        row &+= tileRows
    }
}

/// Groups whose sums are scaled.
enum LongGroup<Scaling: TileScaling> {
    /// Of `rows`, whose last piece has been added.
    @inline(never)
    static func scale(_ p: i4q_product, _ t: i4q_tile, _ piece: TilePiece, _ rows: Range<Int>) {
        var row = rows.lowerBound
        while row < rows.upperBound {
            GroupSums<Scaling>(p, t, waitingSums(t, piece, row, inTotals: p.group_count == 1), group: piece.groups.lowerBound, row: row,
                               block: piece.block, blockStep: 1, place: 0)
                .scale(Scaling(p), rows: min(tileRows, rows.upperBound &- row), hasSecondBlock: piece.blocks > 1)
            row &+= tileRows
        }
    }
}
