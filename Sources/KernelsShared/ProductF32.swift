// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// How the codes of a packed lane become floats.
protocol CodeReader {
    init(codebook: UnsafePointer<Float>?)
    /// The value of nibble `nibble` (0..7) of each lane.
    @inline(__always) func values(_ words: Words, nibble: UInt32) -> Floats
}

/// F32 mode, a register tile of `rows` x `blocks`: weights are decoded once for all rows of the tile.
///
/// Running totals stay in the output, in memory, so that the registers belong to the group's own sums.
///
/// The order of operations is part of the contract (docs/numerics.md): per group one chain of fused multiply-adds over
/// k, then the zero point's share, then the scale. Every lane is one output, so no lane is ever summed with another.
enum RegisterProductF32<let rows: Int, let blocks: Int, Codes: CodeReader> {
    typealias Accumulators = InlineArray<rows, InlineArray<blocks, Floats>>

    @inline(__always)
    static func zeros() -> Accumulators { Accumulators(repeating: .init(repeating: Floats(repeating: 0))) }

    @inline(never)
    static func run(_ p: i4q_product, row: Int, block: Int, out: UnsafeMutablePointer<Float>, outStride: Int) {
        let codes = Codes(codebook: p.codebook)
        let weights = UnsafeRawPointer(p.blocks.unsafelyUnwrapped) + block &* Int(p.block_bytes)
        let x = UnsafeRawPointer(p.prepared.unsafelyUnwrapped) + row &* Int(p.prepared_row_bytes)
        let xStride = Int(p.prepared_row_bytes), blockBytes = Int(p.block_bytes)
        let groupSize = Int(p.group_size), padded = Int(p.k_padded)
        let totals = TotalsInMemory<rows, blocks>(zeroing: out, stride: outStride)
        for group in 0..<Int(p.group_count) {
            let begin = group &* groupSize
            let end = min(begin &+ groupSize, padded)
            var dots = zeros()
            var k = begin
            while k < end {
                accumulate(&dots, codes, weights + k &* 8, blockBytes, x + k &* 4, xStride)
                k &+= codeRowDepth
            }
            finish(totals, dots, p, group, weights, x)
        }
    }

    /// Eight values of k.
    @inline(__always)
    private static func accumulate(_ dots: inout Accumulators, _ codes: Codes, _ weights: UnsafeRawPointer,
                                   _ blockBytes: Int, _ x: UnsafeRawPointer, _ xStride: Int) {
        var packed = InlineArray<blocks, Words>(repeating: Words(repeating: 0))
        for b in 0..<blocks { packed[b] = weights.words(b &* blockBytes) }
        step(&dots, codes, packed, 0, x, xStride)
        step(&dots, codes, packed, 4, x + 4, xStride)
        step(&dots, codes, packed, 1, x + 8, xStride)
        step(&dots, codes, packed, 5, x + 12, xStride)
        step(&dots, codes, packed, 2, x + 16, xStride)
        step(&dots, codes, packed, 6, x + 20, xStride)
        step(&dots, codes, packed, 3, x + 24, xStride)
        step(&dots, codes, packed, 7, x + 28, xStride)
    }

    /// One value of k.
    @inline(__always)
    private static func step(_ dots: inout Accumulators, _ codes: Codes, _ packed: InlineArray<blocks, Words>,
                             _ nibble: UInt32, _ x: UnsafeRawPointer, _ xStride: Int) {
        for b in 0..<blocks {
            let weight = codes.values(packed[b], nibble: nibble)
            for r in 0..<rows {
                let activation = Floats(repeating: x.float(r &* xStride))
                dots[r][b] = fusedMultiplyAdd(activation, weight, dots[r][b])
            }
        }
    }

    @inline(__always)
    private static func finish(_ totals: TotalsInMemory<rows, blocks>, _ dots: Accumulators, _ p: i4q_product,
                               _ group: Int, _ weights: UnsafeRawPointer, _ x: UnsafeRawPointer) {
        for b in 0..<blocks {
            let block = weights + b &* Int(p.block_bytes)
            let scale = loadColumnValues(block + Int(p.scales_offset), group, type: p.scale_type)
            if p.kind == Kind.symmetric || p.kind == Kind.codebook {
                for r in 0..<rows { totals[r, b] = fusedMultiplyAdd(scale, dots[r][b], totals[r, b]) }
                continue
            }
            let sums = x + (Int(p.prepared_sums_offset) &+ group &* 4)
            if p.kind == Kind.asymmetric {
                let shift = i4q_float_from_i32(Ints(repeating: 8) &- loadZeroPoints(block + Int(p.zeros_offset), group))
                for r in 0..<rows {
                    let sum = Floats(repeating: sums.float(r &* Int(p.prepared_row_bytes)))
                    let dot = fusedMultiplyAdd(shift, sum, dots[r][b])
                    totals[r, b] = fusedMultiplyAdd(scale, dot, totals[r, b])
                }
            } else {
                let offset = centredOffset(p, block, group, scale)
                for r in 0..<rows {
                    let sum = Floats(repeating: sums.float(r &* Int(p.prepared_row_bytes)))
                    let total = fusedMultiplyAdd(scale, dots[r][b], totals[r, b])
                    totals[r, b] = fusedMultiplyAdd(offset, sum, total)
                }
            }
        }
    }
}

/// The running totals of a register tile, where its results will stand.
struct TotalsInMemory<let rows: Int, let blocks: Int> {
    private let base: UnsafeMutableRawPointer
    private let rowBytes: Int

    @inline(__always)
    init(zeroing out: UnsafeMutablePointer<Float>, stride: Int) {
        base = UnsafeMutableRawPointer(out)
        rowBytes = stride &* 4
        for r in 0..<rows { for b in 0..<blocks { self[r, b] = Floats(repeating: 0) } }
    }

    @inline(__always)
    subscript(row: Int, block: Int) -> Floats {
        get { base.load(fromByteOffset: row &* rowBytes &+ block &* 64, as: Floats.self) }
        nonmutating set { base.storeBytes(of: newValue, toByteOffset: row &* rowBytes &+ block &* 64, as: Floats.self) }
    }
}

/// 16 zero points of one group.
@inline(__always)
func loadZeroPoints(_ pointer: UnsafeRawPointer, _ group: Int) -> Ints {
    unsafeBitCast(i4q_widen_u8((pointer + group &* 16).loadUnaligned(as: SIMD16<UInt8>.self)), to: Ints.self)
}

/// Codes are read as q - 8, so an offset has 8 scales added.
@inline(__always)
func centredOffset(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int, _ scale: Floats) -> Floats {
    let offset = loadColumnValues(block + Int(p.zeros_offset), group, type: p.scale_type)
    return fusedMultiplyAdd(Floats(repeating: 8), scale, offset)
}
