// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

// G becomes H G H^T, in place. H of order n is a Kronecker product H_a (x) H_b of about equal orders; each is applied to both sides
// of small squares of G: H_b to those of blocks of b neighbours, H_a to those of channels that are b apart. A square is gathered
// from the triangle, transformed, and put back, by a task that no other shares an element with. Binary64.

/// Where a worker's square is, and how the order is split.
public struct GramRotationScratch {
    /// Orders of H_a and H_b.
    let far: Int
    let near: Int
    /// Of a worker: a square, and 28 rows of it and two rows of factors.
    let workerBytes: Int
    public let bytes: UInt64

    @inline(never)
    public init(_ hadamard: Hadamard, workers: UInt32) throws(Failure) {
        var near = 1
        while near * 2 <= hadamard.power && near * near * 2 <= hadamard.order { near *= 2 }
        self.near = near
        far = hadamard.order / near
        let side = max(near, far)
        workerBytes = wholeLines((side + 30) * side * 8)
        bytes = try CheckedSize(UInt64(workerBytes), "worker_count", argument: Int64(workers)).times(UInt64(workers)).value
    }
}

public struct GramRotation {
    private let gram: Gram
    private let rotation: Rotation
    private let scratch: GramRotationScratch
    private let memory: UnsafeMutableRawPointer
    /// What is being applied: a matrix of this order, to channels `stride` apart, its base among them or not.
    private var order = 1
    private var stride = 1
    private var base = 1
    private var takesSigns = false

    @inline(never)
    public init(_ gram: Gram, _ rotation: Rotation, _ scratch: GramRotationScratch, _ memory: UnsafeMutableRawPointer) {
        self.gram = gram
        self.rotation = rotation
        self.scratch = scratch
        self.memory = memory
    }

    private var hadamard: Hadamard { rotation.hadamard }
    private var k: Int { Int(gram.layout.k) }
    private var sets: Int { k / order }

    @inline(never)
    public mutating func run(_ parallel: ParallelFor) throws(Failure) {
        rotateSums()
        for index in 0..<Int(gram.layout.padded) {
            gram.magnitudes[index] = 0
            gram.maxima[index] = 0
        }
        // Signs come before the first part, or after the last one.
        try apply(scratch.near, stride: 1, base: 1, takesSigns: !rotation.isInverse, parallel)
        try apply(scratch.far, stride: scratch.near, base: hadamard.base, takesSigns: rotation.isInverse, parallel)
    }

    private mutating func apply(_ order: Int, stride: Int, base: Int, takesSigns: Bool, _ parallel: ParallelFor) throws(Failure) {
        self.order = order
        self.stride = stride
        self.base = base
        self.takesSigns = takesSigns && hadamard.seed != 0
        if order == 1 && !self.takesSigns { return }
        try parallel.run(&self, count: sets) { work, index, worker in
            work.unsafelyUnwrapped.assumingMemoryBound(to: GramRotation.self).pointee.transform(set: Int(index), Int(worker))
        }
    }

    /// The first channel of a set of `order` channels that are `stride` apart.
    private func channel(_ set: Int) -> Int { set / stride &* stride &* order &+ set % stride }

    /// All squares of a set's rows and a later set's columns.
    @inline(never)
    private func transform(set: Int, _ worker: Int) {
        let square = (memory + worker &* scratch.workerBytes).assumingMemoryBound(to: Double.self)
        let spare = square + order &* order, left = spare + 28 &* order, right = left + order
        fillFactors(left, channel(set), 1 / Double(order))
        for other in set..<sets {
            fillFactors(right, channel(other), 1)
            gather(square, channel(set), channel(other), left, right)
            mix(square, width: order, spare)
            transpose(square)
            mix(square, width: order, spare)
            scatter(square, channel(set), channel(other), left, right)
        }
    }

    @inline(never)
    private func fillFactors(_ factors: UnsafeMutablePointer<Double>, _ channel: Int, _ scale: Double) {
        for index in 0..<order {
            let isMinus = takesSigns && hadamard.signs(from: channel &+ index &* stride) &>> 31 == 1
            factors[index] = isMinus ? -scale : scale
        }
    }

    @inline(never)
    private func gather(_ square: UnsafeMutablePointer<Double>, _ row: Int, _ column: Int, _ left: UnsafePointer<Double>,
                        _ right: UnsafePointer<Double>) {
        for i in 0..<order {
            for j in 0..<order {
                let place = TrianglePanels.symmetricPlace(row &+ i &* stride, column &+ j &* stride)
                let value = gram.products[place]
                square[i &* order &+ j] = rotation.isInverse ? value : value * left[i] * right[j]
            }
        }
    }

    /// The square is transposed by now.
    @inline(never)
    private func scatter(_ square: UnsafePointer<Double>, _ row: Int, _ column: Int, _ left: UnsafePointer<Double>,
                         _ right: UnsafePointer<Double>) {
        for i in 0..<order {
            for j in (row == column ? i : 0)..<order {
                let a = row &+ i &* stride, b = column &+ j &* stride
                var value = square[j &* order &+ i]
                if rotation.isInverse { value *= left[i] * right[j] }
                if a == b { value = max(value, 0) }
                gram.products[TrianglePanels.symmetricPlace(a, b)] = value
                // A square on the triangle's diagonal is whole.
                if a / panelWidth == b / panelWidth { gram.products[TrianglePanels.place(max(a, b), min(a, b))] = value }
            }
        }
    }

    private func transpose(_ square: UnsafeMutablePointer<Double>) {
        for i in 0..<order {
            for j in 0..<i {
                let moved = square[i &* order &+ j]
                square[i &* order &+ j] = square[j &* order &+ i]
                square[j &* order &+ i] = moved
            }
        }
    }

    /// Multiplies `order` rows of `width` by the matrix without its factor 1 / sqrt(order).
    @inline(never)
    private func mix(_ rows: UnsafeMutablePointer<Double>, width: Int, _ spare: UnsafeMutablePointer<Double>) {
        let power = order / base
        var stride = 1
        while stride < power {
            for row in 0..<order where row & stride == 0 {
                let a = rows + row &* width, b = a + stride &* width
                for column in 0..<width {
                    let x = a[column], y = b[column]
                    a[column] = x + y
                    b[column] = x - y
                }
            }
            stride &*= 2
        }
        if base == 1 { return }
        for first in 0..<power {
            for index in 0..<base { (spare + index &* width).update(from: rows + (first &+ index &* power) &* width, count: width) }
            for index in 0..<base {
                let row = rows + (first &+ index &* power) &* width
                var bits = hadamard.baseRow(index, transposed: rotation.isInverse)
                row.update(repeating: 0, count: width)
                for other in 0..<base {
                    let factor = bits & 1 == 0 ? 1.0 : -1.0, addend = spare + other &* width
                    for column in 0..<width { row[column] += factor * addend[column] }
                    bits = bits &>> 1
                }
            }
        }
    }

    /// The channels' sums are transformed as a row is.
    @inline(never)
    private mutating func rotateSums() {
        order = hadamard.order
        base = hadamard.base
        let spare = memory.assumingMemoryBound(to: Double.self)
        let scale = (1 / Double(order)).squareRoot()
        for channel in 0..<k where !rotation.isInverse { gram.sums[channel] *= factor(channel, scale) }
        for set in 0..<sets { mix(gram.sums + set &* order, width: 1, spare) }
        for channel in 0..<k where rotation.isInverse { gram.sums[channel] *= factor(channel, scale) }
    }

    private func factor(_ channel: Int, _ scale: Double) -> Double {
        hadamard.seed != 0 && hadamard.signs(from: channel) &>> 31 == 1 ? -scale : scale
    }
}

extension Gram {
    /// Makes a block, or itself, a copy of this matrix.
    @inline(never)
    public func copy(to target: UnsafeMutableRawPointer) -> Gram {
        if target == memory { return self }
        target.copyMemory(from: memory, byteCount: Int(layout.totalBytes))
        return Gram(self, at: target)
    }
}
