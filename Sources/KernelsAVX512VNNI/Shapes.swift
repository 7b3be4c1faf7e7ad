// SPDX-License-Identifier: Apache-2.0

/// Shapes of register products: 32 registers of 16 lanes; four blocks abreast are four streams from memory.
enum F32Shapes<Codes: CodeReader>: TileShapes {
    typealias Panel = FloatPanelProduct<6, 4, F32Panel<Codes>>
    typealias Tall = RegisterProductF32<8, 2, Codes>
    typealias TallEdge = EachRow<8, RegisterProductF32<4, 1, Codes>>
    typealias Middle = RegisterProductF32<4, 4, Codes>
    typealias MiddleEdge = RegisterProductF32<4, 1, Codes>
    typealias Low = RegisterProductF32<2, 4, Codes>
    typealias LowEdge = EachRow<2, RegisterProductF32<1, 1, Codes>>
    typealias Flat = RegisterProductF32<1, 4, Codes>
    typealias FlatEdge = RegisterProductF32<1, 1, Codes>
}

/// Codebooks of rows; as a panel's product.
typealias RowProduct = RowTile<8, 2>

/// Products of panels.
typealias MatrixUpdate = RankUpdate<8, 2>

enum Int8Shapes<Dot: Int8Dot>: TileShapes {
    typealias Panel = NoPanel
    typealias Tall = RegisterProductInt8<6, 2, Dot>
    typealias TallEdge = EachRow<6, RegisterProductInt8<1, 1, Dot>>
    typealias Middle = RegisterProductInt8<4, 4, Dot>
    typealias MiddleEdge = EachRow<4, RegisterProductInt8<1, 1, Dot>>
    typealias Low = RegisterProductInt8<2, 4, Dot>
    typealias LowEdge = EachRow<2, RegisterProductInt8<1, 1, Dot>>
    typealias Flat = RegisterProductInt8<1, 4, Dot>
    typealias FlatEdge = RegisterProductInt8<1, 1, Dot>
}

/// Codes of 1 and 2 bits.
enum FewShapes: TileShapes {
    typealias Panel = NoPanel
    typealias Tall = RegisterProductInt8<4, 4, FewDot>
    typealias TallEdge = EachRow<4, RegisterProductInt8<1, 1, FewDot>>
    typealias Middle = RegisterProductInt8<4, 4, FewDot>
    typealias MiddleEdge = EachRow<4, RegisterProductInt8<1, 1, FewDot>>
    typealias Low = RegisterProductInt8<1, 4, FewDot>
    typealias LowEdge = RegisterProductInt8<1, 1, FewDot>
    typealias Flat = RegisterProductInt8<1, 4, FewDot>
    typealias FlatEdge = RegisterProductInt8<1, 1, FewDot>
}

/// BINARY mode.
enum BinaryShapes: TileShapes {
    typealias Panel = NoPanel
    typealias Tall = RegisterProductBinary<4, 2, LaneBits>
    typealias TallEdge = EachRow<4, RegisterProductBinary<1, 1, LaneBits>>
    typealias Middle = RegisterProductBinary<4, 2, LaneBits>
    typealias MiddleEdge = EachRow<4, RegisterProductBinary<1, 1, LaneBits>>
    typealias Low = RegisterProductBinary<1, 4, LaneBits>
    typealias LowEdge = RegisterProductBinary<1, 1, LaneBits>
    typealias Flat = RegisterProductBinary<1, 4, LaneBits>
    typealias FlatEdge = RegisterProductBinary<1, 1, LaneBits>
}
