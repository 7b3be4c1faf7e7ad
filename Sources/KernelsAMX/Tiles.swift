// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// What products in tiles have in common: 32 rows of x by two blocks of 16 columns at a time, in four tiles of sums. A tile's
// step is 64 bytes of each row of x by 16 rows of weights, 64 bytes each, of a panel:
//
//     panel:  [block][step][16 rows] 64 bytes each

/// Rows of x that tiles hold at a time.
let tileRows = 32
let tileBlocks = 2
let tileBytes = 1024

protocol TileArithmetic {
    /// Adds to tile `sum`.
    @inline(__always) static func multiply(_ sum: Int32)
}

/// How many rows the tiles have. Configuring costs as much as tens of products, so it is done only for another number of rows.
struct TileConfiguration {
    private var rows = 0

    @inline(__always)
    mutating func set(rows wanted: Int) {
        if wanted == rows { return }
        rows = wanted
        i4q_tiles_configure(Int64(min(wanted, 16)), Int64(max(wanted &- 16, 0)))
    }

    /// Tiles that are in use make every switch of threads dearer, and the host may not expect them.
    @inline(__always)
    func release() { i4q_tiles_release() }
}

/// Products and sums of up to 16 (one row tile) or 32 rows by one or two blocks.
enum TileProduct<Arithmetic: TileArithmetic, let rowTiles: Int, let blocks: Int> {
    @inline(__always)
    static func zero() {
        i4q_tile_zero(0)
        if blocks > 1 { i4q_tile_zero(1) }
        if rowTiles > 1 { i4q_tile_zero(2) }
        if rowTiles > 1 && blocks > 1 { i4q_tile_zero(3) }
    }

    /// Sums from rows of `stride` bytes.
    @inline(__always)
    static func load(_ sums: UnsafeRawPointer, _ stride: Int) {
        i4q_tile_load(0, sums, Int64(stride))
        if blocks > 1 { i4q_tile_load(1, sums + 64, Int64(stride)) }
        if rowTiles > 1 { i4q_tile_load(2, sums + 16 &* stride, Int64(stride)) }
        if rowTiles > 1 && blocks > 1 { i4q_tile_load(3, sums + (16 &* stride &+ 64), Int64(stride)) }
    }

    @inline(__always)
    static func store(_ sums: UnsafeMutableRawPointer, _ stride: Int) {
        i4q_tile_store(0, sums, Int64(stride))
        if blocks > 1 { i4q_tile_store(1, sums + 64, Int64(stride)) }
        if rowTiles > 1 { i4q_tile_store(2, sums + 16 &* stride, Int64(stride)) }
        if rowTiles > 1 && blocks > 1 { i4q_tile_store(3, sums + (16 &* stride &+ 64), Int64(stride)) }
    }

    @inline(__always)
    static func add(_ x: UnsafeRawPointer, _ xStride: Int, _ panel: UnsafeRawPointer, blockBytes: Int, steps: Int) {
        for step in 0..<steps {
            let rows = x + step &* 64, weights = panel + step &* tileBytes
            i4q_tile_load(6, weights, 64)
            if blocks > 1 { i4q_tile_load(7, weights + blockBytes, 64) }
            i4q_tile_load(4, rows, Int64(xStride))
            if rowTiles > 1 { i4q_tile_load(5, rows + 16 &* xStride, Int64(xStride)) }
            Arithmetic.multiply(0)
            if blocks > 1 { Arithmetic.multiply(1) }
            if rowTiles > 1 { Arithmetic.multiply(2) }
            if rowTiles > 1 && blocks > 1 { Arithmetic.multiply(3) }
        }
    }
}
