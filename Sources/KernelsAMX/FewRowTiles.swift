// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Up to 32 rows: unpacking takes longer than multiplying, and reading weights perhaps longer than both. So weights are unpacked a
// tile's step at a time, one step ahead of the products, and the processor does both at once.
//
//     step i:   unpack i + 1, multiply i; at a group's end its sums are stored, and those of the group before scaled

enum FewRowTiles<Unpacker: TileUnpacker, Scaling: TileScaling> where Unpacker.Arithmetic == Scaling.Arithmetic {
    typealias Arithmetic = Scaling.Arithmetic

    /// Of the steps that are unpacked and not multiplied yet.
    private static var places: Int { 4 }

    /// Two blocks `step` apart, or one if `step` is 0.
    @inline(never)
    static func run(_ p: i4q_product, _ t: i4q_tile, block: Int, step: Int, stepBytes: Int) {
        let shape = TileShape(rows: Int(t.row_count), hasSecondBlock: step > 0)
        let panel = TilePanel(t), activations = TileActivations(p), firstRow = Int(t.row_begin)
        let first = UnsafeRawPointer(p.blocks.unsafelyUnwrapped) + (Int(t.block_begin) &+ block) &* Int(p.block_bytes)
        let second = first + step &* Int(p.block_bytes)
        let depth = stepBytes / Arithmetic.elementBytes, groupSize = Int(p.group_size)
        var unpacker = Unpacker(p), other = unpacker
        var place = 0
        unpacker.enter(p, first, 0)
        if shape.hasSecondBlock { other.enter(p, second, 0) }
        unpack(unpacker, other, first, second, 0..<min(depth, groupEnd(p, 0)), panel, place, shape)
        for group in 0..<Int(p.group_count) {
            let begin = group &* groupSize, end = groupEnd(p, group)
            shape.eachSum { tile, _, _ in i4q_tile_zero(tile) }
            var k = begin
            while k < end {
                let next = k &+ depth
                if next < end {
                    unpack(unpacker, other, first, second, next..<min(next &+ depth, end), panel, place &+ 1, shape)
                } else if group &+ 1 < Int(p.group_count) {
                    unpacker.enter(p, first, group &+ 1)
                    if shape.hasSecondBlock { other.enter(p, second, group &+ 1) }
                    unpack(unpacker, other, first, second, end..<min(end &+ depth, groupEnd(p, group &+ 1)), panel, place &+ 1, shape)
                }
                shape.load(activations.at(row: firstRow, k &* Arithmetic.elementBytes), activations.rowStride, weights(panel, place))
                shape.multiply(Arithmetic.self)
                place &+= 1
                k = next
            }
            if group > 0 { scale(p, t, panel, activations, shape, block, step, group &- 1) }
            unpacker.setColumns(p, first, group, panel, group & 1, 0)
            if shape.hasSecondBlock { other.setColumns(p, second, group, panel, group & 1, 1) }
            let sums = panel.sums(group), stride = tileBlocks &* tileRowBytes
            shape.eachSum { tile, half, block in i4q_tile_store(tile, sums + (half &* 16 &* stride &+ block &* tileRowBytes), Int64(stride)) }
        }
        scale(p, t, panel, activations, shape, block, step, Int(p.group_count) &- 1)
    }

    @inline(__always)
    private static func groupEnd(_ p: i4q_product, _ group: Int) -> Int { min((group &+ 1) &* Int(p.group_size), Int(p.k_padded)) }

    @inline(__always)
    private static func weights(_ panel: TilePanel, _ place: Int) -> UnsafeMutableRawPointer {
        panel.base + (place & (places &- 1)) &* (16 &* tileRowBytes)
    }

    /// What a step that is not full has behind its values meets x that is none, and is zero.
    @inline(__always)
    private static func unpack(_ unpacker: Unpacker, _ other: Unpacker, _ first: UnsafeRawPointer, _ second: UnsafeRawPointer, _ k: Range<Int>,
                               _ panel: TilePanel, _ place: Int, _ shape: TileShape) {
        let target = weights(panel, place), bytes = k.count &* Unpacker.bytesOfK
        unpacker.unpack(first, k: k.lowerBound, count: k.count, target)
        zeroBytes(target, from: bytes, to: 16 &* tileRowBytes)
        if !shape.hasSecondBlock { return }
        other.unpack(second, k: k.lowerBound, count: k.count, target + panelBlockBytes)
        zeroBytes(target + panelBlockBytes, from: bytes, to: 16 &* tileRowBytes)
    }

    @inline(__always)
    private static func scale(_ p: i4q_product, _ t: i4q_tile, _ panel: TilePanel, _ activations: TileActivations, _ shape: TileShape,
                              _ block: Int, _ step: Int, _ group: Int) {
        let stride = Int(t.out_stride) &* 4, parameters = Scaling.rowParameters(p), isFirst = group == 0
        let totals = UnsafeMutableRawPointer(t.out.unsafelyUnwrapped) + block &* tileRowBytes
        GroupSums(sums: UnsafeRawPointer(panel.sums(group)), sumsStride: tileBlocks &* tileRowBytes, totals: totals, totalsStride: stride,
                  secondTotals: step &* tileRowBytes, before: isFirst ? panel.zeros : UnsafeRawPointer(totals),
                  beforeStride: isFirst ? 0 : stride, secondBefore: isFirst ? 0 : step &* tileRowBytes,
                  columns: UnsafeRawPointer(panel.columns(group & 1)),
                  row: activations.at(row: Int(t.row_begin), parameters.offset &+ group &* parameters.bytes),
                  rowStride: activations.rowStride)
            .scale(Scaling(p), 0..<shape.rows, hasSecondBlock: shape.hasSecondBlock)
    }
}
