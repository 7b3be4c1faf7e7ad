// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims
import XCTest

@testable import Int4QCore

/// d G d^T of 16 rows, of all columns and of groups of them, against plain sums; whole numbers, so that all is exact.
final class GramFormTests: XCTestCase {
    func testSumsOfPanels() throws {
        let k = 75
        var generator = SplitMix64(state: 5)
        var matrix = [Double](repeating: 0, count: k * k)
        for row in 0..<k {
            for column in row..<k {
                matrix[row * k + column] = Double(Int.random(in: -50...50, using: &generator))
                if row == column { matrix[row * k + column] = 100 }
                matrix[column * k + row] = matrix[row * k + column]
            }
        }
        let layout = try GramLayout(k: Int64(k))
        let bytes = Int(layout.totalBytes) + 80 * 64 + GramForm.productBytes
        let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
        defer { memory.deallocate() }
        let gram = Gram(layout, in: memory)
        try gram.set(matrix, stride: Int64(k), rows: 3)
        let errors = (memory + Int(layout.totalBytes)).assumingMemoryBound(to: Float.self)
        let form = GramForm(gram, errors: errors, products: errors + 80 * 16, i4q_kernels_portable())
        for panels in [0..<5, 0..<1, 2..<4, 4..<5] {
            let columns = panels.lowerBound * 16..<min(panels.upperBound * 16, k)
            for place in 0..<80 * 16 { errors[place] = 0 }
            for place in 0..<columns.count * 16 { errors[place] = Float(Int.random(in: -9...9, using: &generator)) }
            form.add(panels)
            for lane in 0..<16 {
                var expected = 0.0
                for (i, row) in columns.enumerated() {
                    for (j, column) in columns.enumerated() {
                        expected += matrix[row * k + column] * Double(errors[i * 16 + lane]) * Double(errors[j * 16 + lane])
                    }
                }
                XCTAssertEqual(form.sums[lane], expected, "\(panels), row \(lane)")
            }
        }
    }
}
