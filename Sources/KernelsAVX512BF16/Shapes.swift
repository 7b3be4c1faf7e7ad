// SPDX-License-Identifier: Apache-2.0

/// Shapes of register products: 32 registers of 16 lanes; four blocks abreast are four streams from memory.
enum BF16Shapes: TileShapes {
    typealias Panel = FloatPanelProduct<8, 2, BFloatPanel>
    typealias Tall = RegisterProductBF16<8, 2>
    typealias TallEdge = EachRow<8, RegisterProductBF16<4, 1>>
    typealias Middle = RegisterProductBF16<4, 4>
    typealias MiddleEdge = RegisterProductBF16<4, 1>
    typealias Low = RegisterProductBF16<2, 4>
    typealias LowEdge = EachRow<2, RegisterProductBF16<1, 1>>
    typealias Flat = RegisterProductBF16<1, 4>
    typealias FlatEdge = RegisterProductBF16<1, 1>
}
