// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims
import XCTest

@testable import Int4QCore

/// Rows of elements to and from floats, against the scalar conversions, which have tests of their own.
class KernelConversionTests: KernelTestCase {
    private static let everyHalf = [UInt16](UInt16.min...UInt16.max)

    private func load(_ halves: [UInt16], _ type: Int) -> [Float] {
        var floats = [Float](repeating: 0, count: halves.count)
        kernels.load(halves, Int64(type), Int64(halves.count), &floats)
        return floats
    }

    private func store(_ floats: [Float], _ type: Int) -> [UInt16] {
        var halves = [UInt16](repeating: 0, count: floats.count)
        kernels.store(floats, Int64(floats.count), Int64(type), &halves)
        return halves
    }

    /// Halfway points and what lies beside them, NaNs of every kind, and random patterns.
    private static let floats: [Float] = {
        var random = SplitMix64(state: 3)
        var floats = (0..<50_000).map { _ in random.anyFloat() }
        floats += (0..<50_000).map { _ in random.float(exponents: -27...17) }
        for half in UInt16(0)..<0x7c00 {
            let halfway = (Float(Float16(bitPattern: half)) + (half == 0x7bff ? 65536 : Float(Float16(bitPattern: half + 1)))) / 2
            floats += [halfway, halfway.nextUp, -halfway.nextDown]
        }
        for upper in UInt32(0)..<0x1000 {
            let word = upper << 20 | 0x8000
            floats += [word, word - 1, word + 1, word | 0x1_8000].map(Float.init(bitPattern:))
        }
        floats += [0, -0.0, .infinity, -.infinity, .nan, .signalingNaN, Float(bitPattern: 0xff80_0001)]
        return floats
    }()

    func testEveryHalfLoadsAsTheScalarDoes() {
        var all = Comparisons()
        for (half, float) in zip(Self.everyHalf, load(Self.everyHalf, INT4Q_TYPE_F16)) {
            all.expectSame(float, Float16Bits.float(half), hex(half))
        }
        all.assertAllHeld(atLeast: 65536)
    }

    func testEveryBFloatLoadsAsTheScalarDoes() {
        var all = Comparisons()
        for (half, float) in zip(Self.everyHalf, load(Self.everyHalf, INT4Q_TYPE_BF16)) {
            all.expectEqual(float.bitPattern, BFloat16Bits.float(half).bitPattern, hex(half))
        }
        all.assertAllHeld(atLeast: 65536)
    }

    func testFloatsStoreAsHalvesAsTheScalarDoes() {
        var all = Comparisons()
        for (float, half) in zip(Self.floats, store(Self.floats, INT4Q_TYPE_F16)) {
            all.expectEqual(half, Float16Bits.bits(float), show(float))
        }
        all.assertAllHeld(atLeast: 200_000)
    }

    func testFloatsStoreAsBFloatsAsTheScalarDoes() {
        var all = Comparisons()
        for (float, half) in zip(Self.floats, store(Self.floats, INT4Q_TYPE_BF16)) {
            all.expectEqual(half, BFloat16Bits.bits(float), show(float))
        }
        all.assertAllHeld(atLeast: 200_000)
    }

    func testBinary32LoadsAndStoresUnchanged() {
        var loaded = [Float](repeating: 0, count: Self.floats.count), stored = loaded
        kernels.load(Self.floats, Int64(INT4Q_TYPE_F32), Int64(Self.floats.count), &loaded)
        kernels.store(Self.floats, Int64(Self.floats.count), Int64(INT4Q_TYPE_F32), &stored)
        var all = Comparisons()
        for index in Self.floats.indices {
            all.expectEqual(loaded[index].bitPattern, Self.floats[index].bitPattern, "load \(index)")
            all.expectEqual(stored[index].bitPattern, Self.floats[index].bitPattern, "store \(index)")
        }
        all.assertAllHeld(atLeast: 400_000)
    }

    func testLoadFillsCountFloatsAndNoMore() {
        var all = Comparisons()
        let canary: UInt32 = 0xdead_beef
        for type in [INT4Q_TYPE_F32, INT4Q_TYPE_F16, INT4Q_TYPE_BF16] {
            let one: [UInt8] = type == INT4Q_TYPE_F32 ? [0, 0, 0x80, 0x3f] : (type == INT4Q_TYPE_F16 ? [0, 0x3c] : [0x80, 0x3f])
            let source = [UInt8]((0..<67).map { _ in one }.joined())
            for count in 0...67 {
                var floats = [Float](repeating: Float(bitPattern: canary), count: 100)
                kernels.load(source, Int64(type), Int64(count), &floats)
                for index in floats.indices {
                    let expected = index < count ? Float(1).bitPattern : canary
                    all.expectEqual(floats[index].bitPattern, expected, "type \(type), count \(count), element \(index)")
                }
            }
        }
        all.assertAllHeld(atLeast: 3 * 68 * 100)
    }

    func testStoreFillsCountElementsAndNoMore() {
        var all = Comparisons()
        let ones = [Float](repeating: 1, count: 67)
        for type in [INT4Q_TYPE_F32, INT4Q_TYPE_F16, INT4Q_TYPE_BF16] {
            let one: [UInt8] = type == INT4Q_TYPE_F32 ? [0, 0, 0x80, 0x3f] : (type == INT4Q_TYPE_F16 ? [0, 0x3c] : [0x80, 0x3f])
            for count in 0...67 {
                var bytes = [UInt8](repeating: 0xa5, count: 400)
                kernels.store(ones, Int64(count), Int64(type), &bytes)
                for index in bytes.indices {
                    let expected = index < count * one.count ? one[index % one.count] : 0xa5
                    all.expectEqual(bytes[index], expected, "type \(type), count \(count), byte \(index)")
                }
            }
        }
        all.assertAllHeld(atLeast: 3 * 68 * 400)
    }

    func testTheKernelsAreTheInstructionSetsOwn() { assertKernels(named: "portable") }
}

final class KernelConversionAVX2Tests: KernelConversionTests {
    override var instructionSet: InstructionSet { .avx2 }
    override func testTheKernelsAreTheInstructionSetsOwn() { assertKernels(named: "avx2") }
}

final class KernelConversionAVX512VNNITests: KernelConversionTests {
    override var instructionSet: InstructionSet { .avx512vnni }
    override func testTheKernelsAreTheInstructionSetsOwn() { assertKernels(named: "avx512") }
}
