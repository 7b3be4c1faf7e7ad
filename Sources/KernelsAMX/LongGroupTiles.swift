// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Groups longer than the panel: pieces of one are unpacked one after the other, and between them sums wait. With a single group for
// all of k they wait where the totals will stand; with several, 32 rows at a time are taken through a group's pieces.

enum LongGroupTiles<Scaling: TileScaling> {
    typealias Arithmetic = Scaling.Arithmetic

    /// Adds a piece's products to the sums of `rows`, and scales them if the group ends with it.
    @inline(never)
    static func run(_ p: i4q_product, _ t: i4q_tile, _ piece: TilePiece, rows: Range<Int>, starts: Bool, ends: Bool,
                    _ configuration: inout TileConfiguration) {
        let panel = TilePanel(t), activations = TileActivations(p), parameters = Scaling.rowParameters(p), stride = Int(t.out_stride) &* 4
        let group = piece.groups.lowerBound, isFirst = group == 0, waitsInTotals = p.group_count == 1
        var row = rows.lowerBound
        while row < rows.upperBound {
            let shape = TileShape(rows: min(tileRows, rows.upperBound &- row), hasSecondBlock: piece.blocks > 1)
            configuration.set(rows: shape.rows, stepBytes: tileRowBytes)
            let totals = UnsafeMutableRawPointer(t.out.unsafelyUnwrapped) + (row &* stride &+ piece.block &* tileRowBytes)
            let sums = waitsInTotals ? totals : panel.sums(0), sumsStride = waitsInTotals ? stride : tileBlocks &* tileRowBytes
            multiply(activations, Int(t.row_begin) &+ row, piece, shape, panel, sums, sumsStride, starts)
            if ends {
                GroupSums(sums: UnsafeRawPointer(sums), sumsStride: sumsStride, totals: totals, totalsStride: stride,
                          secondTotals: tileRowBytes, before: isFirst ? panel.zeros : UnsafeRawPointer(totals),
                          beforeStride: isFirst ? 0 : stride, secondBefore: isFirst ? 0 : tileRowBytes,
                          columns: UnsafeRawPointer(panel.columns(0)),
                          row: activations.at(row: Int(t.row_begin) &+ row, parameters.offset &+ group &* parameters.bytes),
                          rowStride: activations.rowStride)
                    .scale(Scaling(p), 0..<shape.rows, hasSecondBlock: shape.hasSecondBlock)
            }
            row &+= tileRows
        }
    }

    @inline(__always)
    private static func multiply(_ activations: TileActivations, _ row: Int, _ piece: TilePiece, _ shape: TileShape, _ panel: TilePanel,
                                 _ sums: UnsafeMutableRawPointer, _ stride: Int, _ starts: Bool) {
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
