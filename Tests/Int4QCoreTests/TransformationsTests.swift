// SPDX-License-Identifier: Apache-2.0
import XCTest
@testable import Int4QCore

/// What the public header does not reach: blocks of a row for themselves, and the eigenvectors behind low-rank residuals.
final class TransformationsTests: XCTestCase {
    private func numbers(_ count: Int, seed: UInt64) -> [Float] {
        var random = RandomNumbers(seed: seed)
        return (0..<count).map { _ in Float(random.fraction() - 0.5) }
    }

    func testABlockForItselfIsTheSameAsInItsRow() throws {
        for order in [2, 8, 16, 12, 20, 28, 48, 112, 64] {
            for inverse in [false, true] {
                let hadamard = try Hadamard(order: Int64(order), seed: 11)
                var row = numbers(5 * order, seed: 3)
                var blocks = row
                row.withUnsafeMutableBufferPointer { hadamard.transform($0.baseAddress!, count: 5 * order, inverse: inverse) }
                for block in 0..<5 {
                    blocks.withUnsafeMutableBufferPointer {
                        hadamard.transform($0.baseAddress! + block * order, count: order, firstColumn: block * order, inverse: inverse)
                    }
                }
                XCTAssertEqual(row.map(\.bitPattern), blocks.map(\.bitPattern), "order \(order)")
            }
        }
    }

    func testFloatsNeedNoAlignment() throws {
        let hadamard = try Hadamard(order: 96, seed: 0)
        let values = numbers(96, seed: 5)
        var aligned = values, shifted = [0] + values
        aligned.withUnsafeMutableBufferPointer { hadamard.transform($0.baseAddress!, count: 96, inverse: false) }
        shifted.withUnsafeMutableBufferPointer { hadamard.transform($0.baseAddress! + 1, count: 96, inverse: false) }
        XCTAssertEqual(aligned, Array(shifted.dropFirst()))
        XCTAssertEqual(shifted[0], 0)
    }

    func testEigenvectorsOfASymmetricMatrix() {
        for size in [1, 2, 5, 16, 33] {
            let values = numbers(size * size, seed: UInt64(size)).map(Double.init)
            var matrix = [Double](repeating: 0, count: size * size)
            for i in 0..<size { for j in 0..<size { matrix[i * size + j] = values[i * size + j] + values[j * size + i] } }
            var rotated = matrix, vectors = matrix
            rotated.withUnsafeMutableBufferPointer { elements in
                vectors.withUnsafeMutableBufferPointer { target in
                    SymmetricMatrix(size: size, elements: elements.baseAddress!).diagonalize(target.baseAddress!)
                }
            }
            for i in 0..<size {
                let vector = vectors[i * size..<(i + 1) * size]
                XCTAssertEqual(vector.map { $0 * $0 }.reduce(0, +), 1, accuracy: 1e-12)
                for row in 0..<size {
                    let product = (0..<size).map { matrix[row * size + $0] * vector[vector.startIndex + $0] }.reduce(0, +)
                    XCTAssertEqual(product, rotated[i * size + i] * vector[vector.startIndex + row], accuracy: 1e-12 * Double(size))
                }
            }
        }
    }
}
