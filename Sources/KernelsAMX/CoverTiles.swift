// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// How a mode's codes come into the panel.
protocol TileUnpacker {
    associatedtype Arithmetic: TileArithmetic
    init(_ p: i4q_product)
    /// Before a group of a block, or a part of it, is unpacked.
    mutating func enter(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int)
    /// `count` values of k, a multiple of 16.
    func unpack(_ block: UnsafeRawPointer, k: Int, count: Int, _ panel: UnsafeMutableRawPointer)
    /// Puts what a group's sums are scaled by into the panel, if they are.
    func setColumns(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, _ panel: TilePanel, _ place: Int, _ b: Int)
}

extension TileUnpacker {
    @_transparent static var bytesOfK: Int { 16 &* Arithmetic.elementBytes }
}

/// Where groups' sums are scaled.
protocol GroupUnpacker: TileUnpacker {
    /// Whether few rows have code of their own for it.
    static var isCommon: Bool { get }
    func columns(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, _ scale: Floats) -> (scale: Floats, extra: Words)
}

extension GroupUnpacker {
    @inline(__always)
    func setColumns(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, _ panel: TilePanel, _ place: Int, _ b: Int) {
        let own = columns(p, block, group, loadColumnValues(block + Int(p.scales_offset), group, type: p.scale_type))
        panel.setColumns(place, b, scale: own.scale, extra: own.extra)
    }
}

/// A block of a tile of the result.
@_transparent
func blockAddress(_ p: i4q_product, _ t: i4q_tile, _ block: Int) -> UnsafeRawPointer {
    UnsafeRawPointer(p.blocks.unsafelyUnwrapped) + (Int(t.block_begin) &+ block) &* Int(p.block_bytes)
}

/// Pairs of a tile's blocks for few rows: a block and how far it is to the second (0: there is none). The two lie apart, so that each is
/// a stream from memory that goes on into the block behind it.
@inline(__always)
func eachPairApart(_ t: i4q_tile, _ body: (_ block: Int, _ step: Int) -> Void) {
    let blocks = Int(t.block_count), pairs = blocks / tileBlocks
    var block = 0
    while block < pairs &+ (blocks & 1) {
        body(block < pairs ? block : blocks &- 1, block < pairs ? pairs : 0)
        block &+= 1
    }
}

/// A tile of the result whose groups are scaled: pieces of weights are unpacked, and each is used for all rows.
enum CoverTiles<Unpacker: GroupUnpacker, Scaling: TileScaling> where Unpacker.Arithmetic == Scaling.Arithmetic {
    typealias Arithmetic = Scaling.Arithmetic

    @inline(__always)
    static func run(_ p: i4q_product, _ t: i4q_tile) {
        var configuration = TileConfiguration()
        TilePanel(t).setZeros()
        let isLong = Int(p.group_size) > TilePanel.depth(Arithmetic.self)
        if Unpacker.isCommon && Scaling.isCommon && Int(t.row_count) <= tileRows {
            coverFewRows(p, t, &configuration)
        } else if isLong {
            coverLongGroups(p, t, &configuration)
        } else {
            coverGroups(p, t, &configuration)
        }
        configuration.release()
    }

    @inline(never)
    private static func coverFewRows(_ p: i4q_product, _ t: i4q_tile, _ configuration: inout TileConfiguration) {
        let bytes = stepBytes(p)
        configuration.set(rows: Int(t.row_count), stepBytes: bytes)
        eachPairApart(t) { block, step in FewRowTiles<Unpacker, Scaling>.run(p, t, block: block, step: step, stepBytes: bytes) }
    }

    /// A piece of x stays in the cache for all blocks.
    @inline(never)
    private static func coverGroups(_ p: i4q_product, _ t: i4q_tile, _ configuration: inout TileConfiguration) {
        let capacity = TilePanel.depth(Arithmetic.self) / Int(p.group_size), groupCount = Int(p.group_count)
        var group = 0
        while group < groupCount {
            let groups = group..<min(group &+ capacity, groupCount)
            let k = group &* Int(p.group_size)..<groupEnd(p, groups.upperBound &- 1)
            var block = 0
            while block < Int(t.block_count) {
                let piece = TilePiece(k: k, block: block, blocks: min(tileBlocks, Int(t.block_count) &- block), groups: groups)
                coverPiece(p, t, piece, &configuration)
                block &+= tileBlocks
            }
            group = groups.upperBound
        }
    }

    @inline(__always)
    private static func coverPiece(_ p: i4q_product, _ t: i4q_tile, _ piece: TilePiece, _ configuration: inout TileConfiguration) {
        fillPanel(Unpacker.self, p, t, piece)
        let rows = Int(t.row_count), full = rows / tileRows &* tileRows, bytes = stepBytes(p)
        if full > 0 {
            configuration.set(rows: tileRows, stepBytes: bytes)
            GroupTiles<Scaling>.run(p, t, piece, rows: 0..<full, rowsAtATime: tileRows, stepBytes: bytes)
        }
        if full == rows { return }
        configuration.set(rows: rows &- full, stepBytes: bytes)
        GroupTiles<Scaling>.run(p, t, piece, rows: full..<rows, rowsAtATime: rows &- full, stepBytes: bytes)
    }

    @inline(never)
    private static func coverLongGroups(_ p: i4q_product, _ t: i4q_tile, _ configuration: inout TileConfiguration) {
        let rowsAtATime = p.group_count == 1 ? Int(t.row_count) : tileRows
        var block = 0
        while block < Int(t.block_count) {
            var row = 0
            while row < Int(t.row_count) {
                let rows = row..<min(row &+ rowsAtATime, Int(t.row_count))
                for group in 0..<Int(p.group_count) { coverLongGroup(p, t, block, rows, group, &configuration) }
                row &+= rowsAtATime
            }
            block &+= tileBlocks
        }
    }

    @inline(__always)
    private static func coverLongGroup(_ p: i4q_product, _ t: i4q_tile, _ block: Int, _ rows: Range<Int>, _ group: Int,
                                       _ configuration: inout TileConfiguration) {
        let begin = group &* Int(p.group_size), end = groupEnd(p, group), blocks = min(tileBlocks, Int(t.block_count) &- block)
        var k = begin
        while k < end {
            let piece = TilePiece(k: k..<min(k &+ TilePanel.depth(Arithmetic.self), end), block: block, blocks: blocks, groups: group..<group &+ 1)
            fillPanel(Unpacker.self, p, t, piece)
            addPiece(Arithmetic.self, p, t, piece, rows: rows, starts: k == begin, waitsInTotals: p.group_count == 1, &configuration)
            if piece.k.upperBound == end { LongGroup<Scaling>.scale(p, t, piece, rows) }
            k = piece.k.upperBound
        }
    }

    /// Bytes of each row of x that a tile takes at a time: no more than a group has. (A row that is one short group has more behind it,
    /// which meets zeros.)
    @inline(__always)
    private static func stepBytes(_ p: i4q_product) -> Int { min(tileRowBytes, Int(p.group_size) &* Arithmetic.elementBytes) }
}

/// Unpacks groups or a part of one, block after block; what is behind the last group's values is multiplied, too, and so set to
/// zero: there x has other values than activations.
@inline(never)
func fillPanel<Unpacker: TileUnpacker>(_ type: Unpacker.Type, _ p: i4q_product, _ t: i4q_tile, _ piece: TilePiece) {
    var unpacker = Unpacker(p)
    let groupSize = Int(p.group_size), panel = TilePanel(t)
    for b in 0..<piece.blocks {
        let block = blockAddress(p, t, piece.block &+ b)
        let target = panel.base + b &* panelBlockBytes
        for group in piece.groups {
            let begin = max(group &* groupSize, piece.k.lowerBound), end = min((group &+ 1) &* groupSize, piece.k.upperBound)
            unpacker.enter(p, block, group)
            unpacker.unpack(block, k: begin, count: end &- begin, target + (begin &- piece.k.lowerBound) &* Unpacker.bytesOfK)
            unpacker.setColumns(p, block, group, panel, group &- piece.groups.lowerBound, b)
        }
        // The last group may end before the padding does, too.
        let filled = min(piece.groups.upperBound &* groupSize, piece.k.upperBound) &- piece.k.lowerBound
        let bytes = piece.k.count &* Unpacker.bytesOfK, step = tileRowBytes &* 16
        zeroBytes(target, from: filled &* Unpacker.bytesOfK, to: (bytes &+ step &- 1) / step &* step)
    }
}
