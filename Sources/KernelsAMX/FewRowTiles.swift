// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// INT8 mode, up to 32 rows: unpacking takes longer than multiplying, and reading weights perhaps longer than both,
// so they go on side by side (UnpackAhead.swift).
//
//     step i:   unpack i + 3, multiply i; at a group's end its sums are stored, and those of the group before scaled

enum FewRowTiles<Unpacker: TileUnpacker, Scaling: TileScaling> {
    /// Two blocks `step` apart, or one if `step` is 0.
    @inline(never)
    static func run(_ p: i4q_product, _ t: i4q_tile, block: Int, step: Int, stepBytes: Int) {
        let shape = TileShape(rows: Int(t.row_count), hasSecondBlock: step > 0), panel = TilePanel(t), activations = TileActivations(p)
        var ahead = UnpackAhead<Unpacker>(p, t, block: block, step: step, depth: stepBytes)
        var place = 0
        for group in 0..<Int(p.group_count) {
            let end = groupEnd(p, group)
            shape.eachSum { tile, _, _ in i4q_tile_zero(tile) }
            var k = group &* Int(p.group_size)
            while k < end {
                ahead.unpackStep(p, panel)
                let x = activations.at(row: Int(t.row_begin), k)
                shape.load(x, activations.rowStride, UnsafeRawPointer(panel.step(place)))
                shape.multiply(SignedBytes.self)
                place &+= 1
                k &+= stepBytes
            }
            if group > 0 { scale(p, t, panel, activations, shape, block, step, group &- 1) }
            ahead.setColumns(p, panel, group)
            let sums = panel.sums(group), stride = tileBlocks &* tileRowBytes
            shape.eachSum { tile, half, block in i4q_tile_store(tile, sums + (half &* 16 &* stride &+ block &* tileRowBytes), Int64(stride)) }
        }
        scale(p, t, panel, activations, shape, block, step, Int(p.group_count) &- 1)
    }

    @inline(__always)
    private static func scale(_ p: i4q_product, _ t: i4q_tile, _ panel: TilePanel, _ activations: TileActivations, _ shape: TileShape,
                              _ block: Int, _ step: Int, _ group: Int) {
        let stride = Int(t.out_stride) &* 4, isFirst = group == 0
        let totals = UnsafeMutableRawPointer(t.out.unsafelyUnwrapped) + block &* tileRowBytes
        GroupSums(sums: UnsafeRawPointer(panel.sums(group)), sumsStride: tileBlocks &* tileRowBytes, totals: totals, totalsStride: stride,
                  secondTotals: step &* tileRowBytes, before: isFirst ? panel.zeros : UnsafeRawPointer(totals),
                  beforeStride: isFirst ? 0 : stride, secondBefore: isFirst ? 0 : step &* tileRowBytes,
                  columns: UnsafeRawPointer(panel.columns(group & 1)),
                  row: activations.at(row: Int(t.row_begin), Int(p.prepared_scales_offset) &+ group &* 8),
                  rowStride: activations.rowStride)
            .scale(Scaling(p), 0..<shape.rows, hasSecondBlock: shape.hasSecondBlock)
    }
}
