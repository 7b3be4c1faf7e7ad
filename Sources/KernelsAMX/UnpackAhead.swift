// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// For few rows weights are unpacked a tile's step at a time, some steps ahead of the products, and the processor does both at once.
// (Right ahead, a tile would wait for what was just stored.)

/// How many steps products are behind, and for how many a panel has places.
let stepsAhead = 3
let stepPlaces = 8

/// Where a group ends.
@inline(__always)
func groupEnd(_ p: i4q_product, _ group: Int) -> Int { min((group &+ 1) &* Int(p.group_size), Int(p.k_padded)) }

/// Where a group's columns stand in the panel while some groups are under way.
@_transparent func columnsPlace(_ group: Int) -> Int { group & 3 }

/// One or two blocks on their way into the panel.
struct UnpackAhead<Unpacker: TileUnpacker> {
    private let first: UnsafeRawPointer
    private let second: UnsafeRawPointer
    private let hasSecond: Bool
    private let depth: Int
    private var ofFirst: Unpacker
    private var ofSecond: Unpacker
    private var group = 0
    private var k = 0
    private var place = 0

    /// Two blocks `step` apart, or one if that is 0; `depth` values of k are a step.
    @inline(__always)
    init(_ p: i4q_product, _ t: i4q_tile, block: Int, step: Int, depth: Int) {
        first = UnsafeRawPointer(p.blocks.unsafelyUnwrapped) + (Int(t.block_begin) &+ block) &* Int(p.block_bytes)
        second = first + step &* Int(p.block_bytes)
        hasSecond = step > 0
        self.depth = depth
        ofFirst = Unpacker(p)
        ofSecond = ofFirst
        for _ in 0..<stepsAhead { unpackStep(p, TilePanel(t)) }
    }

    /// A step ends where its group does, if groups are scaled by themselves. What a step that is not full has behind its values meets x
    /// that is none, and is zero.
    @inline(__always)
    mutating func unpackStep(_ p: i4q_product, _ panel: TilePanel) {
        let target = panel.step(place)
        var filled = 0
        while filled < depth && group < Int(p.group_count) {
            if k == group &* Int(p.group_size) {
                ofFirst.enter(p, first, group)
                if hasSecond { ofSecond.enter(p, second, group) }
            }
            let end = groupEnd(p, group), count = min(depth &- filled, end &- k), bytes = filled &* Unpacker.bytesOfK
            ofFirst.unpack(first, k: k, count: count, target + bytes)
            if hasSecond { ofSecond.unpack(second, k: k, count: count, target + (panelBlockBytes &+ bytes)) }
            filled &+= count
            k &+= count
            if k == end { group &+= 1 }
            if Unpacker.scalesGroups { break }
        }
        zeroBytes(target, from: filled &* Unpacker.bytesOfK, to: depth &* Unpacker.bytesOfK)
        if hasSecond { zeroBytes(target + panelBlockBytes, from: filled &* Unpacker.bytesOfK, to: depth &* Unpacker.bytesOfK) }
        place &+= 1
    }

    @inline(__always)
    func setColumns(_ p: i4q_product, _ panel: TilePanel, _ group: Int) {
        ofFirst.setColumns(p, first, group, panel, columnsPlace(group), 0)
        if hasSecond { ofSecond.setColumns(p, second, group, panel, columnsPlace(group), 1) }
    }
}
