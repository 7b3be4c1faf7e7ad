// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Up to 32 rows, groups scaled: unpacking takes longer than multiplying, and reading weights perhaps longer than both,
// so they go on side by side (UnpackAhead.swift).
//
//     step i:   unpack i + 3, multiply i; at a group's end its sums are stored, and those of the group before scaled

enum FewRowTiles<Unpacker: GroupUnpacker, Scaling: TileScaling> {
    /// Two blocks `step` apart, or one if `step` is 0.
    @inline(never)
    static func run(_ p: i4q_product, _ t: i4q_tile, block: Int, step: Int, stepBytes: Int) {
        let shape = TileShape(rows: Int(t.row_count), hasSecondBlock: step > 0), panel = TilePanel(t), activations = TileActivations(p)
        let scaling = Scaling(p), elementBytes = Scaling.Arithmetic.elementBytes
        var ahead = UnpackAhead<Unpacker>(p, t, block: block, step: step, depth: stepBytes / elementBytes)
        var place = 0
        for group in 0..<Int(p.group_count) {
            let end = groupEnd(p, group)
            shape.eachSum { tile, _, _ in i4q_tile_zero(tile) }
            var k = group &* Int(p.group_size)
            while k < end {
                ahead.unpackStep(p, panel)
                let x = activations.at(row: Int(t.row_begin), k &* elementBytes)
                shape.load(x, activations.rowStride, UnsafeRawPointer(panel.step(place)))
                shape.multiply(Scaling.Arithmetic.self)
                place &+= 1
                k &+= stepBytes / elementBytes
            }
            if group > 0 { scale(p, t, scaling, shape, block, step, group &- 1) }
            ahead.setColumns(p, panel, group)
            let sums = TileSums(panel, turn: group)
            shape.eachSum { tile, half, block in sums.store(tile, half, block) }
        }
        scale(p, t, scaling, shape, block, step, Int(p.group_count) &- 1)
    }

    @inline(__always)
    private static func scale(_ p: i4q_product, _ t: i4q_tile, _ scaling: Scaling, _ shape: TileShape, _ block: Int, _ step: Int, _ group: Int) {
        GroupSums<Scaling>(p, t, TileSums(TilePanel(t), turn: group), group: group, row: 0, block: block, blockStep: step, place: group & 1)
            .scale(scaling, 0..<shape.rows, hasSecondBlock: shape.hasSecondBlock)
    }
}
