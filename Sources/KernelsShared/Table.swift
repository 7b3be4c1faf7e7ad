// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// The functions of the table that an instruction set's Kernels.swift hands out. A C function pointer is made from each,
// so they take and return what C can.

enum ProductF32Runner<Codes: CodeReader>: RegisterTileRunner {
    @inline(__always)
    static func run(_ shape: TileShape, _ p: i4q_product, row: Int, block: Int,
                    out: UnsafeMutablePointer<Float>, outStride: Int) {
        RegisterTile.runF32(Codes.self, shape, p, row: row, block: block, out: out, outStride: outStride)
    }
}

enum ProductInt8Runner: RegisterTileRunner {
    @inline(__always)
    static func run(_ shape: TileShape, _ p: i4q_product, row: Int, block: Int,
                    out: UnsafeMutablePointer<Float>, outStride: Int) {
        RegisterTile.runInt8(shape, p, row: row, block: block, out: out, outStride: outStride)
    }
}

func makeTable(f32 f32Name: StaticString, int8 int8Name: StaticString) -> i4q_kernels {
    i4q_kernels(
        tile_f32_name: UnsafeRawPointer(f32Name.utf8Start).assumingMemoryBound(to: CChar.self),
        tile_int8_name: UnsafeRawPointer(int8Name.utf8Start).assumingMemoryBound(to: CChar.self),
        prepare_f32: { prepareF32($0.unsafelyUnwrapped.pointee) },
        prepare_int8: { prepareInt8($0.unsafelyUnwrapped.pointee) },
        tile_f32: { product, tile in
            let p = product.unsafelyUnwrapped, t = tile.unsafelyUnwrapped.pointee
            if p.pointee.codebook == nil {
                coverTile(ProductF32Runner<LinearCodes>.self, p.pointee, t)
            } else {
                coverTile(ProductF32Runner<TableCodes>.self, p.pointee, t)
            }
        },
        tile_int8: { product, tile in
            coverTile(ProductInt8Runner.self, product.unsafelyUnwrapped.pointee, tile.unsafelyUnwrapped.pointee)
        },
        load: { source, type, count, floats in
            loadRow(source.unsafelyUnwrapped, type: type, count: Int(count), into: floats.unsafelyUnwrapped)
        },
        store: { floats, count, type, destination in
            storeRow(floats.unsafelyUnwrapped, count: Int(count), type: type, into: destination.unsafelyUnwrapped)
        },
        group_range: { floats, count, range in
            range.unsafelyUnwrapped.pointee = findRange(floats.unsafelyUnwrapped, count: Int(count))
        },
        encode: { encoding, floats, count, codes in
            encodeRun(encoding.unsafelyUnwrapped.pointee, floats.unsafelyUnwrapped, count: Int(count),
                      codes.unsafelyUnwrapped)
        },
        decode: { decoding, codes, count, floats in
            decodeRun(decoding.unsafelyUnwrapped.pointee, codes.unsafelyUnwrapped, count: Int(count),
                      floats.unsafelyUnwrapped)
        })
}
