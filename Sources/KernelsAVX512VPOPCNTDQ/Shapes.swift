// SPDX-License-Identifier: Apache-2.0

/// BINARY mode.
enum BinaryShapes: TileShapes {
    typealias Panel = NoPanel
    typealias Tall = RegisterProductBinary<4, 4, LaneBits>
    typealias TallEdge = EachRow<4, RegisterProductBinary<1, 1, LaneBits>>
    typealias Middle = RegisterProductBinary<4, 4, LaneBits>
    typealias MiddleEdge = EachRow<4, RegisterProductBinary<1, 1, LaneBits>>
    typealias Low = RegisterProductBinary<1, 4, LaneBits>
    typealias LowEdge = RegisterProductBinary<1, 1, LaneBits>
    typealias Flat = RegisterProductBinary<1, 4, LaneBits>
    typealias FlatEdge = RegisterProductBinary<1, 1, LaneBits>
}
