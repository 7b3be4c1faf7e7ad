// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Many rows: the weights of a few blocks and some groups are decoded once, into a panel that stays in the first-level cache,
// and used for all rows of the tile. Same operations in the same order as the register products that decode as they go.
//
//     panel:  [code row][vector][block] 64 bytes each: decoded weights, in the order in which they are used
//             [group][block] scales, then (not for SYMMETRIC and CODEBOOK) [group][block] centres, 64 bytes each
//
// A centre is what the sum of x is multiplied by: 8 - zero point, or 8 scale + offset. (INT8 mode has no panel: two operations
// decode 64 codes for vpdpbusd, and loading them from a panel was measured to be slower.)

/// How a panel's vectors are made from codes and multiplied by 4 bytes of activations.
protocol PanelArithmetic {
    associatedtype Decoder
    associatedtype Vector
    /// Vectors of 64 bytes that a code row of 16 columns becomes: an even number.
    static var vectors: Int { get }
    static func makeDecoder(_ p: i4q_product) -> Decoder
    static func decode(_ packed: Words, _ decoder: Decoder, into panel: UnsafeMutableRawPointer, stride: Int)
    static func load(_ pointer: UnsafeRawPointer) -> Vector
    static func multiplyAdd(_ weights: Vector, _ x: UnsafeRawPointer, _ sum: Floats) -> Floats
}

/// Of a panel with several groups: activations and totals want a place in the first-level cache, too.
private let usualPanelBytes = 20480

struct PanelLayout<let blocks: Int> {
    let groups: Range<Int>
    let groupBytes: Int
    let scalesOffset: Int
    let centresOffset: Int

    @inline(__always)
    init<A: PanelArithmetic>(_ arithmetic: A.Type, _ p: i4q_product, groups: Range<Int>) {
        self.groups = groups
        groupBytes = Int(p.group_size) / codeRowDepth &* A.vectors &* blocks &* 64
        scalesOffset = groupBytes &* groups.count
        centresOffset = scalesOffset &+ groups.count &* blocks &* 64
    }

    /// Groups that fit into the usual bytes, or one long one that needs more. 0 if not even one fits into the memory.
    @inline(__always)
    static func capacity<A: PanelArithmetic>(_ arithmetic: A.Type, _ p: i4q_product) -> Int {
        let group = Int(p.group_size) / codeRowDepth &* A.vectors &* blocks &* 64
        let bytes = group &+ 2 &* blocks &* 64
        return max(usualPanelBytes / bytes, min(Int(I4Q_PANEL_BYTES) / bytes, 1))
    }
}

enum PanelWriter<A: PanelArithmetic, let blocks: Int> {
    @inline(never)
    static func fill(_ panel: UnsafeMutableRawPointer, _ layout: PanelLayout<blocks>, _ p: i4q_product, block: Int) {
        let decoder = A.makeDecoder(p)
        let groupSize = Int(p.group_size)
        // The groups that are decoded next from these blocks are asked for meanwhile.
        let codesAhead = layout.groups.count &* groupSize &* 8
        let scaleBytes = p.scale_type == ElementType.f32 ? 64 : 32
        let scalesAhead = Int(p.scales_offset) &+ layout.groups.count &* scaleBytes
        for b in 0..<blocks {
            let source = UnsafeRawPointer(p.blocks.unsafelyUnwrapped) + (block &+ b) &* Int(p.block_bytes)
            for group in layout.groups {
                let local = group &- layout.groups.lowerBound
                let begin = group &* groupSize, end = min(begin &+ groupSize, Int(p.k_padded))
                var target = panel + (local &* layout.groupBytes &+ b &* 64)
                var k = begin
                i4q_prefetch_far(source + (scalesAhead &+ group &* scaleBytes))
                while k < end {
                    i4q_prefetch_far(source + (codesAhead &+ k &* 8))
                    A.decode(source.words(k &* 8), decoder, into: target, stride: blocks &* 64)
                    target += A.vectors &* blocks &* 64
                    k &+= codeRowDepth
                }
                let place = (local &* blocks &+ b) &* 64
                let scale = loadColumnValues(source + Int(p.scales_offset), group, type: p.scale_type)
                panel.storeBytes(of: scale, toByteOffset: layout.scalesOffset &+ place, as: Floats.self)
                if p.kind == Kind.asymmetric || p.kind == Kind.offset {
                    panel.storeBytes(of: loadCentre(p, source, group, scale), toByteOffset: layout.centresOffset &+ place, as: Floats.self)
                }
            }
        }
    }
}

/// A register product that reads a panel instead of a blob.
protocol PanelProduct {
    static var rowCount: Int { get }
    static var blockCount: Int { get }
    /// Groups that it decodes at a time; 0 if one alone is too long.
    static func capacity(_ p: i4q_product) -> Int
    /// Takes as many rows as are a multiple of rowCount, all of them over the groups and blocks that it decodes at a time.
    static func run(_ p: i4q_product, _ t: i4q_tile, rows: Int, blocks: Range<Int>)
}

/// F32 and BF16 mode.
enum FloatPanelProduct<let rows: Int, let blocks: Int, Arithmetic: PanelArithmetic>: PanelProduct {
    typealias Accumulators = InlineArray<blocks, InlineArray<rows, Floats>>
    typealias Totals = TotalsInMemory<rows, blocks>
    static var rowCount: Int { rows }
    static var blockCount: Int { blocks }

    static func capacity(_ p: i4q_product) -> Int { PanelLayout<blocks>.capacity(Arithmetic.self, p) }

    static func run(_ p: i4q_product, _ t: i4q_tile, rows count: Int, blocks range: Range<Int>) {
        let panel = t.panel.unsafelyUnwrapped
        let capacity = capacity(p)
        let stride = Int(t.out_stride)
        var group = 0
        while group < Int(p.group_count) {
            let groups = group..<min(group &+ capacity, Int(p.group_count))
            let layout = PanelLayout<blocks>(Arithmetic.self, p, groups: groups)
            var block = range.lowerBound
            while block &+ blocks <= range.upperBound {
                PanelWriter<Arithmetic, blocks>.fill(panel, layout, p, block: Int(t.block_begin) &+ block)
                var row = 0
                while row < count {
                    let out = t.out.unsafelyUnwrapped + (row &* stride &+ block &* lanes)
                    multiply(p, layout, panel, row: Int(t.row_begin) &+ row, out: out, outStride: stride)
                    row &+= rows
                }
                block &+= blocks
            }
            group &+= capacity
        }
    }

    @inline(never)
    private static func multiply(_ p: i4q_product, _ layout: PanelLayout<blocks>, _ panel: UnsafeRawPointer, row: Int,
                                 out: UnsafeMutablePointer<Float>, outStride: Int) {
        let xStride = Int(p.prepared_row_bytes)
        let x = UnsafeRawPointer(p.prepared.unsafelyUnwrapped) + row &* xStride
        let totals = Totals(out, stride: outStride, step: 1, isFirst: layout.groups.lowerBound == 0)
        let groupSize = Int(p.group_size)
        for group in layout.groups {
            let local = group &- layout.groups.lowerBound
            let begin = group &* groupSize, end = min(begin &+ groupSize, Int(p.k_padded))
            var dots = Accumulators(repeating: .init(repeating: Floats(repeating: 0)))
            var weights = panel + local &* layout.groupBytes
            var activations = x + begin / codeRowDepth &* Arithmetic.vectors &* 4
            for _ in 0..<(end &- begin) / codeRowDepth &* Arithmetic.vectors / 2 {
                add(&dots, weights, activations, xStride)
                add(&dots, weights + blocks &* 64, activations + 4, xStride)
                weights += 2 &* blocks &* 64
                activations += 8
            }
            finish(totals, dots, p, panel + local &* blocks &* 64, layout, x + (Int(p.prepared_sums_offset) &+ group &* 4))
        }
    }

    @inline(__always)
    private static func add(_ dots: inout Accumulators, _ weights: UnsafeRawPointer, _ x: UnsafeRawPointer, _ xStride: Int) {
        var vectors = InlineArray<blocks, Arithmetic.Vector>(repeating: Arithmetic.load(weights))
        for b in 0..<blocks { vectors[b] = Arithmetic.load(weights + b &* 64) }
        for r in 0..<rows {
            for b in 0..<blocks { dots[b][r] = Arithmetic.multiplyAdd(vectors[b], x + r &* xStride, dots[b][r]) }
        }
    }

    @_transparent
    private static func finish(_ totals: Totals, _ dots: Accumulators, _ p: i4q_product, _ parameters: UnsafeRawPointer,
                               _ layout: PanelLayout<blocks>, _ sums: UnsafeRawPointer) {
        finish(0, totals, dots[0], p, parameters, layout, sums)
        if blocks > 1 { finish(1, totals, dots[1], p, parameters, layout, sums) }
        if blocks > 2 { finish(2, totals, dots[2], p, parameters, layout, sums) }
        if blocks > 3 { finish(3, totals, dots[3], p, parameters, layout, sums) }
    }

    @_transparent
    private static func finish(_ b: Int, _ totals: Totals, _ dots: InlineArray<rows, Floats>, _ p: i4q_product,
                               _ parameters: UnsafeRawPointer, _ layout: PanelLayout<blocks>, _ sums: UnsafeRawPointer) {
        let parameters = parameters + b &* 64
        addGroup(dots, to: totals, b, p, scale: parameters.floats(layout.scalesOffset), centre: parameters.floats(layout.centresOffset), sums)
    }
}

/// Floats as they are: F32 mode on every instruction set.
enum F32Panel<Codes: CodeReader>: PanelArithmetic {
    static var vectors: Int { 8 }
    @inline(__always) static func makeDecoder(_ p: i4q_product) -> Codes { Codes(codebook: p.codebook) }

    @inline(__always)
    static func decode(_ packed: Words, _ codes: Codes, into panel: UnsafeMutableRawPointer, stride: Int) {
        decodePair(packed, codes, 0, panel, stride)
        decodePair(packed, codes, 1, panel + 2 &* stride, stride)
        decodePair(packed, codes, 2, panel + 4 &* stride, stride)
        decodePair(packed, codes, 3, panel + 6 &* stride, stride)
    }

    @inline(__always)
    private static func decodePair(_ packed: Words, _ codes: Codes, _ pair: UInt32, _ panel: UnsafeMutableRawPointer, _ stride: Int) {
        let values = codes.values(packed, pair: pair)
        panel.storeBytes(of: values.even, as: Floats.self)
        panel.storeBytes(of: values.odd, toByteOffset: stride, as: Floats.self)
    }

    @inline(__always) static func load(_ pointer: UnsafeRawPointer) -> Floats { pointer.floats(0) }

    @inline(__always)
    static func multiplyAdd(_ weights: Floats, _ x: UnsafeRawPointer, _ sum: Floats) -> Floats {
        fusedMultiplyAdd(Floats(repeating: x.float(0)), weights, sum)
    }
}

/// For instruction sets that decode as fast as they would load.
enum NoPanel: PanelProduct {
    static var rowCount: Int { 1 }
    static var blockCount: Int { 1 }
    static func capacity(_ p: i4q_product) -> Int { 0 }
    static func run(_ p: i4q_product, _ t: i4q_tile, rows: Int, blocks: Range<Int>) {}
}
