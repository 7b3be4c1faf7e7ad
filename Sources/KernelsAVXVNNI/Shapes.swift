// SPDX-License-Identifier: Apache-2.0

/// Shapes of register products: a vector of 16 lanes is two of the 16 registers.
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
