// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Up to 32 rows: unpacking takes longer than multiplying, and reading weights perhaps longer than both. So weights are unpacked a
// tile's step at a time, some steps ahead of the products, and the processor does both at once. (Right ahead, a tile would wait for what
// was just stored.)
//
//     step i:   unpack i + 3, multiply i; at a group's end its sums are stored, and those of the group before scaled

/// How many steps products are behind, and for how many a panel has places.
private let stepsAhead = 3, places = 8

/// What is unpacked next, and where to.
private struct Ahead {
    var group = 0
    var k = 0
    var place = 0
}

/// One or two blocks on their way into the panel.
private struct BlockPair<Unpacker: TileUnpacker> {
    let first: UnsafeRawPointer
    let second: UnsafeRawPointer
    let hasSecond: Bool
    let depth: Int
    var ofFirst: Unpacker
    var ofSecond: Unpacker
    var ahead = Ahead()

    @inline(__always)
    init(_ p: i4q_product, _ first: UnsafeRawPointer, step: Int, depth: Int) {
        self.first = first
        self.depth = depth
        second = first + step &* Int(p.block_bytes)
        hasSecond = step > 0
        ofFirst = Unpacker(p)
        ofSecond = ofFirst
    }

    /// What a step that is not full has behind its values meets x that is none, and is zero.
    @inline(__always)
    mutating func unpackStep(_ p: i4q_product, _ panel: TilePanel) {
        if ahead.group == Int(p.group_count) { return }
        if ahead.k == ahead.group &* Int(p.group_size) {
            ofFirst.enter(p, first, ahead.group)
            if hasSecond { ofSecond.enter(p, second, ahead.group) }
        }
        let end = groupEnd(p, ahead.group), count = min(depth, end &- ahead.k), bytes = count &* Unpacker.bytesOfK
        let target = stepPlace(panel, ahead.place)
        ofFirst.unpack(first, k: ahead.k, count: count, target)
        zeroBytes(target, from: bytes, to: 16 &* tileRowBytes)
        if hasSecond {
            ofSecond.unpack(second, k: ahead.k, count: count, target + panelBlockBytes)
            zeroBytes(target + panelBlockBytes, from: bytes, to: 16 &* tileRowBytes)
        }
        ahead.place &+= 1
        ahead.k &+= count
        if ahead.k == end { ahead.group &+= 1 }
    }

    @inline(__always)
    func setColumns(_ p: i4q_product, _ panel: TilePanel, _ group: Int) {
        ofFirst.setColumns(p, first, group, panel, group & 1, 0)
        if hasSecond { ofSecond.setColumns(p, second, group, panel, group & 1, 1) }
    }
}

@inline(__always)
private func groupEnd(_ p: i4q_product, _ group: Int) -> Int { min((group &+ 1) &* Int(p.group_size), Int(p.k_padded)) }

@inline(__always)
private func stepPlace(_ panel: TilePanel, _ place: Int) -> UnsafeMutableRawPointer {
    panel.base + (place & (places &- 1)) &* (16 &* tileRowBytes)
}

enum FewRowTiles<Unpacker: TileUnpacker, Scaling: TileScaling> where Unpacker.Arithmetic == Scaling.Arithmetic {
    typealias Arithmetic = Scaling.Arithmetic

    /// Two blocks `step` apart, or one if `step` is 0.
    @inline(never)
    static func run(_ p: i4q_product, _ t: i4q_tile, block: Int, step: Int, stepBytes: Int) {
        let shape = TileShape(rows: Int(t.row_count), hasSecondBlock: step > 0)
        let panel = TilePanel(t), activations = TileActivations(p), depth = stepBytes / Arithmetic.elementBytes
        let first = UnsafeRawPointer(p.blocks.unsafelyUnwrapped) + (Int(t.block_begin) &+ block) &* Int(p.block_bytes)
        var pair = BlockPair<Unpacker>(p, first, step: step, depth: depth)
        for _ in 0..<stepsAhead { pair.unpackStep(p, panel) }
        var place = 0
        for group in 0..<Int(p.group_count) {
            let end = groupEnd(p, group)
            shape.eachSum { tile, _, _ in i4q_tile_zero(tile) }
            var k = group &* Int(p.group_size)
            while k < end {
                pair.unpackStep(p, panel)
                let x = activations.at(row: Int(t.row_begin), k &* Arithmetic.elementBytes)
                shape.load(x, activations.rowStride, UnsafeRawPointer(stepPlace(panel, place)))
                shape.multiply(Arithmetic.self)
                place &+= 1
                k &+= depth
            }
            if group > 0 { scale(p, t, panel, activations, shape, block, step, group &- 1) }
            pair.setColumns(p, panel, group)
            let sums = panel.sums(group), stride = tileBlocks &* tileRowBytes
            shape.eachSum { tile, half, block in i4q_tile_store(tile, sums + (half &* 16 &* stride &+ block &* tileRowBytes), Int64(stride)) }
        }
        scale(p, t, panel, activations, shape, block, step, Int(p.group_count) &- 1)
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
