// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Up to 32 rows, groups scaled: unpacking takes longer than multiplying, and reading weights perhaps longer than both,
// so they go on side by side (UnpackAhead.swift). Three groups are under way at once, as in GroupTiles.swift:
//
//     group i:   step 0            unpack 3 steps ahead, load; each tile: store its sums of group i - 1, zero, multiply
//                the other steps   unpack 3 steps ahead, load, multiply
//                at last           scale the sums of group i - 2
//
// A tile is stored a whole group after it was multiplied, when nobody has to wait for it.

enum FewRowTiles<Unpacker: GroupUnpacker, Scaling: TileScaling> {
    /// Two blocks `step` apart, or one if `step` is 0.
    @inline(never)
    static func run(_ p: i4q_product, _ t: i4q_tile, block: Int, step: Int, stepBytes: Int) {
        let shape = TileShape(rows: Int(t.row_count), hasSecondBlock: step > 0), panel = TilePanel(t), activations = TileActivations(p)
        let scaling = Scaling(p), elementBytes = Scaling.Arithmetic.elementBytes
        var ahead = UnpackAhead<Unpacker>(p, t, block: block, step: step, depth: stepBytes / elementBytes)
        var place = 0
        for group in 0..<Int(p.group_count) {
            let begin = group &* Int(p.group_size), end = groupEnd(p, group), sumsBefore = TileSums(panel, turn: group &- 1)
            var k = begin
            while k < end {
                ahead.unpackStep(p, panel)
                let x = activations.at(row: Int(t.row_begin), k &* elementBytes)
                shape.load(x, activations.rowStride, UnsafeRawPointer(panel.step(place)))
                shape.multiply(Scaling.Arithmetic.self, isFirst: k == begin, hasSums: group > 0, sumsBefore)
                place &+= 1
                k &+= stepBytes / elementBytes
            }
            if group > 1 { scale(p, t, scaling, shape, block, step, group &- 2) }
            ahead.setColumns(p, panel, group)
        }
        let last = Int(p.group_count) &- 1, sums = TileSums(panel, turn: last)
        shape.eachSum { tile, half, block in sums.store(tile, half, block) }
        if last > 0 { scale(p, t, scaling, shape, block, step, last &- 1) }
        scale(p, t, scaling, shape, block, step, last)
    }

    @inline(__always)
    private static func scale(_ p: i4q_product, _ t: i4q_tile, _ scaling: Scaling, _ shape: TileShape, _ block: Int, _ step: Int, _ group: Int) {
        GroupSums<Scaling>(p, t, TileSums(TilePanel(t), turn: group), group: group, row: 0, block: block, blockStep: step,
                           place: columnsPlace(group))
            .scale(scaling, rows: shape.rows, hasSecondBlock: shape.hasSecondBlock)
    }
}
