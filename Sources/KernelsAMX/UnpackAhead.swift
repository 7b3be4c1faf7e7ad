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

/// One or two blocks on their way into the panel, where groups are scaled.
struct UnpackAhead<Unpacker: GroupUnpacker> {
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
        first = blockAddress(p, t, block)
        second = first + step &* Int(p.block_bytes)
        hasSecond = step > 0
        self.depth = depth
        ofFirst = Unpacker(p)
        ofSecond = ofFirst
        for _ in 0..<stepsAhead { unpackStep(p, TilePanel(t)) }
    }

    /// A step ends where its group does. What one that is not full has behind its values meets x that is none, and is zero.
    @inline(__always)
    mutating func unpackStep(_ p: i4q_product, _ panel: TilePanel) {
        if group == Int(p.group_count) { return }
        if k == group &* Int(p.group_size) {
            ofFirst.enter(p, first, group)
            if hasSecond { ofSecond.enter(p, second, group) }
        }
        let target = panel.step(place), end = groupEnd(p, group), count = min(depth, end &- k)
        ofFirst.unpack(first, k: k, count: count, target)
        if hasSecond { ofSecond.unpack(second, k: k, count: count, target + panelBlockBytes) }
        zeroBytes(target, from: count &* Unpacker.bytesOfK, to: depth &* Unpacker.bytesOfK)
        if hasSecond { zeroBytes(target + panelBlockBytes, from: count &* Unpacker.bytesOfK, to: depth &* Unpacker.bytesOfK) }
        k &+= count
        if k == end { group &+= 1 }
        place &+= 1
    }

    @inline(__always)
    func setColumns(_ p: i4q_product, _ panel: TilePanel, _ group: Int) {
        ofFirst.setColumns(p, first, group, panel, columnsPlace(group), 0)
        if hasSecond { ofSecond.setColumns(p, second, group, panel, columnsPlace(group), 1) }
    }
}
