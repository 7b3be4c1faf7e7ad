// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// BINARY mode: products of signs are bits, and their sums counts of bits. A bit of W is 1 for plus, one of x 1 for minus, so W ^ x is
// 1 where the product is plus. Both have zeros beyond k, which count nothing.
//
//     BINARY    the sum over a group is 2 ones(W ^ x) - count
//     TERNARY   codes 0, 1, 2 become the bits 00, 01, 11, which have as many ones; x's two bits are equal: ones(W ^ x) - 1 is
//               (q - 1) sign(x), and the sum over a group is ones(W ^ x) - count

/// Counts set bits of 32-bit lanes.
protocol BitCounter {
    init()
    mutating func add(_ words: Words)
    var total: Ints { get }
}

enum RegisterProductBinary<let rows: Int, let blocks: Int, Counter: BitCounter>: RegisterProduct {
    typealias Totals = TotalsInMemory<rows, blocks>
    typealias Counters = InlineArray<blocks, InlineArray<rows, Counter>>

    static var rowCount: Int { rows }
    static var blockCount: Int { blocks }

    @inline(never)
    static func run(_ p: i4q_product, row: Int, block: Int, step: Int, groups: Range<Int>, out: UnsafeMutablePointer<Float>,
                    outStride: Int) {
        let weights = UnsafeRawPointer(p.blocks.unsafelyUnwrapped) + block &* Int(p.block_bytes)
        let x = UnsafeRawPointer(p.prepared.unsafelyUnwrapped) + row &* Int(p.prepared_row_bytes)
        let blockBytes = step &* Int(p.block_bytes), bits = Int(p.code_bits)
        let groupRows = Int(p.group_size) &* bits / 32, allRows = Int(p.k_padded) &* bits / 32
        let totals = Totals(out, stride: outStride, step: step, isFirst: groups.lowerBound == 0)
        for group in groups {
            let begin = group &* groupRows, end = min(begin &+ groupRows, allRows)
            var counters = Counters(repeating: .init(repeating: Counter()))
            for codeRow in begin..<end {
                add(&counters, weights + codeRow &* codeRowBytes, blockBytes, x + codeRow &* 4, Int(p.prepared_row_bytes), isTernary: bits == 2)
            }
            let parameters = x + (Int(p.prepared_scales_offset) &+ group &* 8)
            scale(0, totals, counters[0], p, group, weights, parameters)
            if blocks > 1 { scale(1, totals, counters[1], p, group, weights + blockBytes, parameters) }
            if blocks > 2 { scale(2, totals, counters[2], p, group, weights + 2 &* blockBytes, parameters) }
            if blocks > 3 { scale(3, totals, counters[3], p, group, weights + 3 &* blockBytes, parameters) }
        }
    }

    /// A code row: 32 or 16 values of k.
    @inline(__always)
    private static func add(_ counters: inout Counters, _ weights: UnsafeRawPointer, _ blockBytes: Int, _ x: UnsafeRawPointer,
                            _ xStride: Int, isTernary: Bool) {
        var words = InlineArray<blocks, Words>(repeating: Words(repeating: 0))
        for b in 0..<blocks {
            words[b] = weights.words(b &* blockBytes)
            if isTernary { words[b] |= (words[b] &>> Words(repeating: 1)) & Words(repeating: 0x5555_5555) }
        }
        for r in 0..<rows {
            let signs = Words(repeating: (x + r &* xStride).loadUnaligned(as: UInt32.self))
            for b in 0..<blocks { counters[b][r].add(words[b] ^ signs) }
        }
    }

    @inline(__always)
    private static func scale(_ b: Int, _ totals: Totals, _ counters: InlineArray<rows, Counter>, _ p: i4q_product, _ group: Int,
                              _ block: UnsafeRawPointer, _ parameters: UnsafeRawPointer) {
        let scale = loadColumnValues(block + Int(p.scales_offset), group, type: p.scale_type)
        let shift = Ints(repeating: p.code_bits == 1 ? 1 : 0)
        for r in 0..<rows {
            let here = parameters + r &* Int(p.prepared_row_bytes)
            let dot = (counters[r].total &<< shift) &- Ints(repeating: here.int32(4))
            totals[r, b] = fusedMultiplyAdd(i4q_float_from_i32(dot), scale * Floats(repeating: here.float(0)), totals[r, b])
        }
    }
}

// MARK: Activations

/// A row of x as signs, and what they are worth in each group.
func prepareBinary(_ a: i4q_activations) {
    let prepared = UnsafeMutableRawPointer(a.prepared.unsafelyUnwrapped)
    let k = Int(a.k), padded = Int(a.k_padded), groupSize = Int(a.group_size), width = Int(a.code_bits)
    let parameters = prepared + Int(a.scales_offset)
    for group in 0..<Int(a.group_count) {
        let begin = group &* groupSize, end = min(begin &+ groupSize, padded), count = min(end, k) &- begin
        var partial = Floats(repeating: 0), largest = Words(repeating: 0)
        var index = begin
        while index < end {
            var word: UInt32 = 0
            for half in 0..<(width == 1 ? 2 : 1) {
                let values = loadElements(a.source.unsafelyUnwrapped, a.source_type, index, count: max(k &- index, 0))
                let magnitude = bits(values) & Words(repeating: 0x7fff_ffff)
                partial += floats(fromBits: magnitude)
                largest = largest.replacing(with: magnitude, where: magnitude .> largest)
                word |= signs(values, bits: width) &<< UInt32(truncatingIfNeeded: 16 &* half)
                index &+= lanes
            }
            prepared.storeBytes(of: laneOrder(word, bits: width), toByteOffset: (index &- 1) &* width / 32 &* 4, as: UInt32.self)
        }
        let isFinite = largest.max() < 0x7f80_0000
        let mean = isFinite ? sumLanes(partial) / Float(count) : Float.nan
        parameters.storeBytes(of: mean, toByteOffset: group &* 8, as: Float.self)
        parameters.storeBytes(of: Int32(truncatingIfNeeded: count), toByteOffset: group &* 8 &+ 4, as: Int32.self)
    }
    zeroBytes(prepared, from: min(Int(a.group_count) &* groupSize, padded) &* width / 8, to: padded &* width / 8)
}

@inline(__always)
private func bits32(_ values: Floats) -> Words { bits(values) }

/// A bit, or two equal ones, for each of 16 values: set below zero.
@inline(__always)
private func signs(_ values: Floats, bits: Int) -> UInt32 {
    var places = Words(repeating: bits == 1 ? 1 : 3)
    let step = UInt32(truncatingIfNeeded: bits)
    for lane in 0..<lanes { places[lane] &<<= step &* UInt32(truncatingIfNeeded: lane) }
    return Words(repeating: 0).replacing(with: places, where: values .< Floats(repeating: 0)).wrappedSum()
}
