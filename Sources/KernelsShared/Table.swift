// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// The functions of the table that an instruction set's Kernels.swift hands out. A C function pointer is made from each,
// so they take and return what C can.

@inline(__always)
func constant(_ text: StaticString) -> UnsafePointer<CChar> { UnsafeRawPointer(text.utf8Start).assumingMemoryBound(to: CChar.self) }

/// Linear codes and codebooks have kernels of their own.
@inline(__always)
func multiply<Linear: TileShapes, Table: TileShapes>(_ linear: Linear.Type, _ table: Table.Type, _ p: i4q_product, _ t: i4q_tile) {
    if p.codebook == nil { coverTile(linear, p, t) } else { coverTile(table, p, t) }
}

/// In INT8 mode codes of 8 bits, and those of 1 and 2.
@inline(__always)
func multiply<Linear: TileShapes, Table: TileShapes, Bytes: TileShapes, Few: TileShapes>(
    _ linear: Linear.Type, _ table: Table.Type, bytes: Bytes.Type, few: Few.Type, _ p: i4q_product, _ t: i4q_tile) {
    switch p.code_bits {
    case 4: multiply(linear, table, p, t)
    case 8: coverTile(bytes, p, t)
    default: coverTile(few, p, t)
    }
}

/// And in F32 mode codebooks of rows, and codes that are no nibbles.
@inline(__always)
func multiply<Linear: TileShapes, Table: TileShapes, Rows: WholeTile>(_ linear: Linear.Type, _ table: Table.Type, _ rows: Rows.Type,
                                                                        _ p: i4q_product, _ t: i4q_tile) {
    if p.codebooks_offset != 0 || p.code_bits != 4 { rows.run(p, t) } else { multiply(linear, table, p, t) }
}

extension i4q_kernels {
    /// Rows of activations, and what is added to products beside a blob's codes.
    @inline(__always)
    mutating func fillPreparing() {
        largest_tile_rows = 128
        largest_tile_blocks = 4
        interleaves_rows = 0
        prepare_f32 = { prepareF32($0.unsafelyUnwrapped.pointee) }
        prepare_int8 = { prepareInt8($0.unsafelyUnwrapped.pointee) }
        prepare_bf16 = { prepareRounded($0.unsafelyUnwrapped.pointee) }
        prepare_binary = { prepareBinary($0.unsafelyUnwrapped.pointee) }
        bf16_element_bytes = 4
        project = { projectRow($0.unsafelyUnwrapped.pointee) }
        add_parts = { parts, tile in addPartsToTile(parts.unsafelyUnwrapped.pointee, tile.unsafelyUnwrapped.pointee) }
    }

    /// Conversions, quantizing, results.
    @inline(__always)
    mutating func fillElementwise() {
        finish_row = { epilogue, totals, count, type, destination in
            finishRow(epilogue.unsafelyUnwrapped.pointee, totals.unsafelyUnwrapped, count: Int(count), type: type,
                      into: destination.unsafelyUnwrapped)
        }
        load = { source, type, count, floats in
            loadRow(source.unsafelyUnwrapped, type: type, count: Int(count), into: floats.unsafelyUnwrapped)
        }
        store = { floats, count, type, destination in
            storeRow(floats.unsafelyUnwrapped, count: Int(count), type: type, into: destination.unsafelyUnwrapped)
        }
        group_range = { floats, count, range in
            range.unsafelyUnwrapped.pointee = findRange(floats.unsafelyUnwrapped, count: Int(count))
        }
        encode = { encoding, floats, count, codes in
            encodeRun(encoding.unsafelyUnwrapped.pointee, floats.unsafelyUnwrapped, count: Int(count),
                      codes.unsafelyUnwrapped)
        }
        quantize_block = { quantization, first in
            Int64(quantizeBlock(quantization.unsafelyUnwrapped.pointee, from: Int(first)))
        }
        unpack_codes = { unpackCodes($0.unsafelyUnwrapped.pointee) }
        decode = { decoding, codes, count, floats in
            decodeRun(decoding.unsafelyUnwrapped.pointee, codes.unsafelyUnwrapped, count: Int(count),
                      floats.unsafelyUnwrapped)
        }
        wide_product = { multiplyWide($0.unsafelyUnwrapped.pointee) }
        round_columns = { roundColumns($0.unsafelyUnwrapped.pointee) }
    }

    /// Block formats.
    @inline(__always)
    mutating func fillBlocks() {
        quantize_batch = { quantizeBatch($0.unsafelyUnwrapped.pointee) }
    }
}
