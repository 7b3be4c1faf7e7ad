// SPDX-License-Identifier: Apache-2.0

// Multiplication by orthonormal Hadamard matrices in n log n additions: what QuaRot (Ashkboos et al., "QuaRot: Outlier-Free 4-Bit
// Inference in Rotated LLMs", 2024) rotates weights and activations with.
//
// H = H_base (x) H_power (Kronecker): the base, of order 12, 20 or 28, acts on elements `power` apart, the Walsh-Hadamard matrix of
// order `power` on runs of `power` neighbours. Operations are additions of binary32 in one order and a multiplication by
// 1 / sqrt(n): the same bits on every processor.

/// An orthonormal matrix of order 2^a, 12 * 2^a, 20 * 2^a or 28 * 2^a, with a sign for each column of the row that it is applied
/// to.
public struct Hadamard {
    public let order: Int
    /// Of the signs; 0: there are none.
    public let seed: UInt64
    let base: Int
    /// order / base, a power of two.
    let power: Int
    /// 1 / sqrt(order)
    let scale: Float
    /// The base: bit j of row i is set where element (i, j) is -1.
    private var rows = InlineArray<28, UInt32>(repeating: 0)

    @inline(never)
    public init(order: Int64, seed: UInt64, _ name: Text = "order") throws(Failure) {
        try Hadamard.requireOrder(order, name)
        base = Hadamard.base(of: Int(order))
        self.order = Int(order)
        self.seed = seed
        power = self.order / base
        scale = Float((1 / Double(order)).squareRoot())
        if base > 1 { makeBase() }
    }

    public static var largestOrder: Int64 { 1 << 24 }

    @inline(never)
    static func requireOrder(_ order: Int64, _ name: Text) throws(Failure) {
        if order < 1 || order > largestOrder || base(of: Int(order)) == 0 {
            throw .invalid(name, order, expected: "2^a, 12 * 2^a, 20 * 2^a or 28 * 2^a, at most", bound: UInt64(largestOrder))
        }
    }

    /// 1, 12, 20, 28.
    private static func base(_ index: Int) -> Int { index == 0 ? 1 : 8 &* index &+ 4 }

    /// 0 if there is none.
    private static func base(of order: Int) -> Int {
        for index in 0..<4 where order % base(index) == 0 {
            let power = order / base(index)
            if power & (power &- 1) == 0 { return base(index) }
        }
        return 0
    }

    /// The largest order that divides k.
    @inline(never)
    public static func largestOrder(dividing k: Int64) -> Int64 {
        var best: Int64 = 1
        for index in 0..<4 where k % Int64(base(index)) == 0 {
            var order = Int64(base(index))
            while order <= largestOrder / 2 && k % (2 * order) == 0 { order *= 2 }
            best = max(best, order)
        }
        return best
    }

    /// Paley's constructions, from the quadratic residues modulo a prime q; chi(d) is 1 for residues, -1 for others, 0 for 0.
    /// I, q = 11 and 19: I + S of order q + 1, S having ones in its first row, -1 in its first column, and chi(i - j).
    /// II, q = 13: the symmetric matrix C with ones in its first row and column, and chi(i - j), of order 14; each +-1 becomes
    /// +-(1 1, 1 -1), each 0 on the diagonal (1 -1, -1 -1).
    private mutating func makeBase() {
        let isDoubled = base == 28
        let prime = isDoubled ? 13 : base &- 1
        var residues: UInt32 = 0
        for x in 1..<prime { residues |= 1 << UInt32(x &* x % prime) }
        for i in 0..<base {
            for j in 0..<base {
                let row = isDoubled ? i / 2 : i, column = isDoubled ? j / 2 : j
                let isDiagonal = row == column
                var isMinus = false
                if row > 0 && column > 0 && !isDiagonal {
                    isMinus = residues &>> UInt32((row &- column &+ prime) % prime) & 1 == 0
                } else if row > 0 && !isDiagonal {
                    isMinus = !isDoubled
                }
                if isDoubled {
                    let isLast = i & j & 1 == 1
                    isMinus = isDiagonal ? i & 1 == 1 || j & 1 == 1 : isMinus != isLast
                }
                if isMinus { rows[i] |= 1 << UInt32(j) }
            }
        }
    }

    /// A row of the base, or of its transpose. The first construction is I and a skew matrix, the second is symmetric.
    @inline(__always)
    func baseRow(_ row: Int, transposed: Bool) -> UInt32 {
        let bits = rows[row]
        return transposed && base != 28 ? ~bits & (1 << UInt32(base) &- 1) & ~(1 << UInt32(row)) : bits
    }

    /// Signs of up to 32 columns of a row from this one on, as bits from the highest one down: 1 for -1. Valid up to the next
    /// multiple of 64.
    @inline(__always)
    func signs(from column: Int) -> UInt32 {
        if seed == 0 { return 0 }
        // SplitMix64 can begin anywhere.
        var numbers = RandomNumbers(seed: seed &+ UInt64(truncatingIfNeeded: column / 64) &* 0x9e37_79b9_7f4a_7c15)
        return UInt32(truncatingIfNeeded: (numbers.next() &<< UInt64(column & 63)) &>> 32)
    }

    // MARK: Rows of floats

    /// Each block of `order` elements x of a row becomes H (s * x), or with `inverse` s * (H^T x), where it stands; s are the signs
    /// of the row's columns. `count` is a multiple of the order, and so is `firstColumn`, the column of the first element. Floats
    /// need no alignment beyond their own. NaN and infinity spread over their block.
    @_optimize(speed) @inline(never)
    public func transform(_ row: UnsafeMutablePointer<Float>, count: Int, firstColumn: Int = 0, inverse: Bool) {
        if !inverse { scale(row, count, firstColumn) }
        if power >= 16 {
            var run = 0
            while run < count {
                Hadamard.transformRun(UnsafeMutableRawPointer(row + run), power)
                run &+= power
            }
        } else {
            Hadamard.transformShortRuns(row, count, power)
        }
        if base > 1 { multiplyByBase(row, count, transposed: inverse) }
        if inverse { scale(row, count, firstColumn) }
    }

    /// Multiplies by 1 / sqrt(order) and the signs.
    @_optimize(speed) @inline(never)
    private func scale(_ row: UnsafeMutablePointer<Float>, _ count: Int, _ firstColumn: Int) {
        if order == 1 && seed == 0 { return }
        let magnitude = SIMD4<UInt32>(repeating: scale.bitPattern), signBit = SIMD4<UInt32>(repeating: 0x8000_0000)
        var column = 0
        while column < count {
            let place = firstColumn &+ column
            let length = min(count &- column, min(32, 64 &- place & 63))
            var bits = signs(from: place)
            let floats = UnsafeMutableRawPointer(row + column)
            var index = 0
            // Each lane's own bit is the highest.
            var lanes = SIMD4<UInt32>(bits, bits &<< 1, bits &<< 2, bits &<< 3)
            while index &+ 4 <= length {
                store(load(floats, index) * unsafeBitCast(magnitude | lanes & signBit, to: SIMD4<Float>.self), floats, index)
                lanes = lanes &<< SIMD4<UInt32>(repeating: 4)
                index &+= 4
            }
            bits = index < 32 ? bits &<< UInt32(index) : 0
            while index < length {
                row[column &+ index] *= bits &>> 31 == 0 ? scale : -scale
                bits = bits &<< 1
                index &+= 1
            }
            column &+= length
        }
    }
}

// MARK: Walsh-Hadamard matrices

private typealias Quad = SIMD4<Float>

@inline(__always)
private func load(_ floats: UnsafeMutableRawPointer, _ index: Int) -> Quad {
    (floats + index &* 4).loadUnaligned(as: Quad.self)
}

@inline(__always)
private func store(_ value: Quad, _ floats: UnsafeMutableRawPointer, _ index: Int) {
    (floats + index &* 4).storeBytes(of: value, as: Quad.self)
}

@inline(__always)
private func zipLow(_ a: Quad, _ b: Quad) -> Quad { Quad(a[0], b[0], a[1], b[1]) }
@inline(__always)
private func zipHigh(_ a: Quad, _ b: Quad) -> Quad { Quad(a[2], b[2], a[3], b[3]) }

/// Four sums of four: the levels of two strides.
@inline(__always)
private func cross(_ a: Quad, _ b: Quad, _ c: Quad, _ d: Quad) -> (Quad, Quad, Quad, Quad) {
    let s = a + b, t = a - b, u = c + d, v = c - d
    return (s + u, t + v, s - u, t - v)
}

@inline(__always)
private func transpose(_ a: Quad, _ b: Quad, _ c: Quad, _ d: Quad) -> (Quad, Quad, Quad, Quad) {
    let s = zipLow(a, c), t = zipLow(b, d), u = zipHigh(a, c), v = zipHigh(b, d)
    return (zipLow(s, t), zipHigh(s, t), zipLow(u, v), zipHigh(u, v))
}

extension Hadamard {
    /// What stays in a first-level cache.
    private static var chunk: Int { 4096 }

    /// A run of a power of two of at least 16 floats: levels of stride 1, 2, 4 ..., of which up to three share a pass.
    @_optimize(speed) @inline(never)
    private static func transformRun(_ floats: UnsafeMutableRawPointer, _ length: Int) {
        var begin = 0
        while begin < length {
            let part = floats + begin &* 4, size = min(chunk, length)
            var index = 0
            while index < size {
                transform16(part + index &* 4)
                index &+= 16
            }
            passes(part, size, from: 16)
            begin &+= size
        }
        passes(floats, length, from: chunk)
    }

    @inline(__always)
    private static func transform16(_ floats: UnsafeMutableRawPointer) {
        let columns = transpose(load(floats, 0), load(floats, 4), load(floats, 8), load(floats, 12))
        let inner = cross(columns.0, columns.1, columns.2, columns.3)
        let rows = transpose(inner.0, inner.1, inner.2, inner.3)
        let outer = cross(rows.0, rows.1, rows.2, rows.3)
        store(outer.0, floats, 0)
        store(outer.1, floats, 4)
        store(outer.2, floats, 8)
        store(outer.3, floats, 12)
    }

    /// The levels of strides `stride` ..< length.
    @_optimize(speed) @inline(never)
    private static func passes(_ floats: UnsafeMutableRawPointer, _ length: Int, from stride: Int) {
        var stride = stride
        while stride < length {
            let left = length / stride
            if left >= 8 && left != 16 {
                eachGroup(floats, length, stride, 8)
                stride &*= 8
            } else if left >= 4 {
                eachGroup(floats, length, stride, 4)
                stride &*= 4
            } else {
                eachGroup(floats, length, stride, 2)
                stride &*= 2
            }
        }
    }

    @inline(__always)
    private static func eachGroup(_ floats: UnsafeMutableRawPointer, _ length: Int, _ stride: Int, _ count: Int) {
        var group = 0
        while group < length {
            var index = group
            while index < group &+ stride {
                let place = floats + index &* 4
                if count == 8 { mix8(place, stride) } else if count == 4 { mix4(place, stride) } else { mix2(place, stride) }
                index &+= 4
            }
            group &+= stride &* count
        }
    }

    @inline(__always)
    private static func mix2(_ p: UnsafeMutableRawPointer, _ s: Int) {
        let a = load(p, 0), b = load(p, s)
        store(a + b, p, 0)
        store(a - b, p, s)
    }

    @inline(__always)
    private static func mix4(_ p: UnsafeMutableRawPointer, _ s: Int) {
        let sums = cross(load(p, 0), load(p, s), load(p, 2 &* s), load(p, 3 &* s))
        store(sums.0, p, 0)
        store(sums.1, p, s)
        store(sums.2, p, 2 &* s)
        store(sums.3, p, 3 &* s)
    }

    @inline(__always)
    private static func mix8(_ p: UnsafeMutableRawPointer, _ s: Int) {
        let a = cross(load(p, 0), load(p, s), load(p, 2 &* s), load(p, 3 &* s))
        let b = cross(load(p, 4 &* s), load(p, 5 &* s), load(p, 6 &* s), load(p, 7 &* s))
        store(a.0 + b.0, p, 0)
        store(a.1 + b.1, p, s)
        store(a.2 + b.2, p, 2 &* s)
        store(a.3 + b.3, p, 3 &* s)
        store(a.0 - b.0, p, 4 &* s)
        store(a.1 - b.1, p, 5 &* s)
        store(a.2 - b.2, p, 6 &* s)
        store(a.3 - b.3, p, 7 &* s)
    }

    /// Runs of 2, 4 or 8.
    @_optimize(speed) @inline(never)
    private static func transformShortRuns(_ floats: UnsafeMutablePointer<Float>, _ count: Int, _ length: Int) {
        var stride = 1
        while stride < length {
            var index = 0
            while index < count {
                let a = floats[index], b = floats[index &+ stride]
                floats[index] = a + b
                floats[index &+ stride] = a - b
                index &+= 1
                if index & stride != 0 { index &+= stride }
            }
            stride &*= 2
        }
    }
}

// MARK: The base

extension Hadamard {
    private typealias Strip = SIMD16<Float>

    /// Every set of `base` elements that are `power` apart, 16 sets side by side. Sums of four elements with all choices of signs
    /// are made once; each of the base's rows then adds base / 4 of them.
    @_optimize(speed) @inline(never)
    private func multiplyByBase(_ row: UnsafeMutablePointer<Float>, _ count: Int, transposed: Bool) {
        // Sums [base / 4][16][16 sets], then inputs or outputs [28][16].
        StackMemory<140>.use { memory in
            let sums = memory, strip = memory + 7168
            let sets = count / base
            var first = 0
            while first < sets {
                let lanes = min(16, sets &- first)
                let isDense = power >= 16 // then power is a multiple of 16, and so is `sets`
                if isDense { collectDense(row + place(first), strip) } else { move(row, strip, first, lanes, isStoring: false) }
                for quad in 0..<base / 4 { Hadamard.combine(strip + quad &* 256, sums + quad &* 1024) }
                for index in 0..<base {
                    var bits = Int(truncatingIfNeeded: baseRow(index, transposed: transposed))
                    var sum = (sums + (bits & 15) &* 64).load(as: Strip.self)
                    for quad in 1..<base / 4 {
                        bits = bits &>> 4
                        sum += (sums + (quad &* 1024 &+ (bits & 15) &* 64)).load(as: Strip.self)
                    }
                    if isDense {
                        UnsafeMutableRawPointer(row + (place(first) &+ index &* power)).storeBytes(of: sum, as: Strip.self)
                    } else {
                        (strip + index &* 64).storeBytes(of: sum, as: Strip.self)
                    }
                }
                if !isDense { move(row, strip, first, lanes, isStoring: true) }
                first &+= lanes
            }
        }
    }

    /// A set's first element.
    @inline(__always)
    private func place(_ set: Int) -> Int { set / power &* order &+ set % power }

    @inline(__always)
    private func collectDense(_ row: UnsafeMutablePointer<Float>, _ strip: UnsafeMutableRawPointer) {
        for index in 0..<base {
            let values = UnsafeRawPointer(row + index &* power).loadUnaligned(as: Strip.self)
            (strip + index &* 64).storeBytes(of: values, as: Strip.self)
        }
    }

    /// Between a row and a strip, element by element.
    @_optimize(speed) @inline(never)
    private func move(_ row: UnsafeMutablePointer<Float>, _ strip: UnsafeMutableRawPointer, _ first: Int, _ lanes: Int,
                      isStoring: Bool) {
        let strip = strip.assumingMemoryBound(to: Float.self)
        for lane in 0..<lanes {
            let floats = row + place(first &+ lane)
            for index in 0..<base {
                let place = index &* 16 &+ lane
                if isStoring { floats[index &* power] = strip[place] } else { strip[place] = floats[index &* power] }
            }
        }
    }

    /// Sums of four vectors; bit i of a sum's index is set where vector i is subtracted.
    @inline(__always)
    private static func combine(_ strip: UnsafeMutableRawPointer, _ sums: UnsafeMutableRawPointer) {
        let a = strip.load(as: Strip.self), b = (strip + 64).load(as: Strip.self)
        let c = (strip + 128).load(as: Strip.self), d = (strip + 192).load(as: Strip.self)
        let plus = c + d, minus = d - c
        write(a + b, plus, minus, sums)
        write(b - a, plus, minus, sums + 64)
        write(a - b, plus, minus, sums + 128)
        write(-(a + b), plus, minus, sums + 192)
    }

    @inline(__always)
    private static func write(_ low: Strip, _ plus: Strip, _ minus: Strip, _ sums: UnsafeMutableRawPointer) {
        sums.storeBytes(of: low + plus, as: Strip.self)
        (sums + 256).storeBytes(of: low + minus, as: Strip.self)
        (sums + 512).storeBytes(of: low - minus, as: Strip.self)
        (sums + 768).storeBytes(of: low - plus, as: Strip.self)
    }
}
