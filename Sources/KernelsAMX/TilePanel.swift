// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// What of one or two blocks of weights is unpacked at a time, for all rows of a tile. It shares the first-level cache with the sums.
//
//     0      [block][4 k (bfloat16: 2 k)] 64 bytes: 16 columns' weights
//     16384  [turn][32 rows][block] 64 bytes: sums of one group, before they are scaled
//     24576  [group][block] 64 bytes: scales
//     28672  [group][block] 64 bytes: what else a kind has for a group
//     32768  128 bytes: zeros

/// Bytes of one block's weights.
let panelBlockBytes = 8192
private let sumsOffset = tileBlocks &* panelBlockBytes
private let sumsBytes = tileRows &* tileBlocks &* tileRowBytes
private let scalesOffset = sumsOffset &+ 2 &* sumsBytes
private let extrasOffset = scalesOffset &+ 4096
private let zerosOffset = extrasOffset &+ 4096

struct TilePanel {
    let base: UnsafeMutableRawPointer

    @inline(__always)
    init(_ t: i4q_tile) { base = t.panel.unsafelyUnwrapped }

    /// Before groups are scaled, once for a tile of the result.
    @inline(__always)
    func setZeros() { zeroBytes(base, from: zerosOffset, to: zerosOffset &+ tileBlocks &* tileRowBytes) }

    /// Values of k that it holds.
    @inline(__always)
    static func depth<Arithmetic: TileArithmetic>(_ arithmetic: Arithmetic.Type) -> Int { panelBlockBytes / (16 &* Arithmetic.elementBytes) }

    /// Two turns, so that one group's sums are scaled while the next one's come.
    @_transparent func sums(_ turn: Int) -> UnsafeMutableRawPointer { base + (sumsOffset &+ (turn & 1) &* sumsBytes) }
    @_transparent func columns(_ group: Int) -> UnsafeMutableRawPointer { base + (scalesOffset &+ group &* tileBlocks &* tileRowBytes) }
    /// From a group's scales to what else there is.
    @_transparent static var extras: Int { extrasOffset &- scalesOffset }
    /// Totals to begin with, for both blocks.
    @_transparent var zeros: UnsafeRawPointer { UnsafeRawPointer(base + zerosOffset) }

    /// A tile's step, if weights are unpacked step by step.
    @_transparent func step(_ place: Int) -> UnsafeMutableRawPointer { base + (place & (stepPlaces &- 1)) &* (16 &* tileRowBytes) }

    /// Columns of one group of a block.
    @inline(__always)
    func setColumns(_ group: Int, _ block: Int, scale: Floats, extra: Words) {
        let place = columns(group) + block &* tileRowBytes
        place.storeBytes(of: scale, as: Floats.self)
        place.storeBytes(of: extra, toByteOffset: TilePanel.extras, as: Words.self)
    }
}

/// What of k and of a tile's blocks a panel holds.
struct TilePiece {
    let k: Range<Int>
    /// Within the tile.
    let block: Int
    let blocks: Int
    /// All of which k has a part.
    let groups: Range<Int>
}
