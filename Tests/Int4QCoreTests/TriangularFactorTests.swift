// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims
import Foundation
import XCTest

@testable import Int4QCore

/// H = M M^T, M upper triangular, for Gram matrices of random numbers: against sums in binary64, and a Cholesky factor computed
/// there by the textbook's formulas.
final class TriangularFactorTests: XCTestCase {
    private var memories: [UnsafeMutableRawPointer] = []

    override func tearDown() {
        for memory in memories { memory.deallocate() }
        memories = []
    }

    private func memory(_ bytes: Int) -> UnsafeMutableRawPointer {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: max(bytes, 64), alignment: 64)
        memory.initializeMemory(as: UInt8.self, repeating: 0xff, count: max(bytes, 64))
        memories.append(memory)
        return memory
    }

    /// X^T X for `samples` rows of k numbers, some columns depending on others.
    private func gram(_ k: Int, samples: Int) throws -> (Gram, [[Double]]) {
        var generator = SplitMix64(state: UInt64(1000 * k + samples))
        var products = [[Double]](repeating: [Double](repeating: 0, count: k), count: k)
        for _ in 0..<samples {
            var row = (0..<k).map { _ in Double.random(in: -1...1, using: &generator) }
            for column in 1..<max(k, 1) { row[column] += 0.7 * row[column - 1] }
            for a in 0..<k { for b in 0..<k { products[a][b] += row[a] * row[b] } }
        }
        let layout = try GramLayout(k: Int64(k))
        let gram = Gram(layout, in: memory(Int(layout.totalBytes)))
        let flat = products.flatMap { $0 }
        try flat.withUnsafeBufferPointer { try gram.set($0.baseAddress!, stride: Int64(k), rows: Int64(samples)) }
        return (gram, products)
    }

    private func factor(_ gram: Gram, damping: Double, order: Int32 = Int32(INT4Q_GPTQ_ORDER_COLUMNS),
                        isa: InstructionSet = .portable, groupSize: Int = 32) throws -> TriangularFactor? {
        let size = gram.layout.padded
        let order_ = ChannelOrder(columns: memory(size * 4).assumingMemoryBound(to: Int32.self),
                                  positions: memory(size * 4).assumingMemoryBound(to: Int32.self))
        order_.fill(gram, order: order, groupSize: groupSize)
        var source = try DampedGram(gram, order_)
        source.damping = damping
        let elements = memory(gram.layout.triangle.count * 4).assumingMemoryBound(to: Float.self)
        var factor = TriangularFactor(source: source, elements: elements, kernels: isa.kernels)
        for row in 0..<factor.rows {
            factor.row = row
            if !factor.makeDiagonal() { return nil }
            for pair in 0..<factor.pairs { factor.makePair(pair) }
        }
        for row in 0..<(factor.panels + 1) / 2 { factor.turn(row, factor.elements) }
        return factor
    }

    private func element(_ factor: TriangularFactor, _ row: Int, _ column: Int) -> Double {
        row / 16 > column / 16 ? 0 : Double(factor.elements[TrianglePanels.place(row, column)])
    }

    func testProductIsTheMatrix() throws {
        var comparisons = Comparisons()
        for k in [1, 2, 15, 16, 17, 63, 64, 65, 100, 200, 270] {
            let (gram, products) = try gram(k, samples: k + 20)
            let factor = try XCTUnwrap(try factor(gram, damping: 0.01))
            let size = gram.layout.padded, source = factor.source
            for i in 0..<size {
                for j in i..<size {
                    var sum = 0.0
                    for p in j..<size { sum += element(factor, i, p) * element(factor, j, p) }
                    var expected = i == j ? 1.0 : 0
                    var limit = 1e-9
                    if j < k {
                        expected = products[i][j] * source.scale + (i == j ? source.dampedShare : 0)
                        limit = 1e-6 * (products[i][i] * products[j][j]).squareRoot() * source.scale
                    }
                    comparisons.expect(abs(sum - expected) <= limit, "k \(k), (\(i), \(j)): \(sum), expected \(expected)")
                }
                for j in 0..<i { comparisons.expect(element(factor, i, j) == 0, "below the diagonal at (\(i), \(j))") }
            }
        }
        comparisons.assertAllHeld(atLeast: 100_000)
    }

    /// M[j][j] from the last to the first: sqrt(H - what later columns explain).
    func testEqualsTheTextbook() throws {
        let k = 130
        let (gram, products) = try gram(k, samples: 300)
        let factor = try XCTUnwrap(try factor(gram, damping: 0.01))
        var expected = [[Double]](repeating: [Double](repeating: 0, count: k), count: k)
        for j in stride(from: k - 1, through: 0, by: -1) {
            for i in 0...j {
                var value = products[i][j] * factor.source.scale + (i == j ? factor.source.dampedShare : 0)
                for p in j + 1..<max(k, j + 1) { value -= expected[i][p] * expected[j][p] }
                if i == j { expected[j][j] = value }
                expected[i][j] = value
            }
            let root = expected[j][j].squareRoot()
            for i in 0...j { expected[i][j] /= i == j ? expected[j][j].squareRoot() : root }
            expected[j][j] = root
        }
        var comparisons = Comparisons()
        for j in 0..<k {
            for i in 0...j {
                comparisons.expect(abs(element(factor, i, j) - expected[i][j]) <= 2e-6 * expected[j][j] + 2e-6,
                                   "(\(i), \(j)): \(element(factor, i, j)), expected \(expected[i][j])")
            }
        }
        comparisons.assertAllHeld(atLeast: 8000)
    }

    func testInverseOfADiagonalSquare() throws {
        let (gram, _) = try gram(150, samples: 200)
        let factor = try XCTUnwrap(try factor(gram, damping: 0.01))
        var comparisons = Comparisons()
        for range in [0..<128, 128..<160, 16..<32] {
            let height = range.count
            let inverse = memory(height * height * 4).assumingMemoryBound(to: Float.self)
            factor.invert(range.lowerBound, range.upperBound, into: inverse)
            for i in 0..<height {
                for j in 0..<height {
                    var sum = 0.0
                    for p in 0..<height {
                        let other = Double(inverse[(j / 16 * height + p) * 16 + j % 16])
                        sum += element(factor, range.lowerBound + i, range.lowerBound + p) * other
                    }
                    comparisons.expect(abs(sum - (i == j ? 1 : 0)) < 1e-5, "\(range), (\(i), \(j)): \(sum)")
                }
            }
        }
        comparisons.assertAllHeld(atLeast: 16000)
    }

    func testSameBitsOnEveryInstructionSet() throws {
        let (gram, _) = try gram(300, samples: 310)
        let portable = try XCTUnwrap(try factor(gram, damping: 0.01))
        for isa in [InstructionSet.avx2, .avx512vnni] where isa.isDetected {
            let other = try XCTUnwrap(try factor(gram, damping: 0.01, isa: isa))
            XCTAssertEqual(memcmp(portable.elements, other.elements, gram.layout.triangle.count * 4), 0, "\(isa)")
        }
    }

    func testASingularMatrixNeedsDamping() throws {
        let (gram, _) = try gram(100, samples: 60)
        XCTAssertNil(try factor(gram, damping: 0))
        XCTAssertNotNil(try factor(gram, damping: 1e-3))
    }

    func testOrders() throws {
        let k = 70
        let (gram, products) = try gram(k, samples: 80)
        let descending = { (a: Int, b: Int) in products[a][a] > products[b][b] || (products[a][a] == products[b][b] && a < b) }
        let byActivations = try XCTUnwrap(try factor(gram, damping: 0.01, order: Int32(INT4Q_GPTQ_ORDER_ACTIVATIONS)))
        XCTAssertEqual((0..<k).map { Int(byActivations.source.order.columns[$0]) }, (0..<k).sorted(by: descending))
        let inGroups = Int32(INT4Q_GPTQ_ORDER_WITHIN_GROUPS)
        let within = try XCTUnwrap(try factor(gram, damping: 0.01, order: inGroups, groupSize: 16)).source.order
        var groups = (0..<4).map { group in (group * 16..<group * 16 + 16).sorted(by: descending) }
        groups.sort { descending($0[0], $1[0]) }
        XCTAssertEqual((0..<k).map { Int(within.columns[$0]) }, groups.flatMap { $0 } + (64..<70).sorted(by: descending))
        for position in 0..<k { XCTAssertEqual(Int(within.positions[Int(within.columns[position])]), position) }
    }
}
