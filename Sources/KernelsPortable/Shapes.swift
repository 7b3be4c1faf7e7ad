// SPDX-License-Identifier: Apache-2.0

/// Shapes of register products: a vector of 16 lanes is four registers of SSE2 or NEON.
///
/// F32 mode spends its time in emulated multiply-adds, so nothing is shared between rows.
enum F32Shapes<Codes: CodeReader>: TileShapes {
    typealias Panel = NoPanel
    typealias Tall = RegisterProductF32<1, 1, Codes>
    typealias TallEdge = RegisterProductF32<1, 1, Codes>
    typealias Middle = RegisterProductF32<1, 1, Codes>
    typealias MiddleEdge = RegisterProductF32<1, 1, Codes>
    typealias Low = RegisterProductF32<1, 1, Codes>
    typealias LowEdge = RegisterProductF32<1, 1, Codes>
    typealias Flat = RegisterProductF32<1, 1, Codes>
    typealias FlatEdge = RegisterProductF32<1, 1, Codes>
}

/// Codebooks of rows.
typealias RowProduct = RowTile<1, 1>

/// Products of panels.
typealias MatrixUpdate = RankUpdate<2, 1>

enum Int8Shapes<Dot: Int8Dot>: TileShapes {
    typealias Panel = NoPanel
    typealias Tall = RegisterProductInt8<2, 1, Dot>
    typealias TallEdge = RegisterProductInt8<2, 1, Dot>
    typealias Middle = RegisterProductInt8<2, 1, Dot>
    typealias MiddleEdge = RegisterProductInt8<2, 1, Dot>
    typealias Low = RegisterProductInt8<2, 1, Dot>
    typealias LowEdge = RegisterProductInt8<2, 1, Dot>
    typealias Flat = RegisterProductInt8<1, 1, Dot>
    typealias FlatEdge = RegisterProductInt8<1, 1, Dot>
}

/// Codes of 1 and 2 bits and of 8.
enum FewShapes: TileShapes {
    typealias Panel = NoPanel
    typealias Tall = RegisterProductInt8<1, 1, FewDot>
    typealias TallEdge = RegisterProductInt8<1, 1, FewDot>
    typealias Middle = RegisterProductInt8<1, 1, FewDot>
    typealias MiddleEdge = RegisterProductInt8<1, 1, FewDot>
    typealias Low = RegisterProductInt8<1, 1, FewDot>
    typealias LowEdge = RegisterProductInt8<1, 1, FewDot>
    typealias Flat = RegisterProductInt8<1, 1, FewDot>
    typealias FlatEdge = RegisterProductInt8<1, 1, FewDot>
}

/// BINARY mode.
enum BinaryShapes: TileShapes {
    typealias Panel = NoPanel
    typealias Tall = RegisterProductBinary<1, 1, LaneBits>
    typealias TallEdge = RegisterProductBinary<1, 1, LaneBits>
    typealias Middle = RegisterProductBinary<1, 1, LaneBits>
    typealias MiddleEdge = RegisterProductBinary<1, 1, LaneBits>
    typealias Low = RegisterProductBinary<1, 1, LaneBits>
    typealias LowEdge = RegisterProductBinary<1, 1, LaneBits>
    typealias Flat = RegisterProductBinary<1, 1, LaneBits>
    typealias FlatEdge = RegisterProductBinary<1, 1, LaneBits>
}
