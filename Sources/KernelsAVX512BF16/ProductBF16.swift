// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// BF16 mode with vdpbf16ps: codes are exact in bfloat16, so only activations (and codebooks) are rounded. One
/// permutation decodes 32 codes. Groups are scaled as in F32 mode.
enum RegisterProductBF16<let rows: Int, let blocks: Int>: RegisterProduct {
    typealias Accumulators = InlineArray<blocks, InlineArray<rows, Floats>>
    typealias Totals = TotalsInMemory<rows, blocks>

    static var rowCount: Int { rows }
    static var blockCount: Int { blocks }

    @inline(never)
    static func run(_ p: i4q_product, row: Int, block: Int, step: Int, groups: Range<Int>, out: UnsafeMutablePointer<Float>,
                    outStride: Int) {
        let codes = BFloatCodes(codebook: p.codebook)
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
                accumulate(&dots, p, codes, weights + k &* 8, blockBytes, x + k &* 2, xStride)
                k &+= codeRowDepth
            }
            if rows <= 4 && hasShortBlocks(p) { prefetchNextParameters(p, group, weights, blockBytes, blocks) }
            let sums = x + (Int(p.prepared_sums_offset) &+ group &* 4)
            GroupScaling<rows, blocks>.run(totals, dots, p, group, weights, blockBytes, sums)
        }
    }

    /// Eight values of k.
    @inline(__always)
    private static func accumulate(_ dots: inout Accumulators, _ p: i4q_product, _ codes: BFloatCodes, _ weights: UnsafeRawPointer,
                                   _ blockBytes: Int, _ x: UnsafeRawPointer, _ xStride: Int) {
        var packed = InlineArray<blocks, Words>(repeating: Words(repeating: 0))
        for b in 0..<blocks {
            askAhead(weights + b &* blockBytes, rows: rows, isFloat: true, isShort: hasShortBlocks(p))
            packed[b] = weights.words(b &* blockBytes)
        }
        step(&dots, codes, packed, 0, x, xStride)
        step(&dots, codes, packed, 1, x + 4, xStride)
        step(&dots, codes, packed, 2, x + 8, xStride)
        step(&dots, codes, packed, 3, x + 12, xStride)
    }

    /// Two values of k.
    @inline(__always)
    private static func step(_ dots: inout Accumulators, _ codes: BFloatCodes, _ packed: InlineArray<blocks, Words>,
                             _ pair: UInt32, _ x: UnsafeRawPointer, _ xStride: Int) {
        var weights = InlineArray<blocks, Register>(repeating: Register(repeating: 0))
        for b in 0..<blocks { weights[b] = codes.bfloats(packed[b], pair: pair) }
        for r in 0..<rows {
            let activations = unsafeBitCast(Ints(repeating: x.int32(r &* xStride)), to: Register.self)
            for b in 0..<blocks { dots[b][r] = i4q_avx512_dot_bf16(dots[b][r], weights[b], activations) }
        }
    }
}

/// Pairs of bfloat16 in a panel.
enum BFloatPanel: PanelArithmetic {
    static var vectors: Int { 4 }
    @inline(__always) static func makeDecoder(_ p: i4q_product) -> BFloatCodes { BFloatCodes(codebook: p.codebook) }

    @inline(__always)
    static func decode(_ packed: Words, _ codes: BFloatCodes, into panel: UnsafeMutableRawPointer, stride: Int) {
        panel.storeBytes(of: codes.bfloats(packed, pair: 0), as: Register.self)
        panel.storeBytes(of: codes.bfloats(packed, pair: 1), toByteOffset: stride, as: Register.self)
        panel.storeBytes(of: codes.bfloats(packed, pair: 2), toByteOffset: 2 &* stride, as: Register.self)
        panel.storeBytes(of: codes.bfloats(packed, pair: 3), toByteOffset: 3 &* stride, as: Register.self)
    }

    @inline(__always) static func load(_ pointer: UnsafeRawPointer) -> Register { pointer.loadUnaligned(as: Register.self) }

    @inline(__always)
    static func multiplyAdd(_ weights: Register, _ x: UnsafeRawPointer, _ sum: Floats) -> Floats {
        i4q_avx512_dot_bf16(sum, weights, unsafeBitCast(Ints(repeating: x.int32(0)), to: Register.self))
    }
}
