// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Where a product with a blob's parts has its floats, in its scratch memory:
///
///     [each prepare task's row of x, and of x' if that is another] [sparse: x]
///     [low rank: x B^T, a row for each row of x; the same of a second matrix]
///
/// For the sparse part 16 rows of x stand side by side, [m / 16][k][16], and those that are left behind them, [m mod 16][k].
extension MatmulPlan {
    func hasPart(_ part: UInt32) -> Bool { UInt32(truncatingIfNeeded: partFlags) & part != 0 }
    var turns: Bool { hasPart(PartsShape.permutation | PartsShape.rotation) }
    var hasPartSums: Bool { hasPart(PartsShape.sparse | PartsShape.lowRank) }
    /// Bytes of a row of floats.
    var floatRowBytes: Int { Int((k + 15) & ~15) * 4 }
    /// Floats from one row of x B^T to the next.
    var projectedStride: Int { Int((partRank + 15) & ~15) }

    @inline(never)
    mutating func makeRoomForParts() throws(Failure) {
        sparseOffset = try end(of: prepareCount, rows: floatRowBytes * (turns ? 2 : 1), from: partsOffset)
        projectedOffset = try end(of: hasPart(PartsShape.sparse) ? m : 0, rows: Int(k) * 4, from: sparseOffset)
        workersOffset = try end(of: m, rows: projectedStride * (isGated == 0 ? 4 : 8), from: projectedOffset)
    }

    private func end(of count: Int64, rows bytes: Int, from offset: Int64) throws(Failure) -> Int64 {
        let size = try CheckedSize(UInt64(count), "desc.m", argument: m).times(UInt64(bytes)).roundedUp(to: 64)
        return Int64(try size.plus(UInt64(offset)).value)
    }
}

extension Product {
    /// Of blobs that the plan was made for.
    mutating func takeParts(_ blob: Blob, _ up: Blob?) throws(Failure) {
        if plan.partFlags == 0 { return }
        let first = BlobParts(blob)
        parts = first
        guard let up else { return }
        let second = BlobParts(up)
        try second.requireTurn(of: first)
        upParts = second
    }

    // MARK: Prepare

    func prepare(_ tasks: Range<Int64>, _ parts: BlobParts, _ x: Matrix) {
        let rowBytes = plan.floatRowBytes, hadamard = parts.shape.hadamard
        for task in tasks {
            let given = scratch + Int(plan.partsOffset) + Int(task) * rowBytes * (plan.turns ? 2 : 1)
            let floats = given.assumingMemoryBound(to: Float.self)
            for row in Int(task * plan.rowsPerPrepare)..<Int(min((task + 1) * plan.rowsPerPrepare, plan.m)) {
                kernels.load.unsafelyUnwrapped(x.row(row), Int64(x.type.raw), plan.k, floats)
                for index in Int(plan.k)..<rowBytes / 4 { floats[index] = 0 }
                if plan.hasPart(PartsShape.lowRank) {
                    project(floats, row, parts)
                    if let upParts { project(floats, row + Int(plan.m), upParts) }
                }
                if plan.hasPart(PartsShape.sparse) { spread(floats, row) }
                if plan.turns {
                    let turned = (given + rowBytes).assumingMemoryBound(to: Float.self)
                    turn(floats, turned, parts, hadamard)
                    prepareRow(turned, Int64(INT4Q_TYPE_F32), row)
                } else {
                    prepareRow(x.row(row), plan.xType, row)
                }
            }
        }
    }

    private var projected: UnsafeMutablePointer<Float> { (scratch + Int(plan.projectedOffset)).assumingMemoryBound(to: Float.self) }
    private var sparseX: UnsafeMutablePointer<Float> { (scratch + Int(plan.sparseOffset)).assumingMemoryBound(to: Float.self) }

    private func project(_ floats: UnsafePointer<Float>, _ row: Int, _ parts: BlobParts) {
        var projection = i4q_projection(x: floats, matrix: parts.raw.low_rank_b, type: Int64(parts.shape.lowRankType), k: plan.k,
                                        rank: plan.partRank, out: projected + row * plan.projectedStride)
        kernels.project.unsafelyUnwrapped(&projection)
    }

    /// To where the sparse part's products look for the row.
    @_optimize(speed) @inline(never)
    private func spread(_ floats: UnsafePointer<Float>, _ row: Int) {
        let k = Int(plan.k)
        if row >= Int(plan.m) & ~15 {
            (sparseX + row * k).update(from: floats, count: k)
            return
        }
        var target = sparseX + (row & ~15) * k + row & 15
        for index in 0..<k {
            target.pointee = floats[index]
            target += 16
        }
    }

    /// x' = rotate(permute(x)).
    @_optimize(speed) @inline(never)
    private func turn(_ floats: UnsafePointer<Float>, _ turned: UnsafeMutablePointer<Float>, _ parts: BlobParts,
                      _ hadamard: Hadamard?) {
        let k = Int(plan.k), last = UInt32(truncatingIfNeeded: k &- 1)
        if let permutation = parts.raw.permutation {
            for index in 0..<k { turned[index] = floats[Int(min(permutation[index], last))] }
        } else {
            turned.update(from: floats, count: k)
        }
        hadamard?.transform(turned, count: k, inverse: false)
    }

    // MARK: Tiles

    /// Adds the sparse and the low-rank part of a matrix, of a gated product's second one with `isUp`, to a tile's totals.
    func addParts(_ parts: BlobParts, _ tile: inout i4q_tile, isUp: Bool = false) {
        if !plan.hasPartSums { return }
        let raw = parts.raw, projected = self.projected + (isUp ? Int(plan.m) * plan.projectedStride : 0)
        var operand = i4q_parts_product(
            row_offsets: raw.sparse_row_offsets, columns: raw.sparse_columns, values: raw.sparse_values,
            sparse_count: raw.sparse_count, m: plan.m, n: plan.n, k: plan.k, x: sparseX, matrix: raw.low_rank_a,
            type: Int64(raw.low_rank_type), rank: plan.partRank, projected: projected, projected_stride: Int64(plan.projectedStride))
        kernels.add_parts.unsafelyUnwrapped(&operand, &tile)
    }
}

extension BlobParts {
    /// Whether x' is the same for two blobs of one shape and set of parts.
    @_optimize(speed) @inline(never)
    fileprivate func requireTurn(of other: BlobParts) throws(Failure) {
        let mismatch = { (name: Text, value: Int64) in
            Failure(INT4Q_ERROR_MISMATCH, name, .integer(value), expected: "what args.blob has")
        }
        if shape.rotationOrder != other.shape.rotationOrder { throw mismatch("args.up_blob (rotation_order)", shape.rotationOrder) }
        if shape.rotationSeed != other.shape.rotationSeed {
            throw mismatch("args.up_blob (rotation_seed)", Int64(bitPattern: shape.rotationSeed))
        }
        guard let own = raw.permutation, let others = other.raw.permutation, own != others else { return }
        var difference: UInt32 = 0
        for index in 0..<Int(k) { difference |= own[index] ^ others[index] }
        if difference != 0 {
            throw Failure(INT4Q_ERROR_MISMATCH, "args.up_blob (permutation)", .text("another one"), expected: "what args.blob has")
        }
    }
}
