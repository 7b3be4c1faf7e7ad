// SPDX-License-Identifier: Apache-2.0

/// Shapes of register products: a vector of 16 lanes is two of the 16 registers.
enum F32Shapes<Codes: CodeReader>: TileShapes {
    typealias Panel = FloatPanelProduct<6, 1, F32Panel<Codes>>
    typealias Tall = RegisterProductF32<4, 1, Codes>
    typealias TallEdge = RegisterProductF32<4, 1, Codes>
    typealias Middle = RegisterProductF32<2, 1, Codes>
    typealias MiddleEdge = RegisterProductF32<2, 1, Codes>
    typealias Low = RegisterProductF32<2, 1, Codes>
    typealias LowEdge = RegisterProductF32<2, 1, Codes>
    typealias Flat = RegisterProductF32<1, 2, Codes>
    typealias FlatEdge = RegisterProductF32<1, 1, Codes>
}

/// Codebooks of rows.
typealias RowProduct = RowTile<6, 1>

/// Products of panels.
typealias MatrixUpdate = RankUpdate<4, 1>

enum Int8Shapes<Dot: Int8Dot>: TileShapes {
    typealias Panel = NoPanel
    typealias Tall = RegisterProductInt8<4, 1, Dot>
    typealias TallEdge = RegisterProductInt8<4, 1, Dot>
    typealias Middle = RegisterProductInt8<2, 1, Dot>
    typealias MiddleEdge = RegisterProductInt8<2, 1, Dot>
    typealias Low = RegisterProductInt8<2, 1, Dot>
    typealias LowEdge = RegisterProductInt8<2, 1, Dot>
    typealias Flat = RegisterProductInt8<1, 4, Dot>
    typealias FlatEdge = RegisterProductInt8<1, 1, Dot>
}

/// Codes of 1 and 2 bits.
enum FewShapes: TileShapes {
    typealias Panel = NoPanel
    typealias Tall = RegisterProductInt8<4, 1, FewDot>
    typealias TallEdge = RegisterProductInt8<4, 1, FewDot>
    typealias Middle = RegisterProductInt8<4, 1, FewDot>
    typealias MiddleEdge = RegisterProductInt8<4, 1, FewDot>
    typealias Low = RegisterProductInt8<1, 2, FewDot>
    typealias LowEdge = RegisterProductInt8<1, 1, FewDot>
    typealias Flat = RegisterProductInt8<1, 2, FewDot>
    typealias FlatEdge = RegisterProductInt8<1, 1, FewDot>
}

/// BINARY mode.
enum BinaryShapes: TileShapes {
    typealias Panel = NoPanel
    typealias Tall = RegisterProductBinary<2, 1, LaneBits>
    typealias TallEdge = RegisterProductBinary<2, 1, LaneBits>
    typealias Middle = RegisterProductBinary<2, 1, LaneBits>
    typealias MiddleEdge = RegisterProductBinary<2, 1, LaneBits>
    typealias Low = RegisterProductBinary<1, 2, LaneBits>
    typealias LowEdge = RegisterProductBinary<1, 1, LaneBits>
    typealias Flat = RegisterProductBinary<1, 2, LaneBits>
    typealias FlatEdge = RegisterProductBinary<1, 1, LaneBits>
}
