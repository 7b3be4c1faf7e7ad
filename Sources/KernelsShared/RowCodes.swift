// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// Codebooks of rows: each lane has a table of its own, which no permutation of a register can read. So all sixteen entries are
/// there for all lanes, and the four bits of a code choose among them one after the other.
struct RowCodes: CodeReader {
    private let tables: UnsafePointer<Float>
    @inline(__always) init(codebook: UnsafePointer<Float>?) { tables = codebook.unsafelyUnwrapped }

    @inline(__always)
    func values(_ words: Words, pair: UInt32) -> (even: Floats, odd: Floats) {
        (i4q_look_up_lanes(tables, words, 4 &* pair), i4q_look_up_lanes(tables, words, 4 &* pair &+ 16))
    }
}

/// What a block's codes are read with: the tensor's codebook, the block's own, or none.
@inline(__always)
func codebook(_ p: i4q_product, _ block: UnsafeRawPointer) -> UnsafePointer<Float>? {
    p.codebooks_offset == 0 ? p.codebook : (block + Int(p.codebooks_offset)).assumingMemoryBound(to: Float.self)
}
