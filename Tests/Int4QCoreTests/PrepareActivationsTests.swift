// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims
import XCTest

@testable import Int4QCore

/// Rows of activations as the kernel tables prepare them, in the layouts of int4q_kernels.h.
final class PrepareActivationsTests: XCTestCase {
    private static let shapes: [(k: Int, group: Int)] = [
        (1, 32), (15, 16), (16, 16), (17, 16), (31, 32), (33, 32), (64, 64), (65, 16), (100, 32), (100, 128), (129, 64), (300, 256),
        (511, 128), (777, 800),
    ]

    private func forEachRow(_ body: (InstructionSet, PreparedRow) -> Void) {
        var random = SplitMix64(state: 41)
        for set in machineSets {
            for (k, group) in Self.shapes {
                for type in elementTypes {
                    body(set, PreparedRow((0..<k).map { _ in random.float(exponents: -12...4) }, type, group: group))
                }
            }
        }
    }

    // MARK: F32 and BF16

    func testF32KeepsValuesAndAddsThemUp() {
        var all = Comparisons()
        forEachRow { set, row in
            row.prepare(set.kernels.prepare_f32, elementBytes: 4)
            row.checkFloats(row.x, elementBytes: 4, &all, "\(set.name) F32")
        }
        all.assertAllHeld(atLeast: 3 * machineSets.count * 2000)
    }

    func testBF16RoundsHalfToEvenAndAddsUpWhatItRounded() {
        var all = Comparisons()
        forEachRow { set, row in
            let bytes = Int(set.kernels.bf16_element_bytes)
            row.prepare(set.kernels.prepare_bf16, elementBytes: bytes)
            row.checkFloats(row.x.map { BFloat16Bits.float(BFloat16Bits.bits($0)) }, elementBytes: bytes, &all, "\(set.name) BF16")
        }
        all.assertAllHeld(atLeast: 3 * machineSets.count * 2000)
    }

    func testRowsMayStandInLinesApart() {
        let k = 200, padded = 224, group = 32, stride = 192
        let x = elements((0..<k).map { Float(sin(Double($0)) * 3) }, INT4Q_TYPE_F32)
        for set in machineSets {
            let modes = [(set.kernels.prepare_f32, 4), (set.kernels.prepare_bf16, Int(set.kernels.bf16_element_bytes)), (set.kernels.prepare_int8, 1)]
            for (prepare, bytes) in modes {
                let lines = (padded * bytes + 7 * 8 + 63) / 64
                func prepared(lineStride: Int) -> [UInt8] {
                    let memory = AlignedMemory(lines * stride)
                    memory.base.initializeMemory(as: UInt8.self, repeating: 0xa5, count: memory.byteCount)
                    var activations = i4q_activations(
                        source: x.base, source_type: Int64(INT4Q_TYPE_F32), k: Int64(k), k_padded: Int64(padded), group_size: Int64(group),
                        group_count: 7, prepared: memory.pointer(to: UInt8.self), line_stride: Int64(lineStride),
                        scales_offset: Int64(padded * bytes), sums_offset: Int64(padded * bytes), steps: nil, steps_stride: 0,
                        share_factor: -8, code_bits: 4)
                    prepare!(&activations)
                    return (0..<lines * 64).map { memory.pointer(to: UInt8.self)[$0 / 64 * lineStride + $0 % 64] }
                }
                XCTAssertEqual(prepared(lineStride: 64), prepared(lineStride: stride), "\(set.name), \(bytes) bytes")
            }
        }
    }

    func testSumsThatNobodyAsksForAreNotWritten() {
        let x = elements((0..<64).map { Float($0) }, INT4Q_TYPE_F32)
        for set in machineSets {
            for (prepare, bytes) in [(set.kernels.prepare_f32, 4), (set.kernels.prepare_bf16, Int(set.kernels.bf16_element_bytes))] {
                func prepared(sums: Int) -> [UInt8] {
                    let memory = AlignedMemory(64 * 4 + 64)
                    memory.base.initializeMemory(as: UInt8.self, repeating: 0xa5, count: memory.byteCount)
                    var activations = i4q_activations(
                        source: x.base, source_type: Int64(INT4Q_TYPE_F32), k: 64, k_padded: 64, group_size: 16, group_count: 4,
                        prepared: memory.pointer(to: UInt8.self), line_stride: 64, scales_offset: 0, sums_offset: Int64(sums), steps: nil,
                        steps_stride: 0, share_factor: 0, code_bits: 4)
                    prepare!(&activations)
                    return (0..<memory.byteCount).map { memory.pointer(to: UInt8.self)[$0] }
                }
                let with = prepared(sums: 64 * bytes), without = prepared(sums: -1)
                XCTAssertEqual(without[..<(64 * bytes)], with[..<(64 * bytes)], "\(set.name)")
                XCTAssertTrue(without[(64 * bytes)...].allSatisfy { $0 == 0xa5 }, "\(set.name)")
            }
        }
    }

    func testBF16ElementsTakeTwoBytesOrFour() {
        for set in machineSets {
            let isNarrow = set == .avx512bf16 || set == .amx
            XCTAssertEqual(set.kernels.bf16_element_bytes, isNarrow ? 2 : 4, "\(set.name)")
        }
    }

    /// By hand: between 1 and 1 + 2^-7 the middle goes down to the even one, between that and 1 + 2^-6 it goes up.
    func testBF16TiesAndEdges() {
        let pairs: [(x: Float, bits: UInt16)] = [
            (1, 0x3f80), (0x1.01p0, 0x3f80), (Float(0x1.01p0).nextUp, 0x3f81), (0x1.03p0, 0x3f82),
            (Float(0x1.03p0).nextDown, 0x3f81), (-0x1.01p0, 0xbf80), (0, 0), (-0.0, 0x8000), (0x1p-149, 0), (0x1p-134, 0),
            (Float(0x1p-134).nextUp, 1), (0x1.8p-133, 2),
            (.infinity, 0x7f80), (-.infinity, 0xff80), (.greatestFiniteMagnitude, 0x7f80), (0x1.fep127, 0x7f7f),
        ]
        for set in machineSets {
            let row = PreparedRow(pairs.map(\.x), INT4Q_TYPE_F32, group: 16)
            row.prepare(set.kernels.prepare_bf16, elementBytes: Int(set.kernels.bf16_element_bytes))
            for (index, pair) in pairs.enumerated() {
                let bits = row.float(index, elementBytes: Int(set.kernels.bf16_element_bytes)).bitPattern
                XCTAssertEqual(bits, UInt32(pair.bits) << 16, "\(set.name): \(show(pair.x))")
            }
        }
    }

    func testNaNsStayInTheirGroups() {
        for set in machineSets {
            let row = PreparedRow((0..<64).map { $0 == 20 ? .nan : 1 }, INT4Q_TYPE_F32, group: 16)
            for (prepare, bytes) in [(set.kernels.prepare_f32, 4), (set.kernels.prepare_bf16, Int(set.kernels.bf16_element_bytes))] {
                row.prepare(prepare, elementBytes: bytes)
                XCTAssertEqual((0..<64).filter { row.float($0, elementBytes: bytes).isNaN }, [20], "\(set.name)")
                XCTAssertEqual((0..<4).map { row.sum($0, elementBytes: bytes).isNaN }, [false, true, false, false], "\(set.name)")
            }
        }
    }

    // MARK: INT8

    func testINT8QuantizesEachGroupWithItsLargestMagnitude() {
        var all = Comparisons()
        forEachRow { set, row in
            for factor in [Int32(-8), -1] {
                row.prepare(set.kernels.prepare_int8, elementBytes: 1, shareFactor: factor)
                for group in 0..<row.groups {
                    let largest = row.values(of: group).map(\.magnitude).max()!
                    row.checkCodes(group, step: largest / 127, inverse: 127 / largest, factor, &all, "\(set.name)")
                }
            }
        }
        all.assertAllHeld(atLeast: 3 * machineSets.count * 2000)
    }

    func testINT8ClipsWhatTheCallersScalesCannotHold() {
        var all = Comparisons()
        var random = SplitMix64(state: 42)
        let steps = (0..<100).map { _ in random.float(exponents: -8...0).magnitude }
        forEachRow { set, row in
            for stride in [0, 1] {
                row.prepare(set.kernels.prepare_int8, elementBytes: 1, shareFactor: -8, steps: steps, stepsStride: stride)
                for group in 0..<row.groups {
                    let step = steps[group * stride]
                    row.checkCodes(group, step: step, inverse: 1 / step, -8, &all, "\(set.name), stride \(stride)")
                }
            }
        }
        all.assertAllHeld(atLeast: 3 * machineSets.count * 2000)
    }

    func testINT8GroupsThatAreNotFiniteHaveANaNForAStep() {
        for set in machineSets {
            for bad: Float in [.nan, .infinity, -.infinity] {
                for steps in [nil, [1, 1, 1, 1] as [Float]] {
                    let row = PreparedRow((0..<64).map { $0 == 37 ? bad : 1 }, INT4Q_TYPE_F32, group: 16)
                    row.prepare(set.kernels.prepare_int8, elementBytes: 1, shareFactor: -1, steps: steps, stepsStride: 1)
                    XCTAssertEqual((0..<4).map { row.pair($0).step.isNaN }, [false, false, true, false], "\(set.name)")
                    XCTAssertEqual(row.pair(2).share, 0, "\(set.name)")
                }
            }
        }
    }

    // MARK: BINARY

    /// Bits for what is below zero in the order of packed lanes, and each group's mean magnitude and count.
    func testBinaryKeepsSignsAndMeans() {
        var all = Comparisons()
        forEachRow { set, row in
            if row.group < 32 { return }
            for bits in [1, 2] {
                row.prepare(set.kernels.prepare_binary, bits: bits)
                row.checkSigns(bits, &all, "\(set.name), \(bits) bits")
            }
        }
        all.assertAllHeld(atLeast: 3 * machineSets.count * 200)
    }

    func testINT8GroupsBelowTheLimitCountAsZeros() {
        for set in machineSets {
            let below = Float(0x1p-100).nextDown
            let x = [Float](repeating: below, count: 16) + [Float](repeating: 0x1p-100, count: 16)
            let row = PreparedRow(x, INT4Q_TYPE_F32, group: 16)
            row.prepare(set.kernels.prepare_int8, elementBytes: 1, shareFactor: -1)
            XCTAssertEqual([row.pair(0).step, row.pair(1).step], [0, 0x1p-100 / 127], "\(set.name)")
            XCTAssertEqual([row.pair(0).share, row.pair(1).share], [0, -16 * 127], "\(set.name)")
        }
    }
}

/// A row of x and the memory that it is prepared in, between bytes that nobody writes.
private final class PreparedRow {
    private static let margin = 64
    let x: [Float] // as their type holds them
    let type: Int
    let group: Int
    private let source: AlignedMemory
    private let memory: AlignedMemory
    private var padded: Int { (x.count + 31) & ~31 }
    var groups: Int { (x.count - 1) / group + 1 }

    init(_ x: [Float], _ type: Int, group: Int) {
        source = elements(x, type)
        let source = source
        self.x = x.indices.map { element(source, type, $0) }
        self.type = type
        self.group = group
        memory = AlignedMemory(2 * Self.margin + (x.count + 31) * 4 + ((x.count - 1) / group + 1) * 8)
    }

    func prepare(_ function: (@convention(c) (UnsafePointer<i4q_activations>?) -> Void)?, elementBytes: Int, shareFactor: Int32 = 0,
                 steps: [Float]? = nil, stepsStride: Int = 0) {
        memory.base.initializeMemory(as: UInt8.self, repeating: 0xa5, count: memory.byteCount)
        let behind = Int64(padded * elementBytes)
        let table = elements(steps ?? [0], INT4Q_TYPE_F32)
        var activations = i4q_activations(
            source: source.base, source_type: Int64(type), k: Int64(x.count), k_padded: Int64(padded), group_size: Int64(group),
            group_count: Int64(groups), prepared: memory.pointer(to: UInt8.self, at: Self.margin), line_stride: 64, scales_offset: behind,
            sums_offset: behind, steps: steps == nil ? nil : UnsafePointer(table.pointer(to: Float.self)),
            steps_stride: Int64(stepsStride), share_factor: shareFactor, code_bits: 4)
        function!(&activations)
    }

    /// BINARY's: elements are of `bits` bits.
    func prepare(_ function: (@convention(c) (UnsafePointer<i4q_activations>?) -> Void)?, bits: Int) {
        memory.base.initializeMemory(as: UInt8.self, repeating: 0xa5, count: memory.byteCount)
        let behind = Int64(padded * bits / 8)
        var activations = i4q_activations(
            source: source.base, source_type: Int64(type), k: Int64(x.count), k_padded: Int64(padded), group_size: Int64(group),
            group_count: Int64(groups), prepared: memory.pointer(to: UInt8.self, at: Self.margin), line_stride: 64, scales_offset: behind,
            sums_offset: behind, steps: nil, steps_stride: 0, share_factor: 0, code_bits: Int32(bits))
        function!(&activations)
    }

    /// `word` of k by its parts: byte i of part t is k 8 (t / 2) + c with c = 0 4 1 5 for even t and 2 6 3 7 for odd t.
    func checkSigns(_ bits: Int, _ all: inout Comparisons, _ name: String) {
        let places = [[0, 4, 1, 5], [2, 6, 3, 7]], partsOfWord = 8 / bits
        for word in 0..<padded * bits / 32 {
            var wanted: UInt32 = 0
            for part in 0..<partsOfWord {
                for byte in 0..<4 {
                    let t = word * partsOfWord + part, k = t / 2 * 8 + places[t % 2][byte]
                    if k < x.count && x[k] < 0 { wanted |= (bits == 1 ? 1 : 3) << UInt32(8 * byte + part * bits) }
                }
            }
            all.expectEqual(memory.pointer(to: UInt32.self, at: Self.margin)[word], wanted, "\(name), word \(word)")
        }
        for group in 0..<groups {
            let magnitudes = values(of: group).map(\.magnitude)
            var partial = [Float](repeating: 0, count: 16)
            for (index, value) in magnitudes.enumerated() { partial[index % 16] += value }
            for width in [8, 4, 2, 1] { for index in 0..<width { partial[index] += partial[index + width] } }
            let pair = memory.base + Self.margin + padded * bits / 8 + group * 8
            let mean = partial[0] / Float(magnitudes.count)
            all.expectSame(pair.loadUnaligned(as: Float.self), mean, "\(name), mean of group \(group)")
            all.expectEqual(pair.loadUnaligned(fromByteOffset: 4, as: Int32.self), Int32(magnitudes.count), "\(name), count")
        }
        let end = Self.margin + padded * bits / 8 + groups * 8
        let beside = memory.bytes[..<Self.margin] + memory.bytes[end...]
        all.expect(beside.allSatisfy { $0 == 0xa5 }, "\(name): bytes beside")
    }

    // MARK: What was written

    func float(_ index: Int, elementBytes: Int) -> Float {
        if elementBytes == 4 { return memory.pointer(to: Float.self, at: Self.margin)[index] }
        return BFloat16Bits.float(memory.pointer(to: UInt16.self, at: Self.margin)[index])
    }

    func sum(_ group: Int, elementBytes: Int) -> Float {
        memory.pointer(to: Float.self, at: Self.margin + padded * elementBytes)[group]
    }

    /// k0 k4 k1 k5 k2 k6 k3 k7 of each eight.
    func code(_ k: Int) -> Int8 {
        let places = [0, 2, 4, 6, 1, 3, 5, 7]
        return memory.pointer(to: Int8.self, at: Self.margin)[k / 8 * 8 + places[k % 8]]
    }

    func pair(_ group: Int) -> (step: Float, share: Int32) {
        let place = Self.margin + padded + group * 8
        return (memory.pointer(to: Float.self, at: place)[0], memory.pointer(to: Int32.self, at: place + 4)[0])
    }

    func values(of group: Int) -> ArraySlice<Float> { x[group * self.group..<min((group + 1) * self.group, x.count)] }

    // MARK: What should have been

    func checkFloats(_ expected: [Float], elementBytes: Int, _ all: inout Comparisons, _ name: String) {
        let name = "\(name), type \(type), k \(x.count), group \(group)"
        for index in 0..<padded {
            all.expectSame(float(index, elementBytes: elementBytes), index < x.count ? expected[index] : 0, "\(name): \(index)")
        }
        for group in 0..<groups {
            let values = expected[group * self.group..<min((group + 1) * self.group, x.count)]
            all.expectSame(sum(group, elementBytes: elementBytes), Self.folded([Float](values)), "\(name): sum \(group)")
        }
        checkMargins(padded * elementBytes + groups * 4, &all, name)
    }

    func checkCodes(_ group: Int, step: Float, inverse: Float, _ factor: Int32, _ all: inout Comparisons, _ name: String) {
        let name = "\(name), type \(type), k \(x.count), group \(group) of \(self.group)"
        let codes = values(of: group).map { Int32(max(-127, min(127, ($0 * inverse).rounded(.toNearestOrEven)))) }
        for (index, expected) in codes.enumerated() {
            let k = group * self.group + index
            all.expect(Int32(code(k)) == expected, "\(name): code \(k) is \(code(k)), expected \(expected)")
        }
        all.expectSame(pair(group).step, step, "\(name): step")
        all.expect(pair(group).share == codes.reduce(0, +) * factor, "\(name): share \(pair(group).share)")
        for k in x.count..<padded { all.expect(code(k) == 0, "\(name): code \(k) is \(code(k))") }
        checkMargins(padded + groups * 8, &all, name)
    }

    private func checkMargins(_ written: Int, _ all: inout Comparisons, _ name: String) {
        let bytes = memory.bytes
        let outside = bytes[0..<Self.margin] + bytes[(Self.margin + written)...]
        all.expect(outside.allSatisfy { $0 == 0xa5 }, "\(name): bytes around it")
    }

    /// docs/numerics.md: 16 partial sums, folded 8, 4, 2, 1.
    private static func folded(_ values: [Float]) -> Float {
        var partial = [Float](repeating: 0, count: 16)
        for (index, value) in values.enumerated() { partial[index % 16] += value }
        for width in [8, 4, 2, 1] {
            for index in 0..<width { partial[index] += partial[index + width] }
        }
        return partial[0]
    }
}
