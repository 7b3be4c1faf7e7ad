// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims
import XCTest

@testable import Int4QCore

/// Each table's quantize_block against group_range and encode: int4q_quantize_pack_rows() against int4q_quantize_rows() and
/// int4q_pack_rows(), and the same bytes for every instruction set.
final class QuantizeBlockTests: XCTestCase {
    private static let codebook: [Float] = [-1, -0.7, -0.5, -0.4, -0.3, -0.2, -0.1, 0, 0.1, 0.15, 0.25, 0.35, 0.45, 0.55, 0.75, 1]

    private static let schemes: [int4q_scheme] = {
        var schemes = [int4q_scheme]()
        for group in [16, 32, 64, 128, 256, Int(INT4Q_GROUP_PER_ROW)] {
            for scale in elementTypes {
                for rule in [INT4Q_SCALE_AMAX_7, INT4Q_SCALE_AMAX_7_5] {
                    for range in [INT4Q_RANGE_FULL, INT4Q_RANGE_RESTRICTED] {
                        schemes.append(rawScheme(INT4Q_KIND_SYMMETRIC, group: group, scale: scale, rule: rule, range: range))
                    }
                }
                for kind in [INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK] {
                    schemes.append(rawScheme(kind, group: group, scale: scale))
                }
            }
            schemes.append(rawScheme(INT4Q_KIND_SYMMETRIC, group: group, scale: INT4Q_TYPE_F16, rounding: INT4Q_ROUNDING_GGML))
            schemes.append(rawScheme(INT4Q_KIND_OFFSET, group: group, scale: INT4Q_TYPE_F16, rounding: INT4Q_ROUNDING_GGML))
        }
        return schemes
    }()

    private func name(_ set: InstructionSet, _ raw: int4q_scheme, _ source: WeightRows) -> String {
        "\(set.name): kind \(raw.kind), group \(raw.group_size), scale \(raw.scale_type), rule \(raw.scale_rule), "
            + "range \(raw.code_range), rounding \(raw.rounding); \(source)"
    }

    // MARK: One pass and two

    private func twoSteps(_ raw: int4q_scheme, _ source: WeightRows) -> (status: int4q_status, blob: [UInt8]) {
        let tensor = TestTensor(raw, n: source.n, k: source.k, codebook: raw.kind == INT4Q_KIND_CODEBOOK ? Self.codebook : nil)
        let status = tensor.quantize(source.memory, source.type, stride: source.stride)
        return (status, status == 0 ? tensor.packed().bytes : [])
    }

    private func onePass(_ raw: int4q_scheme, _ source: WeightRows) -> (status: int4q_status, blob: [UInt8]) {
        var raw = raw
        let blob = emptyBlob(raw, n: source.n, k: source.k)
        blob.base.initializeMemory(as: UInt8.self, repeating: 0x5a, count: blob.byteCount)
        let status = int4q_quantize_pack_rows(
            &raw, source.n, source.k, raw.kind == INT4Q_KIND_CODEBOOK ? Self.codebook : nil, source.memory.base,
            int4q_type(source.type), source.stride, blob.base, UInt64(blob.byteCount), 0, source.n)
        return (status, status == 0 ? blob.bytes : [])
    }

    private func assertEqualSteps(_ raw: int4q_scheme, _ source: WeightRows) {
        let portable = limited(to: .portable) { twoSteps(raw, source) }
        for set in machineSets {
            limited(to: set) {
                let two = twoSteps(raw, source), one = onePass(raw, source)
                XCTAssertEqual(one.status, two.status, name(set, raw, source))
                XCTAssertTrue(one.blob == two.blob, firstDifference(one.blob, two.blob) + name(set, raw, source))
                XCTAssertTrue(two.blob == portable.blob, firstDifference(two.blob, portable.blob) + name(set, raw, source))
            }
        }
    }

    private func firstDifference(_ actual: [UInt8], _ expected: [UInt8]) -> String {
        let differing = zip(actual, expected).enumerated().first { $1.0 != $1.1 }
        guard let index = differing?.offset else { return "lengths differ; " }
        return "byte \(index) is \(hex(actual[index])), expected \(hex(expected[index])); "
    }

    func testOrdinaryWeights() {
        var random = SplitMix64(state: 51)
        for raw in Self.schemes {
            for (n, k): (Int64, Int64) in [(1, 1), (16, 32), (17, 300), (33, 77)] {
                for type in elementTypes {
                    assertEqualSteps(raw, WeightRows(n: n, k: k, type) { _, _ in random.float(exponents: -6...(-1)) })
                }
            }
        }
    }

    func testEveryLengthUpTo70() {
        var random = SplitMix64(state: 52)
        for kind in [INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET] {
            for k in Int64(1)...70 {
                assertEqualSteps(rawScheme(kind, group: 32), WeightRows(n: 3, k: k, INT4Q_TYPE_F32) { _, _ in
                    random.float(exponents: -3...0)
                })
            }
        }
    }

    func testRowsOfSeveralPackedGroups() {
        var random = SplitMix64(state: 53)
        for kind in [INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK] {
            let source = WeightRows(n: 2, k: 65_600, INT4Q_TYPE_BF16) { _, _ in random.float(exponents: -6...(-1)) }
            assertEqualSteps(rawScheme(kind, group: Int(INT4Q_GROUP_PER_ROW)), source)
        }
    }

    /// Groups that are constant, zero of either sign, tiny, huge, or all ties, side by side in a block.
    func testGroupsThatNeedCareAmongOthers() {
        var random = SplitMix64(state: 54)
        for raw in Self.schemes where raw.group_size == 16 || raw.group_size == 32 {
            for round in 0..<4 {
                let source = WeightRows(n: 20, k: 100, INT4Q_TYPE_F32) { row, column in
                    Self.peculiar(row * 7 + column / 16 + round * 5, column, &random)
                }
                assertEqualSteps(raw, source)
            }
        }
    }

    private static func peculiar(_ group: Int, _ column: Int, _ random: inout SplitMix64) -> Float {
        switch group % 13 {
        case 0: 0
        case 1: random.sign() * 0
        case 2: 0.3
        case 3: -0.3
        case 4: random.sign() * 0x1p-149 * Float(random.next() % 40)
        case 5: random.float(exponents: -30...(-20))
        case 6: random.sign() * 0x1p15
        case 7: Float(Int(random.next() % 31) - 15) / 2
        case 8: Float(random.next() % 16) + 0.5
        case 9: -Float(random.next() % 16) - 0.5
        case 10: column % 16 == 3 ? -1 : 1
        case 11: random.float(exponents: -140...(-120))
        default: random.float(exponents: -4...3)
        }
    }

    /// Steps are found by products where scales have 16 bits, and must be what a division gives: so halves of steps, and the
    /// numbers next to them, for scales of every number of digits and of every magnitude that the type has.
    func testValuesAtAndBesideHalfSteps() {
        var random = SplitMix64(state: 58)
        for raw in Self.schemes where raw.group_size == 32 && raw.kind != INT4Q_KIND_CODEBOOK && raw.rounding != INT4Q_ROUNDING_GGML {
            let exponents = raw.scale_type == int4q_type(INT4Q_TYPE_F16) ? -24...10 : -136...90
            for _ in 0..<4 {
                var scale: Float = 0
                assertEqualSteps(raw, WeightRows(n: 16, k: 256, INT4Q_TYPE_F32) { _, column in
                    if column % 32 == 0 { scale = Self.scale(raw.scale_type, exponents, &random) }
                    return Self.besideHalfStep(column % 32, scale, raw.kind, &random)
                })
            }
        }
    }

    private static func scale(_ type: int4q_type, _ exponents: ClosedRange<Int>, _ random: inout SplitMix64) -> Float {
        let digits = [2, 5, 8, 11, 24][Int(random.next() % (type == int4q_type(INT4Q_TYPE_F32) ? 5 : 4))]
        let significand = 1 + Float(random.next() % (1 << UInt64(digits - 1))) * Float(sign: .plus, exponent: 1 - digits, significand: 1)
        return Float(sign: .plus, exponent: Int.random(in: exponents, using: &random), significand: significand)
    }

    /// First the ends of the range, -7 and 7 steps or (15 steps) -7 and 8.
    private static func besideHalfStep(_ place: Int, _ scale: Float, _ kind: Int32, _ random: inout SplitMix64) -> Float {
        if place < 2 { return scale * (place == 0 ? -7 : kind == INT4Q_KIND_SYMMETRIC ? 7 : 8) }
        let value = scale * (Float(place % 14) - 6.5)
        return Float(bitPattern: value.bitPattern &+ UInt32(truncatingIfNeeded: Int(random.next() % 5) - 2))
    }

    func testGroupsAtBothEndsOfTheRange() {
        var random = SplitMix64(state: 55)
        for raw in Self.schemes where raw.group_size == 32 && raw.scale_type != int4q_type(INT4Q_TYPE_F16) {
            for exponents in [-149...(-140), -130...(-110), 95...105, 120...127] {
                let source = WeightRows(n: 16, k: 64, INT4Q_TYPE_F32) { _, _ in random.float(exponents: exponents) }
                assertEqualSteps(raw, source)
            }
        }
    }

    func testFailuresAreTheSame() {
        for raw in Self.schemes where raw.group_size == 16 {
            for bad: Float in [.nan, .infinity, -.infinity, 1e30] {
                assertEqualSteps(raw, WeightRows(n: 18, k: 50, INT4Q_TYPE_F32) { row, column in
                    row == 17 && column == 35 ? bad : Float(row - column)
                })
            }
        }
    }

    // MARK: The table's function itself

    func testOrdinaryGroupsAreAllTaken() {
        var random = SplitMix64(state: 56)
        for set in machineSets {
            for kind in [INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET] {
                let source = WeightRows(n: 16, k: 100, INT4Q_TYPE_F32) { _, _ in random.float(exponents: -6...0) }
                for first in 0...4 { XCTAssertEqual(BlockCall(source, kind).run(set, from: first), 4, "\(set.name), kind \(kind)") }
            }
        }
    }

    func testGroupsThatNeedCareAreLeftToOthers() {
        let cases: [(name: String, kind: Int, value: (Int) -> Float)] = [
            ("NaN", INT4Q_KIND_SYMMETRIC, { $0 == 70 ? .nan : 1 - Float($0) }),
            ("infinity", INT4Q_KIND_OFFSET, { $0 == 64 ? .infinity : 1 - Float($0) }),
            ("a constant", INT4Q_KIND_ASYMMETRIC, { $0 / 32 == 2 ? 3 : 1 - Float($0) }),
            ("a scale beyond binary16", INT4Q_KIND_OFFSET, { $0 == 95 ? 1e7 : 1 - Float($0) }),
        ]
        for set in machineSets {
            for (name, kind, value) in cases {
                let source = WeightRows(n: 16, k: 128, INT4Q_TYPE_F32) { row, column in row == 9 ? value(column) : Float(column) }
                let call = BlockCall(source, kind, scale: INT4Q_TYPE_F16)
                XCTAssertEqual(call.run(set, from: 0), 2, "\(set.name): \(name)")
                XCTAssertEqual(call.run(set, from: 3), 4, "\(set.name): \(name)")
            }
        }
    }

    func testNothingIsWrittenBeyondTheBlock() {
        var random = SplitMix64(state: 57)
        for set in machineSets {
            for (n, k): (Int64, Int64) in [(1, 1), (5, 33), (16, 100), (15, 64)] {
                let source = WeightRows(n: n, k: k, INT4Q_TYPE_BF16) { _, _ in random.float(exponents: -6...0) }
                let call = BlockCall(source, INT4Q_KIND_OFFSET)
                _ = call.run(set, from: 0)
                XCTAssertTrue(call.isSurroundedByUntouchedBytes, "\(set.name), \(n) x \(k)")
            }
        }
    }
}

/// A matrix whose rows are a few elements apart; NaN stands between them.
private struct WeightRows: CustomStringConvertible {
    let n: Int64
    let k: Int64
    let stride: Int64
    let type: Int
    let memory: AlignedMemory

    init(n: Int64, k: Int64, _ type: Int, _ value: (Int, Int) -> Float) {
        let stride = k + 3
        var floats = [Float](repeating: .nan, count: Int(n * stride))
        for row in 0..<Int(n) {
            for column in 0..<Int(k) { floats[row * Int(stride) + column] = value(row, column) }
        }
        (self.n, self.k, self.stride, self.type) = (n, k, stride, type)
        memory = elements(floats, type)
    }

    var description: String { "\(n) x \(k) of type \(type)" }
}

/// quantize_block on a block of its own, in groups of 32.
private final class BlockCall {
    private static let margin = 64
    private let source: WeightRows
    private let memory: AlignedMemory
    private let scratch = AlignedMemory(Int(I4Q_QUANTIZING_SCRATCH))
    private let blockBytes: Int
    private var quantization = i4q_block_quantization()

    init(_ source: WeightRows, _ kind: Int, scale: Int = INT4Q_TYPE_F32) {
        let layout = try! BlobLayout(Scheme(rawScheme(kind, group: 32, scale: scale)), n: source.n, k: source.k)
        self.source = source
        blockBytes = Int(layout.blockBytes)
        memory = AlignedMemory(blockBytes + 2 * Self.margin)
        memory.base.initializeMemory(as: UInt8.self, repeating: 0x5a, count: memory.byteCount)
        (memory.base + Self.margin).initializeMemory(as: UInt8.self, repeating: 0, count: blockBytes)
        quantization = i4q_block_quantization(
            source: source.memory.base, source_type: Int64(source.type),
            row_bytes: source.stride * Int64(elementSize(source.type)), row_count: source.n, k: source.k, group_size: 32,
            group_count: layout.groupCount, kind: Int64(kind), is_signed: 0, divisor: 7, low: 0, scale_type: Int64(scale),
            scales_offset: Int64(layout.scalesOffset), zeros_offset: Int64(layout.zerosOffset),
            block: memory.pointer(to: UInt8.self, at: Self.margin), table: nil, scratch: scratch.base, is_mlx: 0)
    }

    func run(_ set: InstructionSet, from first: Int) -> Int64 { set.kernels.quantize_block(&quantization, Int64(first)) }

    var isSurroundedByUntouchedBytes: Bool {
        let bytes = memory.bytes
        return (bytes[0..<Self.margin] + bytes[(Self.margin + blockBytes)...]).allSatisfy { $0 == 0x5a }
    }
}
