// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// What products in tiles have in common: up to 32 rows of x by two blocks of 16 columns at a time, in four tiles of sums. A
// tile's step is up to 64 bytes of each row of x by a quarter as many rows of weights, 64 bytes each, of a panel (TilePanel.swift).

/// Rows of x that tiles hold at a time, and blocks.
let tileRows = 32
let tileBlocks = 2
/// Bytes of a row of a tile.
let tileRowBytes = 64

/// A mode's products, of integers or of floats.
protocol TileArithmetic {
    /// Bytes of an activation, and of a weight in a panel.
    static var elementBytes: Int { get }
    /// Adds to tile `sum`.
    @inline(__always) static func multiply(_ sum: Int32)
}

/// Four signed bytes by four signed bytes.
enum SignedBytes: TileArithmetic {
    static var elementBytes: Int { 1 }
    @inline(__always) static func multiply(_ sum: Int32) { i4q_tile_multiply_int8(sum) }
}

enum BFloatPairs: TileArithmetic {
    static var elementBytes: Int { 2 }
    @inline(__always) static func multiply(_ sum: Int32) { i4q_tile_multiply_bf16(sum) }
}

/// What tiles are configured for. Configuring costs as much as tens of products, so it is done only for another shape.
struct TileConfiguration {
    private var rows = 0
    private var stepBytes = 0
    private let held: Words

    @inline(__always)
    init() { held = i4q_tiles_held() }

    @inline(__always)
    mutating func set(rows wanted: Int, stepBytes bytes: Int) {
        if wanted == rows && bytes == stepBytes { return }
        rows = wanted
        stepBytes = bytes
        i4q_tiles_configure(Int64(min(wanted, 16)), Int64(max(wanted &- 16, 0)), Int64(bytes))
    }

    /// Tiles that are in use make every switch of threads dearer, and the host may not expect them. But a host that uses tiles itself may
    /// have configured them once for all (ggml does): it gets that configuration back, and tiles of zeros.
    @inline(__always)
    func release() { i4q_tiles_give_back(held) }
}

/// Interleaved rows of x on their way into the second-level cache, some lines at each step.
struct RowsAhead {
    static var lines: Int { 4 }
    var line: UnsafeRawPointer
    let stepBytes: Int

    @_transparent
    mutating func ask() {
        i4q_prefetch_far(line)
        i4q_prefetch_far(line + 64)
        i4q_prefetch_far(line + 128)
        i4q_prefetch_far(line + 192)
        line += stepBytes
    }
}

/// Rows of prepared activations, row after row or 32 of them interleaved.
struct TileActivations {
    private let base: UnsafeRawPointer
    private let rowBytes: Int
    /// From one row to the next of up to 32 from a multiple of 32 on, and from one line of a row to the next.
    let rowStride: Int
    let lineStride: Int

    @inline(__always)
    init(_ p: i4q_product) {
        base = UnsafeRawPointer(p.prepared.unsafelyUnwrapped)
        rowBytes = Int(p.prepared_row_bytes)
        lineStride = Int(p.prepared_line_stride)
        rowStride = lineStride == tileRowBytes ? rowBytes : tileRowBytes
    }

    /// The next piece of 32 rows from `row` on within the tile, or the first: a pair of blocks asks for a part of it.
    @inline(__always)
    func ahead<Arithmetic: TileArithmetic>(_ p: i4q_product, _ t: i4q_tile, _ piece: TilePiece, _ row: Int, _ arithmetic: Arithmetic.Type) -> RowsAhead {
        let next = piece.k.upperBound < Int(p.k_padded) ? piece.k.upperBound : 0
        let lines = at(row: Int(t.row_begin) &+ row, next &* Arithmetic.elementBytes) + piece.block / tileBlocks &* lineStride
        return RowsAhead(line: lines, stepBytes: lineStride == tileRowBytes ? 0 : RowsAhead.lines &* tileRowBytes)
    }

    /// `row` is a multiple of 32 unless rows stand one after the other.
    @_transparent
    func at(row: Int, _ offset: Int) -> UnsafeRawPointer {
        base + ((row & ~31) &* rowBytes &+ (row & 31) &* rowStride &+ (offset &>> 6) &* lineStride &+ (offset & 63))
    }
}

/// Where the four sums stand in memory: tile 2 r + b's 16 rows on for r, and `blockBytes` for b.
struct TileSums {
    let base: UnsafeMutableRawPointer
    let stride: Int
    private let blockBytes: Int

    /// In a panel, until they are scaled.
    @inline(__always)
    init(_ panel: TilePanel, turn: Int) {
        base = panel.sums(turn)
        stride = tileBlocks &* tileRowBytes
        blockBytes = tileRowBytes
    }

    /// Among the totals, from a row and a block of the tile of the result on; the second block is `blockStep` further.
    @inline(__always)
    init(totals t: i4q_tile, row: Int, block: Int, blockStep: Int) {
        stride = Int(t.out_stride) &* 4
        base = UnsafeMutableRawPointer(t.out.unsafelyUnwrapped) + (row &* stride &+ block &* tileRowBytes)
        blockBytes = blockStep &* tileRowBytes
    }

    @_transparent func at(_ half: Int, _ block: Int) -> UnsafeMutableRawPointer { base + (half &* 16 &* stride &+ block &* blockBytes) }

    @_transparent func store(_ tile: Int32, _ half: Int, _ block: Int) { i4q_tile_store(tile, at(half, block), Int64(stride)) }
    @_transparent func load(_ tile: Int32, _ half: Int, _ block: Int) { i4q_tile_load(tile, at(half, block), Int64(stride)) }
}

/// Which of the four sums there are: tile 2 r + b is that of the rows' half r and of block b.
struct TileShape {
    let rows: Int
    let hasSecondBlock: Bool

    @_transparent var hasSecondHalf: Bool { rows > 16 }

    /// Each of them: its tile, half and block.
    @_transparent
    func eachSum(_ body: (_ tile: Int32, _ half: Int, _ block: Int) -> Void) {
        body(0, 0, 0)
        if hasSecondBlock { body(1, 0, 1) }
        if hasSecondHalf { body(2, 1, 0) }
        if hasSecondHalf && hasSecondBlock { body(3, 1, 1) }
    }

    /// A step's activations, from rows `stride` bytes apart, and weights.
    @_transparent
    func load(_ x: UnsafeRawPointer, _ stride: Int, _ weights: UnsafeRawPointer) {
        i4q_tile_load(6, weights, Int64(tileRowBytes))
        if hasSecondBlock { i4q_tile_load(7, weights + panelBlockBytes, Int64(tileRowBytes)) }
        i4q_tile_load(4, x, Int64(stride))
        if hasSecondHalf { i4q_tile_load(5, x + 16 &* stride, Int64(stride)) }
    }

    /// A group's step. Before its first one each tile's sums of the group before leave, if there are any.
    @_transparent
    func multiply<Arithmetic: TileArithmetic>(_ arithmetic: Arithmetic.Type, isFirst: Bool, hasSums: Bool, _ sums: TileSums) {
        eachSum { tile, half, block in
            if isFirst {
                if hasSums { sums.store(tile, half, block) }
                i4q_tile_zero(tile)
            }
            Arithmetic.multiply(tile)
        }
    }

    @_transparent
    func multiply<Arithmetic: TileArithmetic>(_ arithmetic: Arithmetic.Type) {
        Arithmetic.multiply(0)
        if hasSecondBlock { Arithmetic.multiply(1) }
        if hasSecondHalf { Arithmetic.multiply(2) }
        if hasSecondHalf && hasSecondBlock { Arithmetic.multiply(3) }
    }
}
