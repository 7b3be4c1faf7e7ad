// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// A tile is covered by register tiles. Few rows: several blocks side by side, which are several streams from memory and
// independent chains of additions. Many rows: fewer blocks, more rows, so that decoding is shared. Either way each
// output's own order of operations is the same.

/// Runs one register tile of the named shape; `shape` is a constant wherever it is called.
protocol RegisterTileRunner {
    @inline(__always) static func run(_ shape: TileShape, _ p: i4q_product, row: Int, block: Int,
                                      out: UnsafeMutablePointer<Float>, outStride: Int)
}

struct TileShape {
    var rows: Int
    var blocks: Int
}

@inline(__always)
func coverTile<Runner: RegisterTileRunner>(_ runner: Runner.Type, _ p: i4q_product, _ t: i4q_tile) {
    var rowsDone = 0
    let rowCount = Int(t.row_count)
    while rowsDone < rowCount {
        let rowsLeft = rowCount &- rowsDone
        let tall = rowsLeft >= RegisterTile.tall.rows
        let rows = tall ? RegisterTile.tall.rows : (rowsLeft >= RegisterTile.middle.rows ? RegisterTile.middle.rows : 1)
        let wide = tall ? RegisterTile.tall.blocks : (rows > 1 ? RegisterTile.middle.blocks : RegisterTile.flat.blocks)
        var blocksDone = 0
        while blocksDone < Int(t.block_count) {
            let blocks = Int(t.block_count) &- blocksDone >= wide ? wide : 1
            let out = t.out.unsafelyUnwrapped + (rowsDone &* Int(t.out_stride) &+ blocksDone &* lanes)
            Runner.run(TileShape(rows: rows, blocks: blocks), p, row: Int(t.row_begin) &+ rowsDone,
                       block: Int(t.block_begin) &+ blocksDone, out: out, outStride: Int(t.out_stride))
            blocksDone &+= blocks
        }
        rowsDone &+= rows
    }
}
