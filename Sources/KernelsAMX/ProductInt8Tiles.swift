// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// INT8 mode in tiles. Codes are unpacked into a panel less their zero points, as signed bytes: so the tiles' sums are the groups'
// dot products (codes of 8 bits and ASYMMETRIC: up to a multiple of the sum of x, for a difference may have nine bits), and only scaling is left to do for each output and group. Same bits as every other instruction set.
//
//     panel:  weights as in Tiles.swift, then the four tiles of sums as [32 rows][2 blocks] 64 bytes each

/// Panel bytes of one value of k for a block: 16 columns.
private let bytesOfK = 16
private let sumsBytes = tileRows &* tileBlocks &* 64
/// Values of k that the panel holds: a multiple of a tile's 64.
private let panelDepth = (Int(I4Q_PANEL_BYTES) &- sumsBytes) / (tileBlocks &* bytesOfK) / 64 &* 64
private let blockBytes = panelDepth &* bytesOfK

/// Fewer rows leave tiles empty, and in shorter groups scaling takes longer than the products. (A group begins at a multiple of
/// 64, where a row of x has 64 bytes left.)
@inline(__always)
func paysInt8Tiles(_ p: i4q_product, _ t: i4q_tile) -> Bool {
    t.row_count >= 16 && p.group_size >= 64 && (p.group_size % 64 == 0 || p.group_count == 1)
}

func multiplyInt8Tiles(_ p: i4q_product, _ t: i4q_tile) {
    if p.code_bits != 4 { cover(PlainBytes.self, p, t) } else if p.codebook == nil { cover(CentredBytes.self, p, t) } else { cover(TableBytes.self, p, t) }
}

@inline(__always)
private func cover<Bytes: WeightBytes>(_ bytes: Bytes.Type, _ p: i4q_product, _ t: i4q_tile) {
    var configuration = TileConfiguration()
    var block = 0
    while block < Int(t.block_count) {
        let count = min(tileBlocks, Int(t.block_count) &- block)
        if Int(p.group_size) <= panelDepth {
            coverGroups(bytes, p, t, block, count, &configuration)
        } else {
            coverLongGroups(bytes, p, t, block, count, &configuration)
        }
        block &+= count
    }
    configuration.release()
}

/// Some groups are unpacked, then used for all rows.
@inline(__always)
private func coverGroups<Bytes: WeightBytes>(_ bytes: Bytes.Type, _ p: i4q_product, _ t: i4q_tile, _ block: Int, _ blocks: Int,
                                             _ configuration: inout TileConfiguration) {
    let capacity = panelDepth / Int(p.group_size), count = Int(p.group_count)
    var first = 0
    while first < count {
        let groups = first..<min(first &+ capacity, count)
        fill(bytes, p, t, block, blocks, groups.lowerBound &* Int(p.group_size)..<groupEnd(p, groups.upperBound &- 1))
        var row = 0
        while row < Int(t.row_count) {
            let rows = min(tileRows, Int(t.row_count) &- row)
            configuration.set(rows: rows)
            for group in groups {
                let k = group &* Int(p.group_size)..<groupEnd(p, group)
                multiply(p, t, row, rows, block, blocks, k, panelBegin: groups.lowerBound &* Int(p.group_size), startsGroup: true)
                scaleGroup(p, t, row, rows, block, blocks, group)
            }
            row &+= tileRows
        }
        first &+= capacity
    }
}

/// A group is longer than the panel: its sums stay in the tiles while one part after the other is unpacked, anew for every 32
/// rows.
@inline(__always)
private func coverLongGroups<Bytes: WeightBytes>(_ bytes: Bytes.Type, _ p: i4q_product, _ t: i4q_tile, _ block: Int, _ blocks: Int,
                                                 _ configuration: inout TileConfiguration) {
    var row = 0
    while row < Int(t.row_count) {
        let rows = min(tileRows, Int(t.row_count) &- row)
        configuration.set(rows: rows)
        for group in 0..<Int(p.group_count) {
            let begin = group &* Int(p.group_size), end = groupEnd(p, group)
            var k = begin
            while k < end {
                let part = k..<min(k &+ panelDepth, end)
                fill(bytes, p, t, block, blocks, part)
                multiply(p, t, row, rows, block, blocks, part, panelBegin: k, startsGroup: k == begin)
                k = part.upperBound
            }
            scaleGroup(p, t, row, rows, block, blocks, group)
        }
        row &+= tileRows
    }
}

@inline(__always)
private func groupEnd(_ p: i4q_product, _ group: Int) -> Int { min((group &+ 1) &* Int(p.group_size), Int(p.k_padded)) }

// MARK: Products

private enum SignedBytes: TileArithmetic {
    @inline(__always) static func multiply(_ sum: Int32) { i4q_tile_multiply_int8(sum) }
}

@inline(__always)
private func multiply(_ p: i4q_product, _ t: i4q_tile, _ row: Int, _ rows: Int, _ block: Int, _ blocks: Int, _ k: Range<Int>,
                      panelBegin: Int, startsGroup: Bool) {
    let panel = t.panel.unsafelyUnwrapped + (k.lowerBound &- panelBegin) &* bytesOfK
    let sums = t.panel.unsafelyUnwrapped + tileBlocks &* blockBytes
    let x = UnsafeRawPointer(p.prepared.unsafelyUnwrapped) + ((Int(t.row_begin) &+ row) &* Int(p.prepared_row_bytes) &+ k.lowerBound)
    let steps = (k.count &+ 63) / 64, stride = Int(p.prepared_row_bytes)
    switch (rows > 16, blocks > 1) {
    case (true, true): PartProduct<2, 2>.run(x, stride, panel, steps, startsGroup, sums)
    case (true, false): PartProduct<2, 1>.run(x, stride, panel, steps, startsGroup, sums)
    case (false, true): PartProduct<1, 2>.run(x, stride, panel, steps, startsGroup, sums)
    case (false, false): PartProduct<1, 1>.run(x, stride, panel, steps, startsGroup, sums)
    }
}

private enum PartProduct<let rowTiles: Int, let blocks: Int> {
    typealias Tiles = TileProduct<SignedBytes, rowTiles, blocks>

    @inline(never)
    static func run(_ x: UnsafeRawPointer, _ xStride: Int, _ panel: UnsafeRawPointer, _ steps: Int, _ startsGroup: Bool,
                    _ sums: UnsafeMutableRawPointer) {
        if startsGroup { Tiles.zero() }
        Tiles.add(x, xStride, panel, blockBytes: blockBytes, steps: steps)
        Tiles.store(sums, tileBlocks &* 64)
    }
}

/// total = fma(float(dot), scale * step, total), and for OFFSET the sum's share.
@inline(never)
private func scaleGroup(_ p: i4q_product, _ t: i4q_tile, _ row: Int, _ rows: Int, _ block: Int, _ blocks: Int, _ group: Int) {
    let sums = UnsafeRawPointer(t.panel.unsafelyUnwrapped + tileBlocks &* blockBytes)
    let xStride = Int(p.prepared_row_bytes), stride = Int(t.out_stride) &* 4
    let parameters = UnsafeRawPointer(p.prepared.unsafelyUnwrapped)
        + ((Int(t.row_begin) &+ row) &* xStride &+ Int(p.prepared_scales_offset) &+ group &* 8)
    for b in 0..<blocks {
        let weights = UnsafeRawPointer(p.blocks.unsafelyUnwrapped) + (Int(t.block_begin) &+ block &+ b) &* Int(p.block_bytes)
        let totals = UnsafeMutableRawPointer(t.out.unsafelyUnwrapped) + (row &* stride &+ (block &+ b) &* 64)
        var scale = loadColumnValues(weights + Int(p.scales_offset), group, type: p.scale_type)
        if p.kind == Kind.codebook { scale = scale * Floats(repeating: p.int8_codebook_step) }
        let zero = Floats(repeating: 0)
        // What the panel's bytes are too large by, times the sum of x; the share is that sum's negative.
        let hasRest = p.code_bits == 8 && p.kind == Kind.asymmetric
        let rest = hasRest ? loadZeroPoints(weights + Int(p.zeros_offset), group) &- Ints(repeating: 128) : Ints(repeating: 0)
        for r in 0..<rows {
            var sum = unsafeBitCast(sums.words((r &* tileBlocks &+ b) &* 64), to: Ints.self)
            if hasRest { sum &+= rest &* Ints(repeating: parameters.int32(r &* xStride &+ 4)) }
            let dot = i4q_float_from_i32(sum)
            let total = group == 0 ? zero : UnsafeRawPointer(totals).floats(r &* stride)
            let next = fusedMultiplyAdd(dot, scale * Floats(repeating: parameters.float(r &* xStride)), total)
            totals.storeBytes(of: next, toByteOffset: r &* stride, as: Floats.self)
        }
        if p.kind == Kind.offset { addOffsets(totals, stride, centredOffset(p, weights, group, scale), p.code_bits == 8 ? -0.0078125 : -0.125, parameters, xStride, rows) }
    }
}

@inline(__always)
private func addOffsets(_ totals: UnsafeMutableRawPointer, _ stride: Int, _ offset: Floats, _ perShare: Float,
                        _ parameters: UnsafeRawPointer, _ xStride: Int, _ rows: Int) {
    for r in 0..<rows {
        let both = offset * Floats(repeating: parameters.float(r &* xStride))
        // The share is -8 sums (8 bits: -128), so this is the sum exactly as if converted by itself.
        let sum = Floats(repeating: Float(parameters.int32(r &* xStride &+ 4)) * perShare)
        let total = fusedMultiplyAdd(sum, both, UnsafeRawPointer(totals).floats(r &* stride))
        totals.storeBytes(of: total, toByteOffset: r &* stride, as: Floats.self)
    }
}

// MARK: Unpacking

/// What four codes become as signed bytes.
private protocol WeightBytes {
    init(_ p: i4q_product)
    /// Once for each group, with the block's zero points.
    @inline(__always) mutating func enter(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int)
    @inline(__always) func bytes(_ codes: Register) -> Register
    /// From k on, to the panel.
    @inline(__always) func unpack(_ block: UnsafeRawPointer, k: Int, _ panel: UnsafeMutableRawPointer, count: Int)
}

extension WeightBytes {
    /// A code row becomes two rows of a tile: its low nibbles and its high ones, as x is stored in that order.
    @inline(__always)
    func unpack(_ block: UnsafeRawPointer, k: Int, _ panel: UnsafeMutableRawPointer, count: Int) {
        let low = Register(repeating: 0x0f0f_0f0f_0f0f_0f0f), codes = block + k &* 8
        for index in 0..<count / codeRowDepth {
            let packed = (codes + index &* codeRowBytes).loadUnaligned(as: Register.self)
            let target = panel + index &* codeRowDepth &* bytesOfK
            target.storeBytes(of: bytes(packed & low), as: Register.self)
            target.storeBytes(of: bytes((packed &>> Register(repeating: 4)) & low), toByteOffset: 64, as: Register.self)
        }
    }
}

/// Codes of 8 bits less 128, of 2 less 1, of 1 doubled less 1.
private struct PlainBytes: WeightBytes {
    private let bits: Int
    private let mask: Words
    private let shift: Words
    private let middle: Register

    @inline(__always)
    init(_ p: i4q_product) {
        bits = Int(p.code_bits)
        mask = Words(repeating: bits == 8 ? 0xffff_ffff : bits == 2 ? 0x0303_0303 : 0x0101_0101)
        shift = Words(repeating: bits == 1 ? 1 : 0)
        middle = Register(repeating: bits == 8 ? Int64(bitPattern: 0x8080_8080_8080_8080) : 0x0101_0101_0101_0101)
    }

    @inline(__always) func enter(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int) {}
    @inline(__always) func bytes(_ codes: Register) -> Register { i4q_avx512_subtract_bytes(codes, middle) }

    /// A part of a code row, four values of k, becomes a row of a tile.
    @inline(__always)
    func unpack(_ block: UnsafeRawPointer, k: Int, _ panel: UnsafeMutableRawPointer, count: Int) {
        for index in 0..<count / 4 {
            let place = (k / 4 &+ index) &* bits, row = place / 8
            let words = block.words(row &* codeRowBytes) &>> Words(repeating: UInt32(truncatingIfNeeded: place &- row &* 8))
            panel.storeBytes(of: bytes(unsafeBitCast((words & mask) &<< shift, to: Register.self)), toByteOffset: index &* 64, as: Register.self)
        }
    }
}

/// Codes less their zero point, which is 8 unless the kind is ASYMMETRIC.
private struct CentredBytes: WeightBytes {
    private var zeros = Register(repeating: 0x0808_0808_0808_0808)
    @inline(__always) init(_ p: i4q_product) {}

    @inline(__always)
    mutating func enter(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int) {
        if p.kind != Kind.asymmetric { return }
        let lanes = loadZeroPoints(block + Int(p.zeros_offset), group) &* Ints(repeating: 0x0101_0101)
        zeros = unsafeBitCast(lanes, to: Register.self)
    }

    @inline(__always) func bytes(_ codes: Register) -> Register { i4q_avx512_subtract_bytes(codes, zeros) }
}

private struct TableBytes: WeightBytes {
    private let table: Register

    @inline(__always)
    init(_ p: i4q_product) {
        let bytes = UnsafeRawPointer(p.int8_codebook.unsafelyUnwrapped).loadUnaligned(as: SIMD2<Int64>.self)
        table = Register(bytes[0], bytes[1], bytes[0], bytes[1], bytes[0], bytes[1], bytes[0], bytes[1])
    }

    @inline(__always) func enter(_ p: i4q_product, _ block: UnsafeRawPointer, _ group: Int) {}
    @inline(__always) func bytes(_ codes: Register) -> Register { i4q_avx512_lookup_bytes(table, codes) }
}

/// Unpacks k of one or two blocks; k ends at the end of a group, or lies within one.
@inline(never)
private func fill<Bytes: WeightBytes>(_ bytes: Bytes.Type, _ p: i4q_product, _ t: i4q_tile, _ block: Int, _ blocks: Int,
                                      _ range: Range<Int>) {
    var weights = Bytes(p)
    for b in 0..<blocks {
        let source = UnsafeRawPointer(p.blocks.unsafelyUnwrapped) + (Int(t.block_begin) &+ block &+ b) &* Int(p.block_bytes)
        let panel = t.panel.unsafelyUnwrapped + b &* blockBytes
        var k = range.lowerBound
        while k < range.upperBound {
            let group = k / Int(p.group_size)
            let end = min(groupEnd(p, group), range.upperBound)
            weights.enter(p, source, group)
            weights.unpack(source, k: k, panel + (k &- range.lowerBound) &* bytesOfK, count: end &- k)
            k = end
        }
        // A last tile may be half full: what x's row has there, behind its values, is multiplied by zero.
        zeroBytes(panel, from: range.count &* bytesOfK, to: (range.count &+ 63) / 64 &* 64 &* bytesOfK)
    }
}
