// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// What a blob carries beside its codes: a sparse and a low-rank matrix, whose products are added to those of the codes. Each
// output's sum is a chain of its own, so rows and columns that are computed together change no bit of it.

/// Rows of x in one block of the sparse product's operand.
private var groupRows: Int { lanes }

/// x times the transpose of a matrix of few rows, for one row of x.
func projectRow(_ p: i4q_projection) {
    let k = Int(p.k), type = p.type, out = p.out.unsafelyUnwrapped, x = UnsafeRawPointer(p.x.unsafelyUnwrapped)
    let rowBytes = k &* elementBytes(type), last = Int(p.rank) &- 1
    var row = 0
    while row <= last {
        let second = min(row &+ 1, last), third = min(row &+ 2, last), fourth = min(row &+ 3, last)
        var dots = FourDots(x, p.matrix.unsafelyUnwrapped, row &* rowBytes, second &* rowBytes, third &* rowBytes,
                            fourth &* rowBytes)
        if prefersShortCode {
            dots.addSlowly(k, type)
        } else if type == ElementType.f32 {
            dots.add(k) { $0.floats($1 &* 64) }
        } else if type == ElementType.f16 {
            dots.add(k) { widenHalves(($0 + $1 &* 32).loadUnaligned(as: Halves.self)) }
        } else {
            dots.add(k) { widenBFloats(($0 + $1 &* 32).loadUnaligned(as: Halves.self)) }
        }
        if k % lanes > 0 && !prefersShortCode { dots.add(k &- k % lanes, type, count: k % lanes) }
        out[row] = fold(dots.s0)
        out[second] = fold(dots.s1) // beyond the last row the last one again
        out[third] = fold(dots.s2)
        out[fourth] = fold(dots.s3)
        row &+= 4
    }
}

@inline(never)
private func fold(_ sums: Floats) -> Float { sumLanes(sums) }

/// Of x with four rows of a matrix, which hide one another's latency.
private struct FourDots {
    let x, b0, b1, b2, b3: UnsafeRawPointer
    var s0 = Floats(repeating: 0), s1 = Floats(repeating: 0), s2 = Floats(repeating: 0), s3 = Floats(repeating: 0)

    @inline(__always)
    init(_ x: UnsafeRawPointer, _ matrix: UnsafeRawPointer, _ first: Int, _ second: Int, _ third: Int, _ fourth: Int) {
        self.x = x
        b0 = matrix + first
        b1 = matrix + second
        b2 = matrix + third
        b3 = matrix + fourth
    }

    /// Whole vectors. No call may stand in this loop: sums would leave their registers.
    @inline(__always)
    mutating func add(_ k: Int, _ load: (UnsafeRawPointer, Int) -> Floats) {
        for index in 0..<k / lanes {
            let values = x.floats(index &* 64)
            s0 = fusedMultiplyAdd(values, load(b0, index), s0)
            s1 = fusedMultiplyAdd(values, load(b1, index), s1)
            s2 = fusedMultiplyAdd(values, load(b2, index), s2)
            s3 = fusedMultiplyAdd(values, load(b3, index), s3)
        }
    }

    @inline(__always)
    mutating func add(_ index: Int, _ type: Int64, count: Int) {
        let values = x.floats(index &* 4)
        s0 = fusedMultiplyAdd(values, loadTail(b0, type, index, count: count), s0)
        s1 = fusedMultiplyAdd(values, loadTail(b1, type, index, count: count), s1)
        s2 = fusedMultiplyAdd(values, loadTail(b2, type, index, count: count), s2)
        s3 = fusedMultiplyAdd(values, loadTail(b3, type, index, count: count), s3)
    }

    /// All of a row.
    @inline(__always)
    mutating func addSlowly(_ k: Int, _ type: Int64) {
        var index = 0
        while index < k {
            add(index, type, count: min(k &- index, lanes))
            index &+= lanes
        }
    }
}

func addPartsToTile(_ p: i4q_parts_product, _ t: i4q_tile) {
    for block in 0..<Int(t.block_count) {
        let out = UnsafeMutableRawPointer(t.out.unsafelyUnwrapped + block &* lanes)
        let index = Int(t.block_begin) &+ block
        if p.row_offsets != nil { addSparse(p, t, index, out) }
        if p.matrix != nil { addLowRank(p, t, index, out) }
    }
}

@inline(__always)
private func add(_ values: Floats, _ out: UnsafeMutableRawPointer, _ byteOffset: Int) {
    out.storeBytes(of: UnsafeRawPointer(out).floats(byteOffset) + values, toByteOffset: byteOffset, as: Floats.self)
}

// MARK: Low rank

/// Four rows share what is read of the matrix, which is widened once for all of the tile's.
private func addLowRank(_ p: i4q_parts_product, _ t: i4q_tile, _ block: Int, _ out: UnsafeMutableRawPointer) {
    let rank = Int(p.rank), rowBytes = Int(t.out_stride) &* 4, last = Int(t.row_count) &- 1
    var matrix = p.matrix.unsafelyUnwrapped + block &* rank &* lanes &* elementBytes(p.type)
    if p.type != ElementType.f32 {
        let widened = t.panel.unsafelyUnwrapped.assumingMemoryBound(to: Float.self) // at most 16 KB
        loadRow(matrix, type: p.type, count: rank &* lanes, into: widened)
        matrix = UnsafeRawPointer(widened)
    }
    let stride = Int(p.projected_stride) &* 4
    let first = UnsafeRawPointer(p.projected.unsafelyUnwrapped) + Int(t.row_begin) &* stride
    var row = 0
    while row <= last {
        let x0 = first + row &* stride, x1 = first + min(row &+ 1, last) &* stride
        let x2 = first + min(row &+ 2, last) &* stride, x3 = first + min(row &+ 3, last) &* stride
        var s0 = Floats(repeating: 0), s1 = s0, s2 = s0, s3 = s0
        for index in 0..<rank {
            let column = matrix.floats(index &* 64)
            s0 = fusedMultiplyAdd(Floats(repeating: x0.float(index &* 4)), column, s0)
            s1 = fusedMultiplyAdd(Floats(repeating: x1.float(index &* 4)), column, s1)
            s2 = fusedMultiplyAdd(Floats(repeating: x2.float(index &* 4)), column, s2)
            s3 = fusedMultiplyAdd(Floats(repeating: x3.float(index &* 4)), column, s3)
        }
        add(s0, out, row &* rowBytes)
        if row &+ 1 <= last { add(s1, out, (row &+ 1) &* rowBytes) }
        if row &+ 2 <= last { add(s2, out, (row &+ 2) &* rowBytes) }
        if row &+ 3 <= last { add(s3, out, (row &+ 3) &* rowBytes) }
        row &+= 4
    }
}

// MARK: Sparse

private struct SparseRow {
    let begin, end: Int

    /// Kept within the elements that there are, and to as many as a row can have, whatever the offsets say.
    @inline(__always)
    init(_ p: i4q_parts_product, _ row: Int) {
        let offsets = p.row_offsets.unsafelyUnwrapped + row
        begin = Int(min(max(offsets[0], 0), p.sparse_count))
        end = Int(min(max(offsets[1], Int64(begin)), p.sparse_count, Int64(begin) &+ p.k))
    }
}

/// The element's column, or the last one.
@inline(__always)
private func column(_ p: i4q_parts_product, _ element: Int) -> Int {
    Int(min(UInt32(bitPattern: p.columns.unsafelyUnwrapped[element]), UInt32(truncatingIfNeeded: p.k &- 1)))
}

/// Whole groups of rows stand side by side in the operand, so that an element meets 16 of them at once; the rows after them one
/// behind the other.
private func addSparse(_ p: i4q_parts_product, _ t: i4q_tile, _ block: Int, _ out: UnsafeMutableRawPointer) {
    let whole = Int(p.m) & ~(groupRows &- 1), end = Int(t.row_begin &+ t.row_count)
    let columns = min(lanes, Int(p.n) &- block &* lanes)
    var row = Int(t.row_begin)
    while row < min(end, whole) {
        addSparseGroup(p, t, block &* lanes, columns, row, out + (row &- Int(t.row_begin)) &* Int(t.out_stride) &* 4)
        row &+= groupRows
    }
    while row < end {
        let target = out + (row &- Int(t.row_begin)) &* Int(t.out_stride) &* 4
        addSparseRows(p, t, block &* lanes, columns, row, min(end &- row, 4), target)
        row &+= 4
    }
}

private func addSparseGroup(_ p: i4q_parts_product, _ t: i4q_tile, _ first: Int, _ columns: Int, _ row: Int,
                            _ out: UnsafeMutableRawPointer) {
    let x = UnsafeRawPointer(p.x.unsafelyUnwrapped + row &* Int(p.k))
    let sums = t.panel.unsafelyUnwrapped, turned = sums + 1024
    for index in 0..<lanes {
        var sum = Floats(repeating: 0)
        if index < columns {
            let elements = SparseRow(p, first &+ index)
            for element in elements.begin..<elements.end {
                let value = Floats(repeating: p.values.unsafelyUnwrapped[element])
                sum = fusedMultiplyAdd(x.floats(column(p, element) &* 64), value, sum)
            }
        }
        sums.storeBytes(of: sum, toByteOffset: index &* 64, as: Floats.self)
    }
    transposeSquare(sums, 64, into: turned)
    for index in 0..<groupRows { add(UnsafeRawPointer(turned).floats(index &* 64), out, index &* Int(t.out_stride) &* 4) }
}

/// One to four rows.
private func addSparseRows(_ p: i4q_parts_product, _ t: i4q_tile, _ first: Int, _ columns: Int, _ row: Int, _ count: Int,
                           _ out: UnsafeMutableRawPointer) {
    let k = Int(p.k), last = count &- 1, stride = Int(t.out_stride)
    let x0 = p.x.unsafelyUnwrapped + row &* k
    let x1 = x0 + min(1, last) &* k, x2 = x0 + min(2, last) &* k, x3 = x0 + min(3, last) &* k
    let target = out.assumingMemoryBound(to: Float.self)
    for index in 0..<columns {
        let elements = SparseRow(p, first &+ index)
        var s0: Float = 0, s1: Float = 0, s2: Float = 0, s3: Float = 0
        for element in elements.begin..<elements.end {
            let place = column(p, element), value = p.values.unsafelyUnwrapped[element]
            s0 = s0.addingProduct(x0[place], value)
            s1 = s1.addingProduct(x1[place], value)
            s2 = s2.addingProduct(x2[place], value)
            s3 = s3.addingProduct(x3[place], value)
        }
        target[index] += s0
        if count > 1 { target[stride &+ index] += s1 }
        if count > 2 { target[2 &* stride &+ index] += s2 }
        if count > 3 { target[3 &* stride &+ index] += s3 }
    }
}
