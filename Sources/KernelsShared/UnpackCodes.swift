// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// Writes codes of a block to rows of a tensor: 16 code rows, 128 values of k, are a square of lanes that is transposed.
func unpackCodes(_ u: i4q_code_unpacking) {
    let ordered = u.scratch.unsafelyUnwrapped, square = ordered + lanes &* 64
    let block = UnsafeRawPointer(u.block.unsafelyUnwrapped)
    var first = 0
    while first < Int(u.code_rows) {
        for row in 0..<min(lanes, Int(u.code_rows) &- first) {
            let words = inOrder(block.words((first &+ row) &* codeRowBytes))
            ordered.storeBytes(of: words, toByteOffset: row &* 64, as: Words.self)
        }
        transposeSquare(ordered, 64, into: square)
        copy(square, u, byte: first &* 4)
        first &+= lanes
    }
}

@inline(__always)
private func copy(_ square: UnsafeMutableRawPointer, _ u: i4q_code_unpacking, byte: Int) {
    let bytes = min(Int(u.row_bytes) &- byte, 64)
    for row in 0..<Int(u.row_count) {
        let source = UnsafeRawPointer(square) + row &* 64
        let target = UnsafeMutableRawPointer(u.codes.unsafelyUnwrapped) + (row &* Int(u.stride) &+ byte)
        if bytes == 64 {
            target.storeBytes(of: source.words(0), as: Words.self)
        } else {
            target.copyMemory(from: source, byteCount: bytes)
        }
    }
}

/// From k 0 2 4 6 in the low half of a lane and 1 3 5 7 in the high half to the order of k, low nibble first.
@inline(__always)
private func inOrder(_ words: Words) -> Words {
    let even = spread(words & Words(repeating: 0xffff)), odd = spread(words &>> Words(repeating: 16))
    return even | odd &<< Words(repeating: 4)
}

/// Four nibbles to the low halves of four bytes.
@inline(__always)
private func spread(_ nibbles: Words) -> Words {
    let pairs = (nibbles | nibbles &<< Words(repeating: 8)) & Words(repeating: 0x00ff_00ff)
    return (pairs | pairs &<< Words(repeating: 4)) & Words(repeating: 0x0f0f_0f0f)
}
