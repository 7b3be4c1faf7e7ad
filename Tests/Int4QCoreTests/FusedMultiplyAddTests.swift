// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims
import Foundation
import XCTest

@testable import Int4QCore

/// The fused multiply-add of each instruction set, seen through `decode`, which computes fma(scale, q - zero, offset),
/// and through `tile_f32`, which chains fma(x, codebook[q], sum). Expected: results worked out by hand, and fmaf().
class FusedMultiplyAddTests: KernelTestCase {
    // MARK: Through decode

    private func decode(_ scale: Float, _ factor: Int32, _ offset: Float) -> Float {
        var decoding = i4q_decoding(scale: scale, offset: offset, zero: -factor, codebook: nil)
        var code: UInt8 = 0, result: Float = 0
        kernels.decode(&decoding, &code, 1, &result)
        return result
    }

    func testTiesGoToEven() {
        XCTAssertEqual(decode(0x1p-24, 1, 1), 1)
        XCTAssertEqual(decode(0x1p-24, 1, 0x1.000002p0), 0x1.000004p0)
        XCTAssertEqual(decode(0x1.000002p-24, 1, 1), 0x1.000002p0)
        XCTAssertEqual(decode(0x1.fffffep-25, 1, 0x1.000002p0), 0x1.000002p0)
    }

    /// (1 + 2^-23)(1 - 2^-23) = 1 - 2^-46: binary64 rounds the sum to a tie, which is then rounded the wrong way.
    func testNearTiesAreNotRoundedTwice() {
        let scale: Float = 0x1.000002p-48, factor: Int32 = 1 << 24 - 2
        XCTAssertEqual(decode(scale, factor, 0x1.000002p0), 0x1.000002p0)
        XCTAssertEqual(decode(-scale, factor, 0x1.000002p0), 0x1.000002p0)
        XCTAssertEqual(decode(scale, factor, -0x1.000002p0), -0x1.000002p0)
        XCTAssertEqual(decode(-scale, factor, -0x1.000002p0), -0x1.000002p0)
    }

    func testCancellationKeepsTheProductsLastBits() {
        // (1 + 2^-23)(2^24 - 1) = 2^24 + 1 - 2^-23
        XCTAssertEqual(decode(0x1.000002p0, 1 << 24 - 1, -0x1p24), 0x1.fffffcp-1)
        XCTAssertEqual(decode(0x1.fffffep0, 1 << 24 - 1, -0x1.fffffcp24), 0x1p-23)
    }

    func testResultsMayBeSubnormal() {
        XCTAssertEqual(decode(0x1p-149, 1, 0x1p-149), 0x1p-148)
        XCTAssertEqual(decode(-0x1p-149, 3, 0x1p-126), Float(bitPattern: 0x007f_fffd))
        XCTAssertEqual(decode(0x1p-126, 1, -Float(bitPattern: 0x007f_ffff)), 0x1p-149)
    }

    func testTheRangeEndsAtTheTieAboveTheLargestNumber() {
        let largest = Float.greatestFiniteMagnitude
        XCTAssertEqual(decode(0x1p103, 1, largest), .infinity)
        XCTAssertEqual(decode(0x1.fffffep102, 1, largest), largest)
        XCTAssertEqual(decode(-0x1p103, 1, -largest), -.infinity)
        // 2^128 - 2^127: the product alone is beyond the range.
        XCTAssertEqual(decode(0x1p105, 1 << 23, -0x1p127), 0x1p127)
    }

    func testInfinitiesAndNaNs() {
        XCTAssertEqual(decode(1, 1, .infinity), .infinity)
        XCTAssertEqual(decode(-.infinity, 1, 1), -.infinity)
        XCTAssertTrue(decode(.infinity, 0, 1).isNaN)
        XCTAssertTrue(decode(.infinity, 1, -.infinity).isNaN)
        XCTAssertTrue(decode(.nan, 1, 1).isNaN)
    }

    func testDecodeAgreesWithFmafOnAdversarialOperands() {
        var random = SplitMix64(state: 1)
        var all = Comparisons()
        for index in 0..<100_000 {
            let kind = Operands.Kind.allCases[index % Operands.Kind.allCases.count]
            let factor = kind.factor(&random)
            let (scale, offset) = kind.operands(for: Float(factor), &random)
            if offset == 0 { continue } // decode then multiplies alone
            all.expectSame(decode(scale, factor, offset), offset.addingProduct(scale, Float(factor)),
                           "\(kind): fma(\(show(scale)), \(factor), \(show(offset)))")
        }
        all.assertAllHeld(atLeast: 99_000)
    }

    func testDecodeAgreesWithFmafOnRandomBitPatterns() {
        var random = SplitMix64(state: 2)
        var all = Comparisons()
        for _ in 0..<100_000 {
            let scale = random.anyFloat(), offset = random.anyFloat()
            let factor = Int32(truncatingIfNeeded: random.next()) >> 8
            if offset == 0 { continue }
            all.expectSame(decode(scale, factor, offset), offset.addingProduct(scale, Float(factor)),
                           "fma(\(show(scale)), \(factor), \(show(offset)))")
        }
        all.assertAllHeld(atLeast: 99_000)
    }

    // MARK: Through tile_f32

    func testProductsAgreeWithFmafOnAdversarialOperands() {
        var random = SplitMix64(state: 5)
        var all = Comparisons()
        let product = TinyProduct(rows: 16)
        for call in 0..<500 {
            let kind = Operands.Kind.allCases[call % Operands.Kind.allCases.count]
            let codebook = (0..<15).map { _ in Float(kind.factor(&random)) * 0x1p-23 }
            let operands = (0..<16).map { row in
                kind.operands(for: codebook[row % 15], &random)
            }
            product.check(kernels, codebook, operands, &all, "\(kind)")
        }
        all.assertAllHeld(atLeast: 500 * 16 * 15)
    }

    func testProductsAgreeWithFmafOnRandomBitPatterns() {
        var random = SplitMix64(state: 6)
        var all = Comparisons()
        let product = TinyProduct(rows: 64)
        for _ in 0..<110 {
            let codebook = (0..<15).map { _ in
                let value = random.anyFloat()
                return value.isFinite ? value : 1.5
            }
            let operands = (0..<64).map { _ in (a: random.anyFloat(), c: random.anyFloat()) }
            product.check(kernels, codebook, operands, &all, "random")
        }
        all.assertAllHeld(atLeast: 100_000)
    }

    func testGroupsAreChainsOverKAndThenTheirScale() {
        var random = SplitMix64(state: 7)
        var all = Comparisons()
        for kind in [INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK] {
            for _ in 0..<20 { ChainedProduct(kind, rows: 5, blocks: 1, &random).check(kernels, &all) }
            // Rows and blocks that are decoded once for all, and some that are left over.
            ChainedProduct(kind, rows: 29, blocks: 3, &random).check(kernels, &all)
        }
        all.assertAllHeld(atLeast: 4 * (20 * 5 * 16 + 29 * 48))
    }

    func testTheKernelsAreTheInstructionSetsOwn() { assertKernels(named: "portable") }
}

final class FusedMultiplyAddAVX2Tests: FusedMultiplyAddTests {
    override var instructionSet: InstructionSet { .avx2 }
    override func testTheKernelsAreTheInstructionSetsOwn() { assertKernels(named: "avx2") }
}

final class FusedMultiplyAddAVX512VNNITests: FusedMultiplyAddTests {
    override var instructionSet: InstructionSet { .avx512vnni }
    override func testTheKernelsAreTheInstructionSetsOwn() { assertKernels(named: "avx512") }
}

/// a and c, made for a given b so that fma(a, b, c) is hard to round.
private enum Operands {
    enum Kind: CaseIterable {
        case nearTie, cancellation, subnormal, farApart, overflow

        /// A whole number of up to 24 bits; b is this, or this / 2^23.
        func factor(_ random: inout SplitMix64) -> Int32 {
            let sign: Int32 = random.next() & 1 == 0 ? 1 : -1
            if self == .nearTie { return sign * (1 << 23 + Int32(random.next() % 8)) }
            return sign * (1 << 23 | Int32(random.next() & 0x7f_ffff))
        }

        func operands(for b: Float, _ random: inout SplitMix64) -> (a: Float, c: Float) {
            let exponent = Int(b.exponent)
            switch self {
            case .nearTie:
                // b = 2^e (1 + k 2^-23), so a = 2^-e (1 - (k + d) 2^-23) brings the product next to half a step of c.
                let c = random.float(exponents: -70...100)
                let k = (b.significand - 1) * 0x1p23 + Float(Int(random.next() % 3) - 1)
                let half = Float(sign: .plus, exponent: Int(c.exponent) - 24 - exponent, significand: 1)
                return (random.sign() * half * (1 - k * 0x1p-23), c)
            case .cancellation:
                let a = random.float(exponents: -60...60)
                var c = -(a * b)
                for _ in 0..<random.next() % 4 { c = random.next() & 1 == 0 ? c.nextUp : c.nextDown }
                return (a, c)
            case .subnormal:
                let a = random.float(exponents: max(-152 - exponent, -149)...max(-125 - exponent, -148))
                let c = Float(bitPattern: UInt32(truncatingIfNeeded: random.next()) & 0x81ff_ffff)
                return (a, c)
            case .farApart:
                return (random.float(exponents: -126...100), random.float(exponents: -126...127))
            case .overflow:
                // Around the largest number plus half its step, and around 2^128 with c of the other sign.
                let isTie = random.next() & 1 == 0
                let target = isTie ? 0x1p103 : 0x1p127
                var a = Float(target / Double(b))
                for _ in 0..<random.next() % 3 { a = random.next() & 1 == 0 ? a.nextUp : a.nextDown }
                let c = isTie ? random.sign() * .greatestFiniteMagnitude : random.float(exponents: 100...127)
                return (a, c)
            }
        }
    }
}

/// y = fma(a, b, c) in a product of 32 k: k = 0 brings c (times 1), k = 1 brings a times column j's b = codebook[j].
private final class TinyProduct {
    private static let rowBytes = 192, blockBytes = 320
    private let rows: Int
    private let block = AlignedMemory(TinyProduct.blockBytes)
    private let prepared: AlignedMemory
    private let out: AlignedMemory
    private let panel = AlignedMemory(Int(I4Q_PANEL_BYTES))

    init(rows: Int) {
        self.rows = rows
        prepared = AlignedMemory(rows * Self.rowBytes)
        out = AlignedMemory(rows * 64)
        // Code 15, which stands for 1, everywhere but at k = 1: bits 16..19 of the first lane.
        for lane in 0..<64 { block.pointer(to: UInt32.self)[lane] = .max }
        for column in 0..<16 {
            block.pointer(to: UInt32.self)[column] = 0xfff0_ffff | UInt32(column) << 16
            block.pointer(to: Float.self, at: 256)[column] = 1
        }
    }

    func check(_ kernels: i4q_kernels, _ codebook: [Float], _ operands: [(a: Float, c: Float)], _ all: inout Comparisons,
               _ name: String) {
        for row in 0..<rows {
            let x = prepared.pointer(to: Float.self, at: row * Self.rowBytes)
            x[0] = operands[row].c
            x[1] = operands[row].a
        }
        let table = codebook + [1]
        table.withUnsafeBufferPointer { run(kernels, $0.baseAddress!) }
        let results = out.pointer(to: Float.self)
        for row in 0..<rows {
            // What is added before and after are zeros: a negative zero becomes a positive one.
            let (a, c) = (operands[row].a, operands[row].c + 0)
            for column in 0..<15 {
                let b = table[column]
                all.expectSame(results[row * 16 + column], c.addingProduct(a, b) + 0,
                               "\(name): fma(\(show(a)), \(show(b)), \(show(c)))")
            }
        }
    }

    private func run(_ kernels: i4q_kernels, _ codebook: UnsafePointer<Float>) {
        var product = i4q_product(
            blocks: block.pointer(to: UInt8.self), block_bytes: Int64(Self.blockBytes), scales_offset: 256, zeros_offset: 0,
            scale_type: Int64(INT4Q_TYPE_F32), kind: Int64(INT4Q_KIND_CODEBOOK), code_bits: 4, k_padded: 32, group_size: 32, group_count: 1,
            codebook: codebook, codebooks_offset: 0, prepared: prepared.pointer(to: UInt8.self), prepared_row_bytes: Int64(Self.rowBytes), prepared_line_stride: 64,
            prepared_scales_offset: 128, prepared_sums_offset: 128, int8_codebook: nil, int8_codebook_step: 1, rounds_weights: 0)
        var tile = i4q_tile(row_begin: 0, row_count: Int64(rows), block_begin: 0, block_count: 1,
                            out: out.pointer(to: Float.self), out_stride: 16, panel: panel.base)
        kernels.tile_f32(&product, &tile)
    }
}

/// Three groups of 16 with random everything, and the same sums written as docs/numerics.md has them.
private struct ChainedProduct {
    static let k = 64, depth = 48, group = 16
    private static let scalesOffset = k * 8, zerosOffset = scalesOffset + 192, blockBytes = zerosOffset + 192
    private static let rowBytes = 320, sumsOffset = 256

    let kind: Int
    let rows: Int
    let blocks: Int
    let codebook: [Float]
    let x: [[Float]]
    let sums: [[Float]] // of a row's groups; whatever stands there counts
    let codes: [[Int]] // of a column
    let scales: [[Float]] // of a group's columns, as the next two
    let offsets: [[Float]]
    let zeroPoints: [[Int]]

    init(_ kind: Int, rows: Int, blocks: Int, _ random: inout SplitMix64) {
        var source = random
        func floats(_ count: Int) -> [Float] { (0..<count).map { _ in source.float(exponents: -8...8) } }
        func nibbles(_ count: Int) -> [Int] { (0..<count).map { _ in Int(source.next() % 16) } }
        self.kind = kind
        self.rows = rows
        self.blocks = blocks
        codebook = floats(16)
        x = (0..<rows).map { _ in floats(Self.depth) }
        sums = (0..<rows).map { _ in floats(3) }
        codes = (0..<blocks * 16).map { _ in nibbles(Self.depth) }
        scales = (0..<3).map { _ in floats(blocks * 16) }
        offsets = (0..<3).map { _ in floats(blocks * 16) }
        zeroPoints = (0..<3).map { _ in nibbles(blocks * 16) }
        random = source
    }

    func check(_ kernels: i4q_kernels, _ all: inout Comparisons) {
        let results = run(kernels)
        for row in 0..<rows {
            for column in 0..<blocks * 16 {
                all.expectSame(results[row * blocks * 16 + column], expected(row, column),
                               "kind \(kind), \(rows) rows, row \(row), column \(column)")
            }
        }
    }

    private func expected(_ row: Int, _ column: Int) -> Float {
        var total: Float = 0
        for group in 0..<3 {
            var dot: Float = 0
            for k in group * Self.group..<(group + 1) * Self.group {
                let code = codes[column][k]
                dot = fma(x[row][k], kind == INT4Q_KIND_CODEBOOK ? codebook[code] : Float(code - 8), dot)
            }
            let scale = scales[group][column], sum = sums[row][group]
            if kind == INT4Q_KIND_ASYMMETRIC { dot = fma(Float(8 - zeroPoints[group][column]), sum, dot) }
            total = fma(scale, dot, total)
            if kind == INT4Q_KIND_OFFSET { total = fma(fma(8, scale, offsets[group][column]), sum, total) }
        }
        return total
    }

    private func run(_ kernels: i4q_kernels) -> [Float] {
        let prepared = AlignedMemory(rows * Self.rowBytes), weights = packed(), out = AlignedMemory(rows * blocks * 64)
        let panel = AlignedMemory(Int(I4Q_PANEL_BYTES))
        for row in 0..<rows {
            prepared.pointer(to: Float.self, at: row * Self.rowBytes).update(from: x[row], count: Self.depth)
            prepared.pointer(to: Float.self, at: row * Self.rowBytes + Self.sumsOffset).update(from: sums[row], count: 3)
        }
        codebook.withUnsafeBufferPointer { table in
            var product = i4q_product(
                blocks: weights.pointer(to: UInt8.self), block_bytes: Int64(Self.blockBytes),
                scales_offset: Int64(Self.scalesOffset), zeros_offset: Int64(Self.zerosOffset),
                scale_type: Int64(INT4Q_TYPE_F32), kind: Int64(kind), code_bits: 4,
                k_padded: Int64(Self.k), group_size: Int64(Self.group), group_count: 3,
                codebook: kind == INT4Q_KIND_CODEBOOK ? table.baseAddress : nil, codebooks_offset: 0, prepared: prepared.pointer(to: UInt8.self),
                prepared_row_bytes: Int64(Self.rowBytes), prepared_line_stride: 64, prepared_scales_offset: 0,
                prepared_sums_offset: Int64(Self.sumsOffset), int8_codebook: nil, int8_codebook_step: 1, rounds_weights: 0)
            var tile = i4q_tile(row_begin: 0, row_count: Int64(rows), block_begin: 0, block_count: Int64(blocks),
                                out: out.pointer(to: Float.self), out_stride: Int64(blocks * 16), panel: panel.base)
            kernels.tile_f32(&product, &tile)
        }
        return (0..<rows * blocks * 16).map { out.pointer(to: Float.self)[$0] }
    }

    private func packed() -> AlignedMemory {
        let weights = AlignedMemory(blocks * Self.blockBytes)
        for column in 0..<blocks * 16 { pack(column, into: weights, at: column / 16 * Self.blockBytes) }
        return weights
    }

    private func pack(_ column: Int, into weights: AlignedMemory, at block: Int) {
        let shifts: [UInt32] = [0, 16, 4, 20, 8, 24, 12, 28] // of k + 0, k + 1, ...; see BlobLayout's figure
        let lane = column % 16
        for k in 0..<Self.depth {
            weights.pointer(to: UInt32.self, at: block)[k / 8 * 16 + lane] |= UInt32(codes[column][k]) << shifts[k % 8]
        }
        let zeros = block + Self.zerosOffset
        for group in 0..<3 {
            let index = group * 16 + lane
            weights.pointer(to: Float.self, at: block + Self.scalesOffset)[index] = scales[group][column]
            if kind == INT4Q_KIND_OFFSET { weights.pointer(to: Float.self, at: zeros)[index] = offsets[group][column] }
            if kind == INT4Q_KIND_ASYMMETRIC {
                weights.pointer(to: UInt8.self, at: zeros)[index] = UInt8(zeroPoints[group][column])
            }
        }
    }
}
