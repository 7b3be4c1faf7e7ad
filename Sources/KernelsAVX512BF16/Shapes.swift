// SPDX-License-Identifier: Apache-2.0

/// Shapes of register products: 32 registers of 16 lanes; four blocks abreast are four streams from memory.
enum BF16Shapes<Codes: BFloatReader>: TileShapes {
    typealias Panel = FloatPanelProduct<8, 2, BFloatPanel<Codes>>
    typealias Tall = RegisterProductBF16<8, 2, Codes>
    typealias TallEdge = EachRow<8, RegisterProductBF16<4, 1, Codes>>
    typealias Middle = RegisterProductBF16<4, 4, Codes>
    typealias MiddleEdge = RegisterProductBF16<4, 1, Codes>
    typealias Low = RegisterProductBF16<2, 4, Codes>
    typealias LowEdge = EachRow<2, RegisterProductBF16<1, 1, Codes>>
    typealias Flat = RegisterProductBF16<1, 4, Codes>
    typealias FlatEdge = RegisterProductBF16<1, 1, Codes>
}
