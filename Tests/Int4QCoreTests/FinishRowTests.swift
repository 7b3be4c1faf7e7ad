// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims
import Foundation
import XCTest

@testable import Int4QCore

/// The kernel tables' finish_row: each activation against binary64, every combination of steps against the steps of
/// docs/numerics.md, and the same bits from every table.
final class FinishRowTests: XCTestCase {
    private static let activations = [
        INT4Q_ACTIVATION_NONE, INT4Q_ACTIVATION_RELU, INT4Q_ACTIVATION_GELU_ERF, INT4Q_ACTIVATION_GELU_TANH, INT4Q_ACTIVATION_SILU,
    ]

    // MARK: Activations

    private func exact(_ activation: Int, _ x: Double) -> Double {
        switch activation {
        case INT4Q_ACTIVATION_RELU: max(x, 0)
        case INT4Q_ACTIVATION_GELU_ERF: 0.5 * x * erfc(-x / 2.squareRoot())
        case INT4Q_ACTIVATION_GELU_TANH: x / (1 + exp(-2 * (2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
        case INT4Q_ACTIVATION_SILU: x / (1 + exp(-x))
        default: x
        }
    }

    /// Every bfloat16, and where activations bend.
    private static let curve: [Float] = {
        var random = SplitMix64(state: 31)
        let grid = (-200_000...200_000).map { Float($0) * 1e-4 }
        return (UInt16.min...UInt16.max).map(BFloat16Bits.float) + grid + (0..<50_000).map { _ in random.anyFloat() }
    }()

    func testActivationsAreWithinTheirBoundOfBinary64() {
        for activation in Self.activations {
            var all = Comparisons()
            let results = apply(activation, Self.curve, .portable)
            for (x, y) in zip(Self.curve, results) where x.isFinite {
                let error = abs(Double(y) - exact(activation, Double(x)))
                all.expect(error <= 4e-7 * max(1, Double(x.magnitude)), "activation \(activation) of \(show(x)) is \(show(y))")
            }
            all.assertAllHeld(atLeast: 500_000)
        }
    }

    func testActivationsHaveTheSameBitsEverywhere() {
        for activation in Self.activations {
            let expected = apply(activation, Self.curve, .portable)
            for set in machineSets {
                var all = Comparisons()
                for (index, y) in apply(activation, Self.curve, set).enumerated() {
                    all.expectSame(y, expected[index], "\(set.name): activation \(activation) of \(show(Self.curve[index]))")
                }
                all.assertAllHeld(atLeast: 500_000)
            }
        }
    }

    func testNaNsStayNaNsAndInfinitiesAreLimits() {
        let notFinite: [Float] = [.nan, -.nan, .signalingNaN, Float(bitPattern: 0xff80_0001), .infinity, -.infinity]
        for set in machineSets {
            for activation in Self.activations {
                let y = apply(activation, notFinite, set)
                let name = "\(set.name), activation \(activation)"
                XCTAssertTrue(y[0..<4].allSatisfy(\.isNaN), name)
                XCTAssertEqual(y[4], .infinity, name)
                if activation == INT4Q_ACTIVATION_NONE { XCTAssertEqual(y[5], -.infinity, name) }
                if activation == INT4Q_ACTIVATION_RELU { XCTAssertEqual(y[5].bitPattern, 0, name) }
                XCTAssertNotEqual(y[5], .infinity, name)
            }
        }
    }

    func testZeros() {
        for set in machineSets {
            for activation in Self.activations {
                let y = apply(activation, [0, -0.0], set), name = "\(set.name), activation \(activation)"
                XCTAssertEqual(y, [0, 0], name)
                // ReLU's zero has no sign; x times something positive keeps x's.
                XCTAssertEqual(y[1].sign, activation == INT4Q_ACTIVATION_RELU ? .plus : .minus, name)
            }
        }
    }

    private func apply(_ activation: Int, _ values: [Float], _ set: InstructionSet) -> [Float] {
        var epilogue = i4q_epilogue()
        epilogue.activation = Int64(activation)
        let totals = values + [Float](repeating: 0, count: 16)
        var results = [Float](repeating: 0, count: values.count)
        set.kernels.finish_row(&epilogue, totals, Int64(values.count), Int64(INT4Q_TYPE_F32), &results)
        return results
    }

    // MARK: All steps together

    func testEachCombinationOfStepsForEachCount() {
        var random = SplitMix64(state: 32)
        let combinations = Steps.all
        for set in machineSets {
            var all = Comparisons()
            for count in 1...40 {
                // Every combination comes with five counts.
                for index in combinations.indices where (index + count) % 8 == 0 {
                    Row(combinations[index], count, &random).check(set, &all) { self.apply($0, $1, .portable) }
                }
            }
            all.assertAllHeld(atLeast: 40 * combinations.count / 8 * 20)
        }
    }

    /// Infinity times zero and infinity minus infinity are NaN, whatever comes after.
    func testNoStepLooksAway() {
        for set in machineSets {
            for activation in Self.activations {
                XCTAssertTrue(gated(set, activation, .infinity, up: 0, residual: 0).isNaN)
                XCTAssertTrue(gated(set, activation, .infinity, up: 1, residual: -.infinity).isNaN)
                XCTAssertTrue(gated(set, activation, 1, up: .nan, residual: 1).isNaN)
                XCTAssertTrue(gated(set, activation, 0, up: 0, residual: .nan).isNaN)
                XCTAssertEqual(gated(set, activation, 1, up: .infinity, residual: 3), .infinity)
            }
        }
    }

    private func gated(_ set: InstructionSet, _ activation: Int, _ total: Float, up: Float, residual: Float) -> Float {
        let totals = [Float](repeating: total, count: 16), ups = [Float](repeating: up, count: 16)
        var residual = residual, result: Float = 0
        ups.withUnsafeBufferPointer { ups in
            withUnsafePointer(to: &residual) { residual in
                var epilogue = i4q_epilogue()
                epilogue.activation = Int64(activation)
                epilogue.up = ups.baseAddress
                (epilogue.residual, epilogue.residual_type) = (UnsafeRawPointer(residual), Int64(INT4Q_TYPE_F32))
                set.kernels.finish_row(&epilogue, totals, 1, Int64(INT4Q_TYPE_F32), &result)
            }
        }
        return result
    }
}

/// Which steps a row has; types are 0 where there is none.
private struct Steps {
    var activation: Int
    var biasType: Int
    var isGated: Bool
    var hasUpBias: Bool
    var residualType: Int
    var type: Int

    static let all: [Steps] = {
        var all = [Steps]()
        for activation in INT4Q_ACTIVATION_NONE...INT4Q_ACTIVATION_SILU {
            for biasType in [0] + elementTypes {
                for (isGated, hasUpBias) in [(false, false), (true, false), (true, true)] where biasType != 0 || !hasUpBias {
                    for residualType in [0] + elementTypes {
                        for type in elementTypes {
                            all.append(Steps(activation: activation, biasType: biasType, isGated: isGated, hasUpBias: hasUpBias,
                                             residualType: residualType, type: type))
                        }
                    }
                }
            }
        }
        return all
    }()
}

/// Random operands of one row, and what must become of them.
private struct Row {
    private static let canary: UInt8 = 0xa5

    let steps: Steps
    let count: Int
    let totals: [Float], up: [Float]
    let bias: AlignedMemory, upBias: AlignedMemory, residual: AlignedMemory

    init(_ steps: Steps, _ count: Int, _ random: inout SplitMix64) {
        func floats(_ count: Int) -> [Float] { (0..<count).map { _ in random.float(exponents: -6...3) } }
        self.steps = steps
        self.count = count
        totals = floats((count + 15) & ~15)
        up = floats((count + 15) & ~15)
        bias = elements(floats(count), steps.biasType)
        upBias = elements(floats(count), steps.biasType)
        residual = elements(floats(count), steps.residualType)
    }

    func check(_ set: InstructionSet, _ all: inout Comparisons, _ apply: (Int, [Float]) -> [Float]) {
        let size = elementSize(steps.type), wanted = elements(expected(apply), steps.type)
        let destination = AlignedMemory(256)
        // Not aligned to more than an element.
        let start = size
        destination.base.initializeMemory(as: UInt8.self, repeating: Self.canary, count: 256)
        run(set.kernels, into: destination.base + start)
        for index in 0..<256 {
            let isOutput = index >= start && index < start + count * size
            all.expectEqual(destination.bytes[index], isOutput ? wanted.bytes[index - start] : Self.canary,
                            "\(set.name): \(steps), count \(count), byte \(index - start)")
        }
    }

    private func run(_ kernels: i4q_kernels, into destination: UnsafeMutableRawPointer) {
        up.withUnsafeBufferPointer { up in
            var epilogue = i4q_epilogue(
                activation: Int64(steps.activation), bias: steps.biasType == 0 ? nil : UnsafeRawPointer(bias.base),
                up_bias: steps.hasUpBias ? UnsafeRawPointer(upBias.base) : nil, bias_type: Int64(steps.biasType),
                up: steps.isGated ? up.baseAddress : nil, residual: steps.residualType == 0 ? nil : UnsafeRawPointer(residual.base),
                residual_type: Int64(steps.residualType))
            kernels.finish_row(&epilogue, totals, Int64(count), Int64(steps.type), destination)
        }
    }

    private func expected(_ apply: (Int, [Float]) -> [Float]) -> [Float] {
        let biased = (0..<count).map { steps.biasType == 0 ? totals[$0] : totals[$0] + element(bias, steps.biasType, $0) }
        var values = apply(steps.activation, biased)
        for index in 0..<count {
            if steps.isGated { values[index] *= steps.hasUpBias ? up[index] + element(upBias, steps.biasType, index) : up[index] }
            if steps.residualType != 0 { values[index] += element(residual, steps.residualType, index) }
        }
        return values
    }
}
