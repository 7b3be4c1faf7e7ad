// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Sums over more of k than a panel holds: pieces are unpacked one after the other, and between them sums wait. If there is one sum
// for all of k, they wait where the totals will stand; groups of several long ones are taken 32 rows at a time.

/// Where a piece's sums stand.
private struct WaitingSums {
    let base: UnsafeMutableRawPointer
    let stride: Int

    @inline(__always)
    init(_ t: i4q_tile, _ piece: TilePiece, _ row: Int, inTotals: Bool) {
        stride = inTotals ? Int(t.out_stride) &* 4 : tileBlocks &* tileRowBytes
        let totals = UnsafeMutableRawPointer(t.out.unsafelyUnwrapped) + (row &* stride &+ piece.block &* tileRowBytes)
        base = inTotals ? totals : TilePanel(t).sums(0)
    }

    @_transparent func at(_ half: Int, _ block: Int) -> UnsafeMutableRawPointer { base + (half &* 16 &* stride &+ block &* tileRowBytes) }
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
        let sums = WaitingSums(t, piece, row, inTotals: waitsInTotals), stride = Int64(sums.stride)
        shape.eachSum { tile, half, block in
            if starts { i4q_tile_zero(tile) } else { i4q_tile_load(tile, sums.at(half, block), stride) }
        }
        var offset = piece.k.lowerBound &* Arithmetic.elementBytes, weights = UnsafeRawPointer(panel.base)
        for _ in 0..<steps {
            let x = activations.at(row: Int(t.row_begin) &+ row, offset)
            shape.load(x, activations.rowStride, weights)
            askAhead(x, activations)
            shape.multiply(Arithmetic.self)
            offset &+= tileRowBytes
            weights += 16 &* tileRowBytes
        }
        shape.eachSum { tile, half, block in i4q_tile_store(tile, sums.at(half, block), stride) }
        row &+= tileRows
    }
}

/// Two steps on, lines of 32 rows if they stand together: more of them than the processor asks for by itself.
@inline(__always)
private func askAhead(_ x: UnsafeRawPointer, _ activations: TileActivations) {
    if activations.lineStride == tileRowBytes { return }
    var line = 2 &* activations.lineStride
    while line < 3 &* activations.lineStride {
        i4q_prefetch(x + line)
        line &+= tileRowBytes
    }
}

/// Groups of INT8 mode.
enum LongGroup<Scaling: TileScaling> {
    /// Of `rows`, whose last piece has been added.
    @inline(never)
    static func scale(_ p: i4q_product, _ t: i4q_tile, _ piece: TilePiece, _ rows: Range<Int>) {
        let panel = TilePanel(t), activations = TileActivations(p), stride = Int(t.out_stride) &* 4
        let group = piece.groups.lowerBound, isFirst = group == 0
        var row = rows.lowerBound
        while row < rows.upperBound {
            let sums = WaitingSums(t, piece, row, inTotals: p.group_count == 1), totals = WaitingSums(t, piece, row, inTotals: true).base
            GroupSums(sums: UnsafeRawPointer(sums.base), sumsStride: sums.stride, totals: totals, totalsStride: stride,
                      secondTotals: tileRowBytes, before: isFirst ? panel.zeros : UnsafeRawPointer(totals),
                      beforeStride: isFirst ? 0 : stride, secondBefore: isFirst ? 0 : tileRowBytes,
                      columns: UnsafeRawPointer(panel.columns(0)),
                      row: activations.at(row: Int(t.row_begin) &+ row, Int(p.prepared_scales_offset) &+ group &* 8),
                      rowStride: activations.rowStride)
                .scale(Scaling(p), 0..<min(tileRows, rows.upperBound &- row), hasSecondBlock: piece.blocks > 1)
            row &+= tileRows
        }
    }
}
