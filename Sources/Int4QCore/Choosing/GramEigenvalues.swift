// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Where the parts of the scratch are: the matrix, rows `stride` apart; then four vectors of that length.
public struct EigenvalueScratch {
    let stride: Int
    public let bytes: UInt64

    @inline(never)
    public init(k: Int64) throws(Failure) {
        try requireAtLeast(k, 1, "k")
        let stride = try CheckedSize(UInt64(k), "k").roundedUp(to: 8)
        self.stride = Int(stride.value)
        bytes = try stride.plus(4).times(stride.value).times(8).value
    }
}

/// Eigenvalues of a symmetric matrix. Householder's reflections make it tridiagonal, from the last row on: with u what reflects a
/// row onto the element beside the diagonal, h = u u^T / 2, p = A u / h and q = p - u (u p) / (2 h), what is left becomes
/// A - q u^T - u q^T. That is done when the next reflection's A u is computed, so that each row is read once for both.
public struct GramEigenvalues {
    private typealias Vector = SIMD4<Double>

    private let k: Int
    private let stride: Int
    private let matrix: UnsafeMutablePointer<Double>
    /// The last reflection's u and q, and the present one's u and A u, in turns; zero beyond their length.
    private var oldU: UnsafeMutablePointer<Double>
    private let q: UnsafeMutablePointer<Double>
    private var u: UnsafeMutablePointer<Double>
    private let besides: UnsafeMutablePointer<Double>
    private let diagonal: UnsafeMutablePointer<Double>
    /// What the matrix was divided by: a power of two.
    private var unit = 1.0
    private var length = 0
    private var isPending = false
    private static var taskRows: Int { 32 }

    @inline(never)
    public init(_ gram: Gram, _ scratch: EigenvalueScratch, _ memory: UnsafeMutableRawPointer,
                _ eigenvalues: UnsafeMutablePointer<Double>) throws(Failure) {
        try gram.validate("gram")
        k = Int(gram.layout.k)
        stride = scratch.stride
        matrix = memory.assumingMemoryBound(to: Double.self)
        oldU = matrix + k * stride
        q = oldU + stride
        u = q + stride
        besides = u + stride
        diagonal = eigenvalues
        matrix.update(repeating: 0, count: (k + 4) * stride)
        var largest = 0.0
        gram.write(rows: 0..<gram.layout.k, to: matrix, stride: Int64(stride))
        for row in 0..<k {
            for column in 0..<k { largest = max(largest, matrix[row * stride + column].magnitude) }
        }
        if largest == 0 { return }
        // Squares then neither overflow nor, where they count, vanish.
        unit = Double(sign: .plus, exponent: largest.exponent, significand: 1)
        for place in 0..<k * stride { matrix[place] /= unit }
    }

    @inline(never)
    public mutating func run(_ options: SearchOptions, _ parallel: ParallelFor,
                             _ nuclearNorm: UnsafeMutablePointer<Double>?) throws(Failure) {
        for row in Swift.stride(from: k - 1, through: 0, by: -1) {
            if row & 63 == 63 { try options.report(k - 1 - row, k, parallel) }
            try reduce(row, parallel)
        }
        try findEigenvalues()
        sort()
        let least = diagonal[k - 1] * Double(k) * 0x1p-52
        var norm = 0.0
        for index in 0..<k {
            if diagonal[index] > least { norm += diagonal[index].squareRoot() }
            diagonal[index] *= unit
        }
        nuclearNorm?.pointee = norm * unit.squareRoot()
        try options.report(k, k, parallel)
    }

    // MARK: Householder

    private func row(_ index: Int) -> UnsafeMutablePointer<Double> { matrix + index &* stride }

    /// Makes all but the last element beside the diagonal of a row zero.
    @inline(never)
    private mutating func reduce(_ index: Int, _ parallel: ParallelFor) throws(Failure) {
        let own = row(index)
        if isPending { update(own, index) }
        diagonal[index] = own[index]
        if index == 0 { return }
        for column in 0..<index { u[column] = own[column] }
        for column in index..<stride { u[column] = 0 }
        let edge = u[index - 1]
        u[index - 1] = 0
        let rest = dot(u, u)
        besides[index - 1] = edge
        if !(rest > 0x1p-1000) {
            if isPending {
                for other in 0..<index { update(row(other), other) }
            }
            isPending = false
            return
        }
        let square = rest + edge * edge, root = square.squareRoot(), target = edge > 0 ? -root : root
        besides[index - 1] = target
        u[index - 1] = edge - target
        let h = square - edge * target
        length = index
        // A u goes where the last u was, of which tasks read: so it is kept in the matrix, in the row that is done.
        try parallel.run(&self, count: (index - 1) / GramEigenvalues.taskRows + 1) { work, index, _ in
            work.unsafelyUnwrapped.assumingMemoryBound(to: GramEigenvalues.self).pointee.multiply(Int(index))
        }
        let product = own, share = 1 / h
        for column in 0..<index { product[column] *= share }
        for column in index..<stride { product[column] = 0 }
        let half = dot(u, product) * share / 2
        for column in 0..<stride { q[column] = product[column] - half * u[column] }
        swap(&u, &oldU)
        isPending = true
    }

    /// Of a task's rows: what the last reflection does to them, and their products with u.
    private func multiply(_ task: Int) {
        let begin = task &* GramEigenvalues.taskRows, target = row(length)
        for index in begin..<min(begin &+ GramEigenvalues.taskRows, length) {
            if isPending { update(row(index), index) }
            target[index] = dot(row(index), u)
        }
    }

    @_optimize(speed) @inline(never)
    private func update(_ target: UnsafeMutablePointer<Double>, _ index: Int) {
        let a = Vector(repeating: q[index]), b = Vector(repeating: oldU[index])
        let rows = UnsafeMutableRawPointer(target).assumingMemoryBound(to: Vector.self)
        let us = UnsafeMutableRawPointer(oldU).assumingMemoryBound(to: Vector.self)
        let qs = UnsafeMutableRawPointer(q).assumingMemoryBound(to: Vector.self)
        for place in 0..<(length &+ 3) / 4 { rows[place] -= a * us[place] + b * qs[place] }
    }

    /// The second is zero beyond its length.
    @_optimize(speed) @inline(never)
    private func dot(_ a: UnsafeMutablePointer<Double>, _ b: UnsafeMutablePointer<Double>) -> Double {
        let x = UnsafeMutableRawPointer(a).assumingMemoryBound(to: Vector.self)
        let y = UnsafeMutableRawPointer(b).assumingMemoryBound(to: Vector.self)
        var even = Vector(repeating: 0), odd = Vector(repeating: 0), place = 0
        let count = stride / 8 &* 2
        while place < count {
            even += x[place] * y[place]
            odd += x[place &+ 1] * y[place &+ 1]
            place &+= 2
        }
        let sums = even + odd
        return (sums[0] + sums[1]) + (sums[2] + sums[3])
    }

    // MARK: QL

    @inline(never)
    private func findEigenvalues() throws(Failure) {
        besides[k - 1] = 0
        for first in 0..<k {
            var last = blockEnd(first), turns = 0
            while last > first {
                if turns == 200 {
                    throw Failure(INT4Q_ERROR_UNSUPPORTED, "gram", .listed(index: Int64(first), Float(diagonal[first] * unit)),
                                  expected: "a matrix whose eigenvalues QL finds")
                }
                turn(first, last)
                turns += 1
                last = blockEnd(first)
            }
        }
    }

    /// The end of the rows that are connected to `first`.
    private func blockEnd(_ first: Int) -> Int {
        var last = first
        while last < k - 1 {
            let size = diagonal[last].magnitude + diagonal[last + 1].magnitude
            if besides[last].magnitude <= size * 0x1p-53 + 0x1p-200 { break }
            last += 1
        }
        return last
    }

    /// One step with an implicit shift, from the last row of a block up to the first.
    private func turn(_ first: Int, _ last: Int) {
        let d = diagonal, e = besides
        let half = (d[first + 1] - d[first]) / (2 * e[first]), root = (half * half + 1).squareRoot()
        var g = d[last] - d[first] + e[first] / (half < 0 ? half - root : half + root)
        var sine = 1.0, cosine = 1.0, shift = 0.0, row = last - 1
        while row >= first {
            let f = sine * e[row], b = cosine * e[row], r = (f * f + g * g).squareRoot()
            e[row + 1] = r
            if r == 0 {
                d[row + 1] -= shift
                e[last] = 0
                return
            }
            sine = f / r
            cosine = g / r
            g = d[row + 1] - shift
            let t = (d[row] - g) * sine + 2 * cosine * b
            shift = sine * t
            d[row + 1] = g + shift
            g = cosine * t - b
            row -= 1
        }
        d[first] -= shift
        e[first] = g
        e[last] = 0
    }

    private func sort() {
        for index in 1..<max(k, 1) {
            let value = diagonal[index]
            var place = index
            while place > 0 && diagonal[place - 1] > value {
                diagonal[place] = diagonal[place - 1]
                place -= 1
            }
            diagonal[place] = value
        }
    }
}
