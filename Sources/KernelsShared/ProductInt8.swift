// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// INT8 mode, a register tile of `rows` x `blocks`. Each group's dot product is an exact int32, so instruction sets are
/// free in how they get it; the floats after it have one order (docs/numerics.md).
enum RegisterProductInt8<let rows: Int, let blocks: Int> {
    typealias Totals = TotalsInMemory<rows, blocks>
    typealias Dots = InlineArray<rows, InlineArray<blocks, Ints>>

    @inline(never)
    static func run(_ p: i4q_product, row: Int, block: Int, out: UnsafeMutablePointer<Float>, outStride: Int) {
        let weights = UnsafeRawPointer(p.blocks.unsafelyUnwrapped) + block &* Int(p.block_bytes)
        let x = UnsafeRawPointer(p.prepared.unsafelyUnwrapped) + row &* Int(p.prepared_row_bytes)
        let groupSize = Int(p.group_size), padded = Int(p.k_padded)
        let totals = Totals(zeroing: out, stride: outStride)
        for group in 0..<Int(p.group_count) {
            let begin = group &* groupSize
            let end = min(begin &+ groupSize, padded)
            var dots = zeroPointShares(p, group, weights, x)
            var k = begin
            while k < end {
                let count = min(end &- k, DotSum.depth)
                accumulate(&dots, p, weights + k &* 8, x + k, codeRows: count / codeRowDepth)
                k &+= count
            }
            finish(totals, dots, p, group, weights, x)
        }
    }

    /// Sums start at -(zero point) * (sum of the activation codes), since codes are read as 0..15.
    @inline(__always)
    private static func zeroPointShares(_ p: i4q_product, _ group: Int, _ weights: UnsafeRawPointer,
                                        _ x: UnsafeRawPointer) -> Dots {
        var dots = Dots(repeating: .init(repeating: Ints(repeating: 0)))
        let sums = x + (Int(p.prepared_sums_offset) &+ group &* 4)
        if p.kind == Kind.asymmetric {
            for b in 0..<blocks {
                let zeros = loadZeroPoints(weights + (b &* Int(p.block_bytes) &+ Int(p.zeros_offset)), group)
                for r in 0..<rows {
                    let negated = Ints(repeating: 0 &- sums.int32(r &* Int(p.prepared_row_bytes)))
                    dots[r][b] = zeros &* negated
                }
            }
        } else {
            for r in 0..<rows {
                let share = Ints(repeating: -8 &* sums.int32(r &* Int(p.prepared_row_bytes)))
                for b in 0..<blocks { dots[r][b] = share }
            }
        }
        return dots
    }

    /// Up to DotSum.depth values of k, within which an instruction set may keep narrower sums.
    @inline(__always)
    private static func accumulate(_ dots: inout Dots, _ p: i4q_product, _ weights: UnsafeRawPointer,
                                   _ x: UnsafeRawPointer, codeRows: Int) {
        let blockBytes = Int(p.block_bytes), xStride = Int(p.prepared_row_bytes)
        var sums = InlineArray<rows, InlineArray<blocks, DotSum>>(repeating: .init(repeating: DotSum(Ints(repeating: 0))))
        for r in 0..<rows { for b in 0..<blocks { sums[r][b] = DotSum(dots[r][b]) } }
        for codeRow in 0..<codeRows {
            for b in 0..<blocks {
                let packed = weights.words(b &* blockBytes &+ codeRow &* codeRowBytes)
                let codes = DotSum.unpack(packed)
                for r in 0..<rows {
                    sums[r][b].add(codes, x + (r &* xStride &+ codeRow &* codeRowDepth))
                }
            }
        }
        for r in 0..<rows { for b in 0..<blocks { dots[r][b] = sums[r][b].total(startedFrom: dots[r][b]) } }
    }

    @inline(__always)
    private static func finish(_ totals: Totals, _ dots: Dots, _ p: i4q_product, _ group: Int,
                               _ weights: UnsafeRawPointer, _ x: UnsafeRawPointer) {
        let xStride = Int(p.prepared_row_bytes)
        let xScales = x + (Int(p.prepared_scales_offset) &+ group &* 4)
        for b in 0..<blocks {
            let block = weights + b &* Int(p.block_bytes)
            let scale = loadColumnValues(block + Int(p.scales_offset), group, type: p.scale_type)
            for r in 0..<rows {
                let both = scale * Floats(repeating: xScales.float(r &* xStride))
                totals[r, b] = fusedMultiplyAdd(i4q_float_from_i32(dots[r][b]), both, totals[r, b])
            }
            if p.kind == Kind.offset {
                let offset = centredOffset(p, block, group, scale)
                let sums = x + (Int(p.prepared_sums_offset) &+ group &* 4)
                for r in 0..<rows {
                    let both = offset * Floats(repeating: xScales.float(r &* xStride))
                    let sum = Floats(repeating: Float(sums.int32(r &* xStride)))
                    totals[r, b] = fusedMultiplyAdd(sum, both, totals[r, b])
                }
            }
        }
    }
}
