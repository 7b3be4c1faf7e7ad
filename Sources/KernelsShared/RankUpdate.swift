// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Products of matrices that stand in panels of 16 columns: what Gram matrices, triangular factors and GPTQ's updates consist of.
// Left panels are read element by element, right panels as vectors; a register tile is `rows` of the left one's 16 columns by
// `panels` right ones. Lanes and rows of the tile are outputs, so that its shape changes no bit of the result.

enum RankUpdate<let rows: Int, let panels: Int> {
    typealias Sums = InlineArray<panels, InlineArray<rows, Floats>>

    static func run(_ u: i4q_rank_update) {
        if panels > 1 && Int(u.right_panels) == panels { return cover(u) }
        var part = u
        for _ in 0..<Int(u.right_panels) {
            RankUpdate<rows, 1>.cover(part)
            part.right += Int(u.right_stride)
            part.out += Int(u.out_stride)
        }
    }

    @inline(never)
    static func cover(_ u: i4q_rank_update) {
        let left = UnsafeRawPointer(u.left.unsafelyUnwrapped), right = UnsafeRawPointer(u.right.unsafelyUnwrapped)
        let out = u.out.unsafelyUnwrapped
        let rightStride = Int(u.right_stride) &* 4, outStride = Int(u.out_stride)
        for panel in 0..<Int(u.left_panels) {
            var row = 0
            while row < lanes {
                let sums = multiply(left + (panel &* Int(u.left_stride) &+ row) &* 4, right, rightStride, Int(u.depth))
                add(sums, out + (panel &* lanes &+ row) &* lanes, outStride)
                row &+= rows
            }
        }
    }

    @inline(__always)
    private static func multiply(_ left: UnsafeRawPointer, _ right: UnsafeRawPointer, _ rightStride: Int, _ depth: Int) -> Sums {
        var sums = Sums(repeating: .init(repeating: Floats(repeating: 0)))
        var left = left, right = right
        for _ in 0..<depth {
            var vectors = InlineArray<panels, Floats>(repeating: right.floats(0))
            for p in 0..<panels { vectors[p] = right.floats(p &* rightStride) }
            for r in 0..<rows {
                let element = Floats(repeating: left.float(r &* 4))
                for p in 0..<panels { sums[p][r] = compactMultiplyAdd(element, vectors[p], sums[p][r]) }
            }
            left += 64
            right += 64
        }
        return sums
    }

    @inline(__always)
    private static func add(_ sums: Sums, _ out: UnsafeMutablePointer<Double>, _ stride: Int) {
        for p in 0..<panels {
            for r in 0..<rows { i4q_add_lanes(out + (p &* stride &+ r &* lanes), sums[p][r]) }
        }
    }
}

/// Products with a matrix of binary64.
func multiplyWide(_ w: i4q_wide_product) {
    let matrix = UnsafeRawPointer(w.matrix.unsafelyUnwrapped), vectors = UnsafeRawPointer(w.vectors.unsafelyUnwrapped)
    let out = UnsafeMutableRawPointer(w.out.unsafelyUnwrapped)
    var column = 0
    while column < lanes {
        typealias Doubles = SIMD16<Double>
        var first = UnsafeRawPointer(out).loadUnaligned(fromByteOffset: column &* 128, as: Doubles.self)
        var second = UnsafeRawPointer(out).loadUnaligned(fromByteOffset: column &* 128 &+ 128, as: Doubles.self)
        for p in 0..<Int(w.depth) {
            let vector = i4q_widen_f32(vectors.floats(p &* 64))
            let element = (matrix + (p &* lanes &+ column) &* 8).assumingMemoryBound(to: Double.self)
            first += vector * Doubles(repeating: element[0])
            second += vector * Doubles(repeating: element[1])
        }
        out.storeBytes(of: first, toByteOffset: column &* 128, as: Doubles.self)
        out.storeBytes(of: second, toByteOffset: column &* 128 &+ 128, as: Doubles.self)
        column &+= 2
    }
}
