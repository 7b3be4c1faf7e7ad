// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// What all register products have in common. A register product adds the products of `rowCount` rows by `blockCount`
// blocks of 16 columns over some groups of k, with the groups' sums in registers and the running totals in memory.
//
// Bodies for each block are written as calls guarded by a constant (`if blockCount > 1`), not as loops: the compiler
// leaves large loops rolled, and an accumulator that is indexed by a variable lives in memory.

protocol RegisterProduct {
    static var rowCount: Int { get }
    static var blockCount: Int { get }
    /// Blocks are `step` apart.
    static func run(_ p: i4q_product, row: Int, block: Int, step: Int, groups: Range<Int>, out: UnsafeMutablePointer<Float>,
                    outStride: Int)
}

/// The register products that cover tiles of one kind of arithmetic; `...Edge` takes one block where fewer are left.
protocol TileShapes {
    /// For many rows, of weights that were decoded before.
    associatedtype Panel: PanelProduct
    associatedtype Tall: RegisterProduct
    associatedtype TallEdge: RegisterProduct
    associatedtype Middle: RegisterProduct
    associatedtype MiddleEdge: RegisterProduct
    associatedtype Low: RegisterProduct
    associatedtype LowEdge: RegisterProduct
    associatedtype Flat: RegisterProduct
    associatedtype FlatEdge: RegisterProduct
}

/// A tile is covered by register products. Few rows: several blocks at once, which are several streams from memory and
/// independent chains of additions; they lie apart, so that each stream goes on into the block behind it. Many rows:
/// fewer blocks, more rows, so that decoding is shared. Either way each output's own order of operations is the same.
///
/// Long rows are taken a piece of k at a time, so that the activations that several blocks share stay in the first-level
/// cache.
@inline(__always)
func coverTile<Shapes: TileShapes>(_ shapes: Shapes.Type, _ p: i4q_product, _ t: i4q_tile) {
    var firstRow = 0
    if Int(t.row_count) >= panelPays(Shapes.Panel.self) && Shapes.Panel.capacity(p) > 0 {
        let blocks = Int(t.block_count) / Shapes.Panel.blockCount &* Shapes.Panel.blockCount
        firstRow = Int(t.row_count) / Shapes.Panel.rowCount &* Shapes.Panel.rowCount
        Shapes.Panel.run(p, t, rows: firstRow, blocks: 0..<blocks)
        // What is left: a last odd block for all rows, and the last rows of the others.
        coverRest(shapes, p, t, rows: 0..<firstRow, blocks: blocks..<Int(t.block_count))
    }
    coverRest(shapes, p, t, rows: firstRow..<Int(t.row_count), blocks: 0..<Int(t.block_count))
}

/// From so many rows on decoding first is faster.
private func panelPays<Panel: PanelProduct>(_ panel: Panel.Type) -> Int { 4 &* Panel.rowCount }

@inline(__always)
private func coverRest<Shapes: TileShapes>(_ shapes: Shapes.Type, _ p: i4q_product, _ whole: i4q_tile, rows: Range<Int>,
                                           blocks: Range<Int>) {
    if rows.isEmpty || blocks.isEmpty { return }
    var t = whole
    t.row_begin &+= Int64(rows.lowerBound)
    t.row_count = Int64(rows.count)
    t.block_begin &+= Int64(blocks.lowerBound)
    t.block_count = Int64(blocks.count)
    t.out = whole.out.unsafelyUnwrapped + (rows.lowerBound &* Int(t.out_stride) &+ blocks.lowerBound &* lanes)
    let groupCount = Int(p.group_count)
    // A few rows wait for weights, whose streams must not be cut.
    let piece = Int(t.row_count) <= 8 ? groupCount : groupsInPiece(p, rows: Shapes.Tall.rowCount)
    var group = 0
    while group < groupCount {
        let groups = group..<min(group &+ piece, groupCount)
        var row = 0
        while row < Int(t.row_count) {
            let left = Int(t.row_count) &- row
            if left >= Shapes.Tall.rowCount {
                row &+= coverRows(Shapes.Tall.self, Shapes.TallEdge.self, p, t, row, groups)
            } else if left >= Shapes.Middle.rowCount {
                row &+= coverRows(Shapes.Middle.self, Shapes.MiddleEdge.self, p, t, row, groups)
            } else if left >= Shapes.Low.rowCount {
                row &+= coverRows(Shapes.Low.self, Shapes.LowEdge.self, p, t, row, groups)
            } else {
                row &+= coverRows(Shapes.Flat.self, Shapes.FlatEdge.self, p, t, row, groups)
            }
        }
        group &+= piece
    }
}

/// As many groups as leave `rows` rows of activations in half of a first-level cache of 32 KiB.
private func groupsInPiece(_ p: i4q_product, rows: Int) -> Int {
    max(1, 16384 &* Int(p.group_count) / (rows &* Int(p.prepared_row_bytes)))
}

@inline(__always)
private func coverRows<Wide: RegisterProduct, Edge: RegisterProduct>(_ wide: Wide.Type, _ edge: Edge.Type, _ p: i4q_product,
                                                                     _ t: i4q_tile, _ row: Int, _ groups: Range<Int>) -> Int {
    let stride = Int(t.out_stride), blocks = Int(t.block_count)
    let out = t.out.unsafelyUnwrapped + row &* stride
    let firstRow = Int(t.row_begin) &+ row, firstBlock = Int(t.block_begin)
    let step = blocks / Wide.blockCount
    for block in 0..<step {
        Wide.run(p, row: firstRow, block: firstBlock &+ block, step: step, groups: groups, out: out + block &* lanes, outStride: stride)
    }
    for block in step &* Wide.blockCount..<max(blocks, step &* Wide.blockCount) {
        Edge.run(p, row: firstRow, block: firstBlock &+ block, step: 1, groups: groups, out: out + block &* lanes, outStride: stride)
    }
    return Wide.rowCount
}

/// The running totals of a register product, where its results will stand. Small products take them along (`inRegisters`): what
/// there are no registers for the compiler puts aside between groups. Larger ones leave them in memory.
struct TotalsInMemory<let rows: Int, let blocks: Int> {
    typealias Values = InlineArray<blocks, InlineArray<rows, Floats>>
    private let base: UnsafeMutableRawPointer
    private let rowBytes: Int
    private let blockBytes: Int

    static var inRegisters: Bool { rows &* blocks <= 16 }

    @inline(__always)
    init(_ out: UnsafeMutablePointer<Float>, stride: Int, step: Int, isFirst: Bool) {
        base = UnsafeMutableRawPointer(out)
        rowBytes = stride &* 4
        blockBytes = step &* 64
        if !isFirst { return }
        for r in 0..<rows { for b in 0..<blocks { self[r, b] = Floats(repeating: 0) } }
    }

    @inline(__always)
    subscript(row: Int, block: Int) -> Floats {
        get { base.load(fromByteOffset: row &* rowBytes &+ block &* blockBytes, as: Floats.self) }
        nonmutating set { base.storeBytes(of: newValue, toByteOffset: row &* rowBytes &+ block &* blockBytes, as: Floats.self) }
    }

    @inline(__always)
    func load() -> Values {
        var values = Values(repeating: .init(repeating: Floats(repeating: 0)))
        for b in 0..<blocks { for r in 0..<rows { values[b][r] = self[r, b] } }
        return values
    }

    @inline(__always)
    func store(_ values: Values) {
        for b in 0..<blocks { for r in 0..<rows { self[r, b] = values[b][r] } }
    }
}

/// How many bytes ahead weights are asked for, if one distance is enough.
let prefetchDistance = 512
/// And into the second-level cache.
let farDistance = 2048

/// Asks for weights of a block's stream ahead of their use. One row mostly waits for memory, and a short way ahead is enough; with
/// four the processor is busy for so long that it would not look ahead far enough by itself. (Two in INT8 mode were measured to be
/// faster without; the others at all distances from 128 to 4096 bytes, AMD Zen 4.)
@_transparent
func askAhead(_ weights: UnsafeRawPointer, rows: Int, isFloat: Bool, isShort: Bool) {
    if rows > 2 && rows <= 4 {
        i4q_prefetch(weights + 256)
        i4q_prefetch_far(weights + farDistance)
    } else if rows == 1 {
        i4q_prefetch(weights + 256)
        if isShort { i4q_prefetch_far(weights + farDistance) }
    } else if rows == 2 && isFloat {
        i4q_prefetch(weights + prefetchDistance)
    }
}

/// Whether the processor's own prefetching has hardly found a block's streams when the block ends. Then one row asks for weights
/// farther ahead, too, and few rows for the next block's scales. (Measured with k of 576 to 2048 and groups of 32: 6 to 23 %; with
/// 4096 INT8 mode was slower for it.)
@inline(__always)
func hasShortBlocks(_ p: i4q_product) -> Bool { asksAheadInShortBlocks && p.block_bytes <= 24576 }

/// Asks for a line of the scales and zero points of the blocks behind these, which are read next. In a short block they are a few
/// lines that the processor does not foresee, and each would be waited for.
@inline(__always)
func prefetchNextParameters(_ p: i4q_product, _ group: Int, _ weights: UnsafeRawPointer, _ blockBytes: Int, _ blocks: Int) {
    let line = Int(p.scales_offset) &+ group &* 64
    if line >= Int(p.block_bytes) { return }
    for b in 0..<blocks {
        let here = weights + (b &* blockBytes &+ line)
        i4q_prefetch(here + Int(p.block_bytes))
        // What codes ask for ahead of themselves leaves out as much of the next block as these take.
        i4q_prefetch_far(here + farDistance)
    }
}

/// 16 zero points of one group.
@inline(__always)
func loadZeroPoints(_ pointer: UnsafeRawPointer, _ group: Int) -> Ints {
    unsafeBitCast(i4q_widen_u8((pointer + group &* 16).loadUnaligned(as: SIMD16<UInt8>.self)), to: Ints.self)
}

/// Codes are read as q - 8 (8 bits: q - 128), so an offset has as many scales added.
@inline(__always)
func centredOffset(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, _ scale: Floats) -> Floats {
    let offset = loadColumnValues(block + Int(p.zeros_offset), group, type: p.scale_type)
    return fusedMultiplyAdd(Floats(repeating: p.code_bits == 8 ? 128 : 8), scale, offset)
}

/// Several rows one after the other, for what is left over where a product of its own is not worth its code: a last odd block.
enum EachRow<let rows: Int, Row: RegisterProduct>: RegisterProduct {
    static var rowCount: Int { rows }
    static var blockCount: Int { Row.blockCount }

    @inline(never)
    static func run(_ p: i4q_product, row: Int, block: Int, step: Int, groups: Range<Int>, out: UnsafeMutablePointer<Float>,
                    outStride: Int) {
        var index = 0
        while index < rows {
            Row.run(p, row: row &+ index, block: block, step: step, groups: groups, out: out + index &* outStride, outStride: outStride)
            index &+= Row.rowCount
        }
    }
}
