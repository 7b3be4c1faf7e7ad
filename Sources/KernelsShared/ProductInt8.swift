// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// How an instruction set multiplies codes by signed bytes: 4-bit linear ones, a table of 16 signed bytes, or other widths.
protocol Int8Dot {
    associatedtype Table
    associatedtype Codes
    /// Of a code; 0 where the product tells (1, 2, and if need be 8): then each of its parts takes four values of k.
    static var bits: Int { get }
    /// How many parts a code row comes in: 1, 2 or 4. Not asked for where `bits` is 0.
    static var parts: Int { get }
    /// Values of k within which `add` may keep narrower sums.
    static var depth: Int { get }
    /// What `unpack` adds to each code: the products then hold that many sums of x too much.
    static var bias: Int32 { get }
    static func makeTable(_ p: i4q_product) -> Table
    static func unpack(_ packed: Words, part: Int, _ table: Table) -> Codes
    init(_ start: Ints)
    mutating func add(_ codes: Codes, part: Int, _ x: UnsafeRawPointer)
    func total(startedFrom start: Ints) -> Ints
}

/// Codes of 1 or 2 bits in the bytes of a lane.
struct FewBits {
    private let bits: UInt32
    let mask: Words

    @inline(__always)
    init(_ p: i4q_product) {
        bits = UInt32(truncatingIfNeeded: p.code_bits)
        mask = Words(repeating: p.code_bits == 1 ? 0x0101_0101 : 0x0303_0303)
    }

    @inline(__always)
    func shift(_ part: Int) -> Words { Words(repeating: bits &* UInt32(truncatingIfNeeded: part)) }
}

extension Int8Dot {
    static var bits: Int { 4 }

    @inline(__always)
    static func codeBits(_ p: i4q_product) -> Int { bits == 0 ? Int(p.code_bits) : bits }
}

/// INT8 mode. Each group's dot product is an exact int32, so instruction sets are free in how they get it; the floats
/// after it have one order (docs/numerics.md).
enum RegisterProductInt8<let rows: Int, let blocks: Int, Dot: Int8Dot>: RegisterProduct {
    typealias Totals = TotalsInMemory<rows, blocks>
    typealias Dots = InlineArray<blocks, InlineArray<rows, Ints>>

    static var rowCount: Int { rows }
    static var blockCount: Int { blocks }

    @inline(never)
    static func run(_ p: i4q_product, row: Int, block: Int, step: Int, groups: Range<Int>, out: UnsafeMutablePointer<Float>,
                    outStride: Int) {
        let table = Dot.makeTable(p)
        let weights = UnsafeRawPointer(p.blocks.unsafelyUnwrapped) + block &* Int(p.block_bytes)
        let x = UnsafeRawPointer(p.prepared.unsafelyUnwrapped) + row &* Int(p.prepared_row_bytes)
        let groupSize = Int(p.group_size), padded = Int(p.k_padded), blockBytes = step &* Int(p.block_bytes)
        let codeBits = Dot.codeBits(p)
        let totals = Totals(out, stride: outStride, step: step, isFirst: groups.lowerBound == 0)
        var kept = Totals.Values(repeating: .init(repeating: Floats(repeating: 0)))
        if Totals.inRegisters { kept = totals.load() }
        for group in groups {
            let begin = group &* groupSize
            let end = min(begin &+ groupSize, padded)
            let parameters = x + (Int(p.prepared_scales_offset) &+ group &* 8)
            var dots = startingSums(p, group, weights, blockBytes, parameters)
            var k = begin
            while k < end {
                let count = min(end &- k, Dot.depth)
                accumulate(&dots, p, table, weights + k &* codeBits &* 2, blockBytes, x + k, codeRows: count &* codeBits / 32)
                k &+= count
            }
            if Dot.bits == 0 && p.kind == Kind.binary { doubleCodes(&dots, p, parameters) }
            if rows <= 4 && hasShortBlocks(p) { prefetchNextParameters(p, group, weights, blockBytes, blocks) }
            scaleGroup(totals, &kept, dots, p, group, weights, blockBytes, parameters)
        }
        if Totals.inRegisters { totals.store(kept) }
    }

    /// Sums start at what turns products with unsigned codes into those with codes less their zero point.
    @inline(__always)
    private static func startingSums(_ p: i4q_product, _ group: Int, _ weights: UnsafeRawPointer,
                                     _ blockBytes: Int, _ parameters: UnsafeRawPointer) -> Dots {
        var dots = Dots(repeating: .init(repeating: Ints(repeating: 0)))
        let stride = Int(p.prepared_row_bytes)
        if p.kind == Kind.asymmetric {
            for b in 0..<blocks {
                let zeros = loadZeroPoints(weights + (b &* blockBytes &+ Int(p.zeros_offset)), group)
                for r in 0..<rows { dots[b][r] = zeros &* Ints(repeating: parameters.int32(r &* stride &+ 4)) }
            }
        } else if Dot.bits == 0 && p.kind == Kind.binary {
            return dots
        } else if p.kind != Kind.codebook || Dot.bias != 0 {
            for r in 0..<rows {
                var share = Ints(repeating: parameters.int32(r &* stride &+ 4))
                if Dot.bias > 1 { share = share &* Ints(repeating: Dot.bias) }
                for b in 0..<blocks { dots[b][r] = share }
            }
        }
        return dots
    }

    /// BINARY: 2 code - 1.
    @inline(__always)
    private static func doubleCodes(_ dots: inout Dots, _ p: i4q_product, _ parameters: UnsafeRawPointer) {
        for r in 0..<rows {
            let share = Ints(repeating: parameters.int32(r &* Int(p.prepared_row_bytes) &+ 4))
            for b in 0..<blocks { dots[b][r] = dots[b][r] &+ dots[b][r] &+ share }
        }
    }

    /// Up to Dot.depth values of k.
    @inline(__always)
    private static func accumulate(_ dots: inout Dots, _ p: i4q_product, _ table: Dot.Table, _ weights: UnsafeRawPointer,
                                   _ blockBytes: Int, _ x: UnsafeRawPointer, codeRows: Int) {
        let xStride = Int(p.prepared_row_bytes), isShort = hasShortBlocks(p)
        var sums = InlineArray<blocks, InlineArray<rows, Dot>>(repeating: .init(repeating: Dot(Ints(repeating: 0))))
        for b in 0..<blocks { for r in 0..<rows { sums[b][r] = Dot(dots[b][r]) } }
        for codeRow in 0..<codeRows {
            var packed = InlineArray<blocks, Words>(repeating: Words(repeating: 0))
            for b in 0..<blocks {
                let here = weights + (b &* blockBytes &+ codeRow &* codeRowBytes)
                askAhead(here, rows: rows, isFloat: false, isShort: isShort)
                packed[b] = here.words(0)
            }
            if Dot.bits == 0 {
                let parts = 8 / Int(p.code_bits), here = x + codeRow &* parts &* 4
                for part in 0..<parts { add(&sums, packed, table, here, xStride, part: part) }
                continue
            }
            let here = x + codeRow &* (32 / Dot.bits)
            add(&sums, packed, table, here, xStride, part: 0)
            if Dot.parts == 1 { continue }
            add(&sums, packed, table, here, xStride, part: 1)
            if Dot.parts == 2 { continue }
            add(&sums, packed, table, here, xStride, part: 2)
            add(&sums, packed, table, here, xStride, part: 3)
        }
        for b in 0..<blocks { for r in 0..<rows { dots[b][r] = sums[b][r].total(startedFrom: dots[b][r]) } }
    }

    /// Blocks inside rows: a broadcast activation is used up before the next one needs a register.
    @inline(__always)
    private static func add(_ sums: inout InlineArray<blocks, InlineArray<rows, Dot>>, _ packed: InlineArray<blocks, Words>,
                            _ table: Dot.Table, _ x: UnsafeRawPointer, _ xStride: Int, part: Int) {
        if blocks == 1 {
            let codes = Dot.unpack(packed[0], part: part, table)
            for r in 0..<rows { sums[0][r].add(codes, part: part, x + r &* xStride) }
            return
        }
        let first = Dot.unpack(packed[0], part: part, table), second = Dot.unpack(packed[1], part: part, table)
        if blocks == 2 {
            for r in 0..<rows {
                sums[0][r].add(first, part: part, x + r &* xStride)
                sums[1][r].add(second, part: part, x + r &* xStride)
            }
            return
        }
        let third = Dot.unpack(packed[2], part: part, table), fourth = Dot.unpack(packed[3], part: part, table)
        for r in 0..<rows {
            sums[0][r].add(first, part: part, x + r &* xStride)
            sums[1][r].add(second, part: part, x + r &* xStride)
            sums[2][r].add(third, part: part, x + r &* xStride)
            sums[3][r].add(fourth, part: part, x + r &* xStride)
        }
    }

    @_transparent
    private static func scaleGroup(_ totals: Totals, _ kept: inout Totals.Values, _ dots: Dots, _ p: i4q_product, _ group: Int,
                                   _ weights: UnsafeRawPointer, _ blockBytes: Int, _ parameters: UnsafeRawPointer) {
        scaleBlock(0, totals, &kept[0], dots[0], p, group, weights, parameters)
        if blocks > 1 { scaleBlock(1, totals, &kept[1], dots[1], p, group, weights + 1 &* blockBytes, parameters) }
        if blocks > 2 { scaleBlock(2, totals, &kept[2], dots[2], p, group, weights + 2 &* blockBytes, parameters) }
        if blocks > 3 { scaleBlock(3, totals, &kept[3], dots[3], p, group, weights + 3 &* blockBytes, parameters) }
    }

    @_transparent
    private static func scaleBlock(_ b: Int, _ totals: Totals, _ kept: inout InlineArray<rows, Floats>, _ dots: InlineArray<rows, Ints>, _ p: i4q_product,
                                   _ group: Int, _ block: UnsafeRawPointer, _ parameters: UnsafeRawPointer) {
        let stride = Int(p.prepared_row_bytes)
        var scale = loadColumnValues(block + Int(p.scales_offset), group, type: p.scale_type)
        if p.kind == Kind.codebook { scale = scale * Floats(repeating: p.int8_codebook_step) }
        for r in 0..<rows {
            let both = scale * Floats(repeating: parameters.float(r &* stride))
            let dot = i4q_float_from_i32(dots[r])
            if Totals.inRegisters { kept[r] = fusedMultiplyAdd(dot, both, kept[r]) } else { totals[r, b] = fusedMultiplyAdd(dot, both, totals[r, b]) }
        }
        if p.kind == Kind.offset {
            let offset = centredOffset(p, block, group, scale)
            // The share is -8 sums (8 bits: -128), so this is the sum exactly as if converted by itself.
            let perShare: Float = Dot.bits == 4 || p.code_bits == 4 ? -0.125 : -0.0078125
            for r in 0..<rows {
                let both = offset * Floats(repeating: parameters.float(r &* stride))
                let sum = Floats(repeating: Float(parameters.int32(r &* stride &+ 4)) * perShare)
                if Totals.inRegisters { kept[r] = fusedMultiplyAdd(sum, both, kept[r]) } else { totals[r, b] = fusedMultiplyAdd(sum, both, totals[r, b]) }
            }
        }
    }
}
