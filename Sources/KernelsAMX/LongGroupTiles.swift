// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// A row that is one group longer than the panel: pieces of k are unpacked one after the other, and between them sums wait where the
// totals will stand.

enum LongGroupTiles<Scaling: TileScaling> {
    typealias Arithmetic = Scaling.Arithmetic

    /// Adds a piece's products to all rows' sums, and scales them if the group ends with it.
    @inline(never)
    static func run(_ p: i4q_product, _ t: i4q_tile, _ piece: TilePiece, ends: Bool, _ configuration: inout TileConfiguration) {
        let panel = TilePanel(t), activations = TileActivations(p), parameters = Scaling.rowParameters(p), stride = Int(t.out_stride) &* 4
        var row = 0
        while row < Int(t.row_count) {
            let shape = TileShape(rows: min(tileRows, Int(t.row_count) &- row), hasSecondBlock: piece.blocks > 1)
            configuration.set(rows: shape.rows, stepBytes: tileRowBytes)
            let totals = UnsafeMutableRawPointer(t.out.unsafelyUnwrapped) + (row &* stride &+ piece.block &* tileRowBytes)
            multiply(activations, Int(t.row_begin) &+ row, piece, shape, panel, totals, stride)
            if ends {
                GroupSums(sums: UnsafeRawPointer(totals), sumsStride: stride, totals: totals, totalsStride: stride, secondTotals: tileRowBytes,
                          before: panel.zeros, beforeStride: 0, secondBefore: 0, columns: UnsafeRawPointer(panel.columns(0)),
                          row: activations.at(row: Int(t.row_begin) &+ row, parameters.offset), rowStride: activations.rowStride)
                    .scale(Scaling.self, 0..<shape.rows, hasSecondBlock: shape.hasSecondBlock)
            }
            row &+= tileRows
        }
    }

    @inline(__always)
    private static func multiply(_ activations: TileActivations, _ row: Int, _ piece: TilePiece, _ shape: TileShape, _ panel: TilePanel,
                                 _ sums: UnsafeMutableRawPointer, _ stride: Int) {
        let starts = piece.k.lowerBound == 0
        var offset = piece.k.lowerBound &* Arithmetic.elementBytes, weights = UnsafeRawPointer(panel.base)
        shape.eachSum { tile, half, block in
            if starts { i4q_tile_zero(tile) } else { i4q_tile_load(tile, sums + (half &* 16 &* stride &+ block &* tileRowBytes), Int64(stride)) }
        }
        for _ in 0..<(piece.k.count &* Arithmetic.elementBytes &+ tileRowBytes &- 1) / tileRowBytes {
            shape.load(activations.at(row: row, offset), activations.rowStride, weights)
            shape.multiply(Arithmetic.self)
            offset &+= tileRowBytes
            weights += 16 &* tileRowBytes
        }
        shape.eachSum { tile, half, block in i4q_tile_store(tile, sums + (half &* 16 &* stride &+ block &* tileRowBytes), Int64(stride)) }
    }
}
