// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// BF16 mode in tiles: codes are exact in bfloat16 (a codebook's values are rounded), and groups are scaled as in F32 mode.

func multiplyBF16Tiles(_ p: i4q_product, _ t: i4q_tile) {
    if p.kind == Kind.asymmetric {
        CoverTiles<UnpackBFloats, ShiftedBFloat>.run(p, t)
    } else if p.kind == Kind.offset {
        CoverTiles<UnpackBFloats, OffsetBFloat>.run(p, t)
    } else {
        CoverTiles<UnpackBFloats, PlainBFloat>.run(p, t)
    }
}

/// A code row becomes four rows of a tile: pairs of neighbours in k.
struct UnpackBFloats: TileUnpacker {
    typealias Arithmetic = BFloatPairs
    static var isCommon: Bool { true }
    private let codes: BFloatCodes

    @inline(__always) init(_ p: i4q_product) { codes = BFloatCodes(codebook: p.codebook) }
    @inline(__always) mutating func enter(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int) {}

    @inline(__always)
    func unpack(_ block: UnsafeRawPointer, k: Int, count: Int, _ panel: UnsafeMutableRawPointer) {
        var source = block + k &* 8, target = panel
        for _ in 0..<count &>> 3 {
            i4q_prefetch(source + prefetchDistance)
            i4q_prefetch_far(source + farDistance)
            let packed = source.words(0)
            target.storeBytes(of: codes.bfloats(packed, pair: 0), as: Register.self)
            target.storeBytes(of: codes.bfloats(packed, pair: 1), toByteOffset: 64, as: Register.self)
            target.storeBytes(of: codes.bfloats(packed, pair: 2), toByteOffset: 128, as: Register.self)
            target.storeBytes(of: codes.bfloats(packed, pair: 3), toByteOffset: 192, as: Register.self)
            source += codeRowBytes
            target += 256
        }
    }

    @inline(__always)
    func columns(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, _ scale: Floats) -> (scale: Floats, extra: Words) {
        var extra = Floats(repeating: 0)
        if p.kind == Kind.asymmetric {
            extra = i4q_float_from_i32(Ints(repeating: 8) &- loadZeroPoints(block + Int(p.zeros_offset), group))
        } else if p.kind == Kind.offset {
            extra = centredOffset(p, block, group, scale)
        }
        return (scale: scale, extra: bits(extra))
    }
}
