// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// How two neighbours in k of each packed lane become floats.
protocol CodeReader {
    init(codebook: UnsafePointer<Float>?)
    /// The values of k 2 `pair` and 2 `pair` + 1 of each lane; pair 0..3.
    @inline(__always) func values(_ words: Words, pair: UInt32) -> (even: Floats, odd: Floats)
}

/// F32 mode: weights are decoded once for all rows of the register product.
///
/// The order of operations is part of the contract (docs/numerics.md): per group one chain of fused multiply-adds over
/// k, then the zero point's share, then the scale. Every lane is one output, so no lane is ever summed with another.
enum RegisterProductF32<let rows: Int, let blocks: Int, Codes: CodeReader>: RegisterProduct {
    typealias Accumulators = InlineArray<blocks, InlineArray<rows, Floats>>
    typealias Totals = TotalsInMemory<rows, blocks>

    static var rowCount: Int { rows }
    static var blockCount: Int { blocks }

    @inline(never)
    static func run(_ p: i4q_product, row: Int, block: Int, step: Int, groups: Range<Int>, out: UnsafeMutablePointer<Float>,
                    outStride: Int) {
        let codes = Codes(codebook: p.codebook)
        let weights = UnsafeRawPointer(p.blocks.unsafelyUnwrapped) + block &* Int(p.block_bytes)
        let x = UnsafeRawPointer(p.prepared.unsafelyUnwrapped) + row &* Int(p.prepared_row_bytes)
        let xStride = Int(p.prepared_row_bytes), blockBytes = step &* Int(p.block_bytes)
        let groupSize = Int(p.group_size), padded = Int(p.k_padded)
        let totals = Totals(out, stride: outStride, step: step, isFirst: groups.lowerBound == 0)
        for group in groups {
            let begin = group &* groupSize
            let end = min(begin &+ groupSize, padded)
            var dots = Accumulators(repeating: .init(repeating: Floats(repeating: 0)))
            var k = begin
            while k < end {
                accumulate(&dots, p, codes, weights + k &* 8, blockBytes, x + k &* 4, xStride)
                k &+= codeRowDepth
            }
            if rows <= 4 && hasShortBlocks(p) { prefetchNextParameters(p, group, weights, blockBytes, blocks) }
            let sums = x + (Int(p.prepared_sums_offset) &+ group &* 4)
            GroupScaling<rows, blocks>.run(totals, dots, p, group, weights, blockBytes, sums)
        }
    }

    /// Eight values of k.
    @inline(__always)
    private static func accumulate(_ dots: inout Accumulators, _ p: i4q_product, _ codes: Codes, _ weights: UnsafeRawPointer,
                                   _ blockBytes: Int, _ x: UnsafeRawPointer, _ xStride: Int) {
        var packed = InlineArray<blocks, Words>(repeating: Words(repeating: 0))
        for b in 0..<blocks {
            askAhead(weights + b &* blockBytes, rows: rows, isFloat: true, isShort: hasShortBlocks(p))
            packed[b] = weights.words(b &* blockBytes)
        }
        step(&dots, codes, packed, 0, x, xStride)
        step(&dots, codes, packed, 1, x + 8, xStride)
        step(&dots, codes, packed, 2, x + 16, xStride)
        step(&dots, codes, packed, 3, x + 24, xStride)
    }

    /// Two values of k. Blocks inside rows: a broadcast activation is used up before the next one needs a register.
    @inline(__always)
    private static func step(_ dots: inout Accumulators, _ codes: Codes, _ packed: InlineArray<blocks, Words>,
                             _ pair: UInt32, _ x: UnsafeRawPointer, _ xStride: Int) {
        var even = InlineArray<blocks, Floats>(repeating: Floats(repeating: 0)), odd = even
        for b in 0..<blocks { (even[b], odd[b]) = codes.values(packed[b], pair: pair) }
        for r in 0..<rows {
            let activation = Floats(repeating: x.float(r &* xStride))
            for b in 0..<blocks { dots[b][r] = fusedMultiplyAdd(activation, even[b], dots[b][r]) }
        }
        for r in 0..<rows {
            let activation = Floats(repeating: x.float(r &* xStride &+ 4))
            for b in 0..<blocks { dots[b][r] = fusedMultiplyAdd(activation, odd[b], dots[b][r]) }
        }
    }
}

/// What follows a group's float dot products: the zero point's or offset's share, and the scale. For F32 and BF16 mode.
enum GroupScaling<let rows: Int, let blocks: Int> {
    typealias Dots = InlineArray<blocks, InlineArray<rows, Floats>>
    typealias Totals = TotalsInMemory<rows, blocks>

    /// `sums` points at the group's sum of x for the first row.
    @_transparent
    static func run(_ totals: Totals, _ dots: Dots, _ p: i4q_product, _ group: Int, _ weights: UnsafeRawPointer,
                    _ blockBytes: Int, _ sums: UnsafeRawPointer) {
        block(0, totals, dots[0], p, group, weights, sums)
        if blocks > 1 { block(1, totals, dots[1], p, group, weights + 1 &* blockBytes, sums) }
        if blocks > 2 { block(2, totals, dots[2], p, group, weights + 2 &* blockBytes, sums) }
        if blocks > 3 { block(3, totals, dots[3], p, group, weights + 3 &* blockBytes, sums) }
    }

    @_transparent
    private static func block(_ b: Int, _ totals: Totals, _ dots: InlineArray<rows, Floats>, _ p: i4q_product, _ group: Int,
                              _ block: UnsafeRawPointer, _ sums: UnsafeRawPointer) {
        let scale = loadColumnValues(block + Int(p.scales_offset), group, type: p.scale_type)
        addGroup(dots, to: totals, b, p, scale: scale, centre: loadCentre(p, block, group, scale), sums)
    }
}

/// Adds a group's dot products with one block to the totals, and what the sums of x are multiplied by.
@_transparent
func addGroup<let rows: Int, let blocks: Int>(_ dots: InlineArray<rows, Floats>, to totals: TotalsInMemory<rows, blocks>, _ b: Int,
                                              _ p: i4q_product, scale: Floats, centre: @autoclosure () -> Floats, _ sums: UnsafeRawPointer) {
    if p.kind == Kind.asymmetric {
        let shift = centre()
        for r in 0..<rows {
            let sum = Floats(repeating: sums.float(r &* Int(p.prepared_row_bytes)))
            totals[r, b] = fusedMultiplyAdd(scale, fusedMultiplyAdd(shift, sum, dots[r]), totals[r, b])
        }
    } else if p.kind == Kind.offset {
        let offset = centre()
        for r in 0..<rows {
            let sum = Floats(repeating: sums.float(r &* Int(p.prepared_row_bytes)))
            totals[r, b] = fusedMultiplyAdd(offset, sum, fusedMultiplyAdd(scale, dots[r], totals[r, b]))
        }
    } else {
        for r in 0..<rows { totals[r, b] = fusedMultiplyAdd(scale, dots[r], totals[r, b]) }
    }
}

/// What a group's sum of x is multiplied by: 8 - zero point, or 8 scale + offset. With codes of 8 bits `middle`, 128, stands for 8.
@inline(__always)
func loadCentre(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, _ scale: Floats, middle: Int32 = 8) -> Floats {
    if p.kind == Kind.offset { return centredOffset(p, block, group, scale) }
    return i4q_float_from_i32(Ints(repeating: middle) &- loadZeroPoints(block + Int(p.zeros_offset), group))
}
