// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Block formats: 16 blocks at once, a block per lane, so that every sum runs over a block's values in their order, as in the
// programs whose results are matched to the bit. Nothing here may be fused or reordered. Lanes are worked on a slice at a
// time, as many as one register holds. Definitions: docs/quantizers.md.

/// Block formats, as `INT4Q_FORMAT_*` in the public header.
enum Format {
    static let q4_0: Int64 = 1
    static let q4_1: Int64 = 2
    static let q4_K: Int64 = 3
    static let iq4_NL: Int64 = 4
    static let mxfp4: Int64 = 5
    static let nvfp4: Int64 = 6
}

typealias Slice = i4q_slice
typealias SliceMask = i4q_slice_mask

/// Single numbers of each lane, a row of working memory each.
private enum Row: Int {
    case scale, low, meanSquare, largest, error, sumW, sumX, sumL, sumL2, sumXL, d, dmin, scales, mins
    case bestError, bestD, bestDmin, bestScales, bestMins
}

/// One slice of a batch in working memory: rows of 16 lanes for each value, its weight and its code or level.
private struct Batch {
    static var bytes: Int { 3 &* 2048 &+ 19 &* 64 }
    let memory: UnsafeMutableRawPointer
    let depth: Int

    @inline(__always) private func load(_ offset: Int) -> Slice { (memory + offset).load(as: Slice.self) }
    @inline(__always) func value(_ i: Int) -> Slice { load(i &* 64) }
    @inline(__always) func weight(_ i: Int) -> Slice { load(2048 &+ i &* 64) }
    @inline(__always) func level(_ i: Int) -> Slice { load(4096 &+ i &* 64) }
    @inline(__always) func set(value: Slice, _ i: Int) { memory.storeBytes(of: value, toByteOffset: i &* 64, as: Slice.self) }
    @inline(__always) func set(weight: Slice, _ i: Int) { memory.storeBytes(of: weight, toByteOffset: 2048 &+ i &* 64, as: Slice.self) }
    @inline(__always) func set(level: Slice, _ i: Int) { memory.storeBytes(of: level, toByteOffset: 4096 &+ i &* 64, as: Slice.self) }
    @inline(__always)
    subscript(_ row: Row) -> Slice {
        get { load(6144 &+ row.rawValue &* 64) }
        nonmutating set { memory.storeBytes(of: newValue, toByteOffset: 6144 &+ row.rawValue &* 64, as: Slice.self) }
    }

    /// One lane's numbers; of the whole batch's memory only.
    @inline(__always)
    func lanes(_ row: Row) -> UnsafeMutablePointer<Float> {
        (memory + (6144 &+ row.rawValue &* 64)).assumingMemoryBound(to: Float.self)
    }
}

@inline(__always) private func all(_ value: Float) -> Slice { Slice(repeating: value) }
@inline(__always) private var nothing: Slice { Slice(repeating: 0) }
@inline(__always) private func pick(_ a: Slice, above b: Slice, _ yes: Slice, _ no: Slice) -> Slice { i4q_pick(i4q_above(a, b), yes, no) }
@inline(__always) private func plus(_ a: Slice, _ b: Slice) -> Slice { i4q_plus(a, b) }
@inline(__always) private func minus(_ a: Slice, _ b: Slice) -> Slice { i4q_minus(a, b) }
@inline(__always) private func times(_ a: Slice, _ b: Slice) -> Slice { i4q_times(a, b) }
@inline(__always) private func over(_ a: Slice, _ b: Slice) -> Slice { i4q_over(a, b) }
/// a / b, or 0 where b is 0.
@inline(__always)
private func overOrZero(_ a: Slice, _ b: Slice) -> Slice { pick(i4q_abs(b), above: nothing, over(a, b), nothing) }

func quantizeBatch(_ b: i4q_block_batch) -> Int64 {
    let whole = Batch(memory: b.scratch.unsafelyUnwrapped, depth: b.format == Format.nvfp4 ? 16 : 32)
    load(b.values.unsafelyUnwrapped, b.source_type, b, whole, 0)
    if let importance = b.importance { load(importance, ElementType.f32, b, whole, 2048) }
    let bad = begin(b, whole)
    if bad != 0 { return bad }
    switch b.format {
    case Format.q4_0:
        if b.search != 0 || b.importance != nil { searchScales(b, whole, isTable: false) } else { plainSymmetric(b, whole) }
    case Format.q4_1:
        if b.search != 0 || b.importance != nil { searchOffsets(b, whole) } else { plainOffset(b, whole) }
    case Format.q4_K: return quantizeSuperBlocks(b, whole)
    case Format.iq4_NL: searchScales(b, whole, isTable: true)
    default:
        quantizeE2M1(b, whole)
        return 0
    }
    return store(b, whole)
}

/// Does something with each slice that has lanes.
@inline(__always)
private func forSlices(_ b: i4q_block_batch, _ whole: Batch, _ body: (Batch) -> Void) {
    var lane = 0
    while lane < Int(b.lane_count) {
        body(Batch(memory: whole.memory + lane &* 4, depth: whole.depth))
        lane &+= Slice.scalarCount
    }
}

// MARK: Loading

/// Lanes that are not there repeat the first.
@inline(never)
private func load(_ pointers: UnsafePointer<UnsafeRawPointer?>, _ type: Int64, _ b: i4q_block_batch, _ whole: Batch, _ offset: Int) {
    var lane = 0
    while lane < Int(b.lane_count) {
        let first = source(pointers, type, b, whole, lane), second = source(pointers, type, b, whole, lane &+ 1)
        let third = source(pointers, type, b, whole, lane &+ 2), fourth = source(pointers, type, b, whole, lane &+ 3)
        let target = (whole.memory + (offset &+ lane &* 4)).assumingMemoryBound(to: Float.self)
        var k = 0
        while k < whole.depth {
            i4q_transpose_4x4(first + k, second + k, third + k, fourth + k, target + k &* 16)
            k &+= 4
        }
        lane &+= 4
    }
    // What a slice reads beyond.
    while lane < (Int(b.lane_count) &+ Slice.scalarCount &- 1) / Slice.scalarCount &* Slice.scalarCount {
        for k in 0..<whole.depth {
            let row = (whole.memory + (offset &+ k &* 64)).assumingMemoryBound(to: Float.self)
            row[lane] = row[0]
        }
        lane &+= 1
    }
}

/// A lane's values as floats; other types are widened where levels will be.
@inline(__always)
private func source(_ pointers: UnsafePointer<UnsafeRawPointer?>, _ type: Int64, _ b: i4q_block_batch, _ whole: Batch,
                    _ lane: Int) -> UnsafePointer<Float> {
    let pointer = pointers[lane < Int(b.lane_count) ? lane : 0].unsafelyUnwrapped
    if type == ElementType.f32 { return pointer.assumingMemoryBound(to: Float.self) }
    let staging = (whole.memory + (4096 &+ (lane & 3) &* 128)).assumingMemoryBound(to: Float.self)
    loadRow(pointer, type: type, count: whole.depth, into: staging)
    return UnsafePointer(staging)
}

/// Divides by the global scale, finds the first values of largest magnitude (+0 if all are zeros of either sign) and the
/// weights that formats without a rule of their own have. Returns a bit for each lane that is not finite.
@inline(never)
private func begin(_ b: i4q_block_batch, _ whole: Batch) -> Int64 {
    forSlices(b, whole) { batch in
        var largest = nothing, signed = nothing, poison = nothing
        if b.format == Format.q4_1 || b.format == Format.q4_K {
            // Only whether all are finite is asked for.
            for i in 0..<batch.depth { poison = i4q_plus_product(poison, batch.value(i), nothing) }
        } else {
            for i in 0..<batch.depth {
                var value = batch.value(i)
                if b.global_scale != 1 {
                    value = over(value, all(b.global_scale))
                    batch.set(value: value, i)
                }
                let magnitude = i4q_abs(value)
                signed = pick(magnitude, above: largest, value, signed)
                largest = i4q_most(largest, magnitude)
                // 0, or NaN for infinity and NaN.
                poison = i4q_plus_product(poison, value, nothing)
            }
        }
        if b.importance == nil && b.search != 0 {
            for i in 0..<batch.depth { batch.set(weight: all(1), i) }
        }
        batch[.largest] = signed
        batch[.error] = poison
        if let squares = b.mean_squares { batch[.meanSquare] = (UnsafeRawPointer(squares) + (batch.memory - whole.memory)).loadUnaligned(as: Slice.self) }
    }
    return lanesNotFinite(b, whole, .error)
}

@inline(never)
private func lanesNotFinite(_ b: i4q_block_batch, _ whole: Batch, _ row: Row) -> Int64 {
    let numbers = whole.lanes(row)
    var mask: Int64 = 0
    for lane in 0..<Int(b.lane_count) where numbers[lane].bitPattern & 0x7f80_0000 == 0x7f80_0000 { mask |= 1 &<< Int64(lane) }
    return mask
}

// MARK: Storing

/// The bits of a number that i4q_half has rounded.
@inline(__always)
private func halfBits(_ v: Float) -> UInt16 {
    let sign = UInt16(truncatingIfNeeded: v.bitPattern &>> 16) & 0x8000
    let magnitude = v.bitPattern & 0x7fff_ffff
    if magnitude >= 0x3880_0000 { return sign | UInt16(truncatingIfNeeded: (magnitude &>> 13) &- 112 &<< 10) }
    return sign | UInt16(truncatingIfNeeded: Int32(Float(bitPattern: magnitude) * 0x1p24))
}

/// Eight (NVFP4: four) words for each lane, where the values were: four codes in the bytes of one.
@inline(never)
private func joinCodes(_ b: i4q_block_batch, _ whole: Batch) -> UnsafePointer<UInt32> {
    forSlices(b, whole) { batch in
        for index in 0..<batch.depth / 4 { i4q_join_codes(batch.memory + (4096 &+ index &* 256), batch.memory + index &* 64) }
    }
    return UnsafePointer(whole.memory.assumingMemoryBound(to: UInt32.self))
}

/// A lane's codes: its first half in low nibbles, its second half in high ones.
@inline(never)
private func storeCodes(_ b: i4q_block_batch, _ whole: Batch, lanesPerBlock: Int, blockBytes: Int, head: Int) {
    let words = joinCodes(b, whole), count = whole.depth / 8
    let target = UnsafeMutableRawPointer(b.blocks.unsafelyUnwrapped) + head
    for lane in 0..<Int(b.lane_count) {
        var place = target + (lane / lanesPerBlock &* blockBytes &+ lane % lanesPerBlock &* 4 &* count)
        for index in 0..<count {
            place.storeBytes(of: words[index &* 16 &+ lane] | words[(index &+ count) &* 16 &+ lane] &<< 4, as: UInt32.self)
            place += 4
        }
    }
}

/// Q4_0, IQ4_NL: scale, codes. Q4_1: scale, minimum, codes.
@inline(never)
private func store(_ b: i4q_block_batch, _ whole: Batch) -> Int64 {
    let hasLow = b.format == Format.q4_1
    forSlices(b, whole) { batch in
        batch[.scale] = i4q_half(batch[.scale])
        batch[.low] = i4q_half(batch[.low])
    }
    let bad = lanesNotFinite(b, whole, .scale) | (hasLow ? lanesNotFinite(b, whole, .low) : 0)
    if bad != 0 { return bad }
    let bytes = hasLow ? 20 : 18
    let target = UnsafeMutableRawPointer(b.blocks.unsafelyUnwrapped)
    for lane in 0..<Int(b.lane_count) {
        (target + lane &* bytes).storeBytes(of: halfBits(whole.lanes(.scale)[lane]), as: UInt16.self)
        if hasLow { (target + lane &* bytes).storeBytes(of: halfBits(whole.lanes(.low)[lane]), toByteOffset: 2, as: UInt16.self) }
    }
    storeCodes(b, whole, lanesPerBlock: 1, blockBytes: bytes, head: bytes &- 16)
    return 0
}

// MARK: Q4_0 and Q4_1 as they come

/// trunc(value / scale + bias), at most 15; the batch's values less `low`. Where the reciprocal of a subnormal scale is infinite
/// all are 0, as ggml's conversion to int8 has it.
@inline(__always)
private func truncate(_ batch: Batch, _ scale: Slice, _ bias: Float, low: Slice?) {
    let exact = overOrZero(all(1), scale)
    let isUsable = i4q_above(all(.infinity), i4q_abs(exact))
    let inverse = i4q_pick(isUsable, exact, nothing), start = i4q_pick(isUsable, all(bias), nothing)
    for i in 0..<batch.depth {
        let value = batch.value(i)
        let steps = i4q_plus_product(start, low.map { minus(value, $0) } ?? value, inverse)
        batch.set(level: i4q_least(all(15), steps), i)
    }
    batch[.scale] = scale
}

@inline(__always)
private func plainSymmetric(_ b: i4q_block_batch, _ whole: Batch) {
    forSlices(b, whole) { truncate($0, over($0[.largest], all(-8)), 8.5, low: nil) }
}

@inline(__always)
private func plainOffset(_ b: i4q_block_batch, _ whole: Batch) {
    forSlices(b, whole) { batch in
        var low = all(.greatestFiniteMagnitude), high = all(-.greatestFiniteMagnitude)
        for i in 0..<batch.depth {
            low = i4q_least(low, batch.value(i))
            high = i4q_most(high, batch.value(i))
        }
        truncate(batch, over(minus(high, low), all(15)), 0.5, low: low)
        batch[.low] = low
    }
}

// MARK: Search for a scale: Q4_0 with importance, IQ4_NL, and both at their best

/// Weights of ggml's searches: importance times the root of a mean square plus the value's own.
@inline(never)
private func weigh(_ batch: Batch, _ meanSquare: Slice) {
    for i in 0..<batch.depth {
        let value = batch.value(i)
        batch.set(weight: times(batch.weight(i), i4q_root(i4q_plus_product(meanSquare, value, value))), i)
    }
}

@inline(__always)
private func sumOfSquares(_ batch: Batch) -> Slice {
    var sum = nothing
    for i in 0..<batch.depth { sum = i4q_plus_product(sum, batch.value(i), batch.value(i)) }
    return sum
}

/// What a value divided by the scale becomes: a level of -8..7, or a value of IQ4_NL's table.
@inline(__always)
private func gridValue(_ v: Slice, _ isTable: Bool) -> Slice { isTable ? i4q_iq4nl_value(v) : i4q_bounded(i4q_nearest(v), -8, 7) }

/// Where a trial puts the value of largest magnitude, on the grid.
@inline(__always)
private func trialTarget(_ trial: Int, _ isTable: Bool, _ isBest: Bool) -> Float {
    let t = Float(trial)
    if isBest {
        // On either side of the grid.
        if isTable { return trial < 24 ? -146 + 2 * t : 92 + 2 * (t - 24) }
        return trial < 24 ? -(6.5 + 0.1 * t) : 5.6 + 0.1 * (t - 24)
    }
    if isTable { return -134 + t }
    return -(8 + 0.1 * (trial < 9 ? t - 9 : t - 8))
}

@inline(__always)
private func searchScales(_ b: i4q_block_batch, _ whole: Batch, isTable: Bool) {
    forSlices(b, whole) { isTable ? searchTable(b, $0) : searchLevels(b, $0) }
}

@inline(never) private func searchTable(_ b: i4q_block_batch, _ batch: Batch) { searchScale(b, batch, isTable: true) }
@inline(never) private func searchLevels(_ b: i4q_block_batch, _ batch: Batch) { searchScale(b, batch, isTable: false) }

@inline(__always)
private func searchScale(_ b: i4q_block_batch, _ batch: Batch, isTable: Bool) {
    let isBest = b.search != 0
    if !isBest { prepareWeights(b, batch, isTable) }
    let signed = batch[.largest]
    // Where all values are this small ggml's searches give up: scale 0.
    let isThere = i4q_not(i4q_above(all(1e-15), i4q_abs(signed)))
    var inverse = isTable ? over(all(1), over(signed, all(127))) : over(all(-8), signed)
    var scale = nothing, best = nothing, bestInverse = inverse
    let count = isBest ? 48 : isTable ? 15 : 18
    for trial in -1..<count {
        if trial >= 0 { inverse = over(all(trialTarget(trial, isTable, isBest)), signed) }
        var products = nothing, squares = nothing
        for i in 0..<batch.depth {
            let value = batch.value(i), weight = batch.weight(i)
            let point = gridValue(times(inverse, value), isTable)
            let weighted = times(weight, point)
            products = isTable ? i4q_plus_product(products, weighted, value) : i4q_plus_product(products, times(weight, value), point)
            squares = i4q_plus_product(squares, weighted, point)
        }
        let fitted = over(products, squares)
        let isUsable = i4q_above(squares, nothing)
        if trial < 0 {
            // Sums that overflow make a scale that is refused.
            scale = i4q_pick(isUsable, fitted, squares)
            best = times(scale, products)
            continue
        }
        let isBetter = i4q_both(isUsable, i4q_above(times(products, products), times(best, squares)))
        scale = i4q_pick(isBetter, fitted, scale)
        best = i4q_pick(isBetter, times(fitted, products), best)
        bestInverse = i4q_pick(isBetter, inverse, bestInverse)
    }
    scale = i4q_pick(isThere, scale, nothing)
    if isBest { scale = polished(batch, plain: over(signed, all(isTable ? -127 : -8)), scale, isTable) }
    if isBest || isTable { bestInverse = overOrZero(all(1), scale) }
    for i in 0..<batch.depth {
        let v = times(bestInverse, batch.value(i))
        let code = isTable ? i4q_iq4nl_code(v) : plus(gridValue(v, false), all(8))
        batch.set(level: isTable || isBest ? code : i4q_pick(isThere, code, nothing), i)
    }
    batch[.scale] = scale
}

/// ggml's weights.
@inline(__always)
private func prepareWeights(_ b: i4q_block_batch, _ batch: Batch, _ isTable: Bool) {
    if !isTable {
        weigh(batch, batch[.meanSquare])
    } else if b.importance != nil {
        weigh(batch, times(sumOfSquares(batch), all(0.0625)))
    } else {
        for i in 0..<batch.depth { batch.set(weight: times(batch.value(i), batch.value(i)), i) }
    }
}

/// Of the plain scale, the one found, and twice the best for the codes that it leads to, all rounded to binary16: the one with
/// the smallest error.
@inline(__always)
private func polished(_ batch: Batch, plain: Slice, _ scale: Slice, _ isTable: Bool) -> Slice {
    var candidate = i4q_half(plain)
    var best = candidate, least = all(.infinity)
    for round in 0..<4 {
        let inverse = overOrZero(all(1), candidate)
        var error = nothing, products = nothing, squares = nothing
        for i in 0..<batch.depth {
            let value = batch.value(i), weight = batch.weight(i)
            let point = gridValue(times(inverse, value), isTable)
            let difference = minus(times(candidate, point), value), weighted = times(weight, point)
            error = i4q_plus_product(error, times(weight, difference), difference)
            products = i4q_plus_product(products, weighted, value)
            squares = i4q_plus_product(squares, weighted, point)
        }
        best = pick(least, above: error, candidate, best)
        least = i4q_least(least, error)
        let fitted = i4q_pick(i4q_above(squares, nothing), over(products, squares), candidate)
        candidate = i4q_half(round == 0 ? scale : fitted)
    }
    return best
}

// MARK: Search for a scale and a minimum: Q4_1, Q4_K

@inline(__always)
private func level(_ value: Slice, _ low: Slice, _ inverse: Slice) -> Slice { i4q_bounded(i4q_nearest(times(inverse, minus(value, low))), 0, 15) }

/// Weighted least squares for the codes of each of a row of scales around (max - min) / 15: ggml's make_qkx2_quants and
/// make_qkx3_quants. `first` and `step` tell the scales; `isFree`: the minimum may be above zero. Leaves scale, minimum, sum of
/// weights and levels in the batch.
@inline(never)
private func fitLine(_ batch: Batch, first: Float, step: Float, last: Int, isFree: Bool) {
    let ceiling = all(isFree ? .infinity : 0)
    var low = batch.value(0), high = batch.value(0), sumW = batch.weight(0), sumX = times(batch.weight(0), batch.value(0))
    for i in 1..<batch.depth {
        let value = batch.value(i), weight = batch.weight(i)
        low = i4q_least(low, value)
        high = i4q_most(high, value)
        sumW = plus(sumW, weight)
        sumX = i4q_plus_product(sumX, weight, value)
    }
    low = pick(low, above: ceiling, nothing, low)
    let start = low
    var scale = nothing, bestInverse = nothing, codeLow = low, best = nothing
    for trial in -1...last {
        let steps: Float = trial < 0 ? 15 : first + step * Float(trial) + 15
        let inverse = over(all(steps), minus(high, low))
        var sumL = nothing, sumL2 = nothing, sumXL = nothing
        for i in 0..<batch.depth {
            let value = batch.value(i), weight = batch.weight(i)
            let code = level(value, low, inverse)
            batch.set(level: code, i)
            let weighted = times(weight, code)
            sumL = plus(sumL, weighted)
            sumL2 = i4q_plus_product(sumL2, weighted, code)
            sumXL = i4q_plus_product(sumXL, weighted, value)
        }
        let determinant = minus(times(sumW, sumL2), times(sumL, sumL))
        var tried = over(minus(times(sumW, sumXL), times(sumX, sumL)), determinant)
        var triedLow = over(minus(times(sumL2, sumX), times(sumL, sumXL)), determinant)
        tried = pick(triedLow, above: ceiling, over(sumXL, sumL2), tried)
        triedLow = pick(triedLow, above: ceiling, nothing, triedLow)
        if trial < 0 {
            // The plain line first.
            tried = over(all(1), inverse)
            triedLow = low
        }
        var error = nothing
        for i in 0..<batch.depth {
            let difference = minus(i4q_plus_product(triedLow, tried, batch.level(i)), batch.value(i))
            error = i4q_plus_product(error, batch.weight(i), times(difference, difference))
        }
        var isBetter = i4q_both(i4q_above(determinant, nothing), i4q_above(best, error))
        if trial < 0 { isBetter = SliceMask(repeating: -1) }
        best = i4q_pick(isBetter, error, best)
        bestInverse = i4q_pick(isBetter, inverse, bestInverse)
        codeLow = i4q_pick(isBetter, low, codeLow)
        scale = i4q_pick(isBetter, tried, scale)
        low = i4q_pick(isBetter, triedLow, low)
    }
    // All values equal (or above zero where the minimum must not be): every code 0.
    let isRange = i4q_above(high, start)
    batch[.scale] = i4q_pick(isRange, scale, nothing)
    batch[.low] = i4q_pick(isRange, low, start)
    batch[.sumW] = sumW
    for i in 0..<batch.depth { batch.set(level: i4q_pick(isRange, level(batch.value(i), codeLow, bestInverse), nothing), i) }
}

@inline(__always)
private func searchOffsets(_ b: i4q_block_batch, _ whole: Batch) {
    forSlices(b, whole) { b.search == 0 ? searchOffset($0) : searchBestOffset($0) }
}

@inline(__always)
private func searchOffset(_ batch: Batch) {
    weigh(batch, batch[.meanSquare])
    fitLine(batch, first: -0.9, step: 0.05, last: 36, isFree: false)
}

@inline(never)
private func searchBestOffset(_ batch: Batch) {
    // The plain line first: what comes is not worse.
    var low = batch.value(0), high = batch.value(0)
    for i in 1..<batch.depth {
        low = i4q_least(low, batch.value(i))
        high = i4q_most(high, batch.value(i))
    }
    var scale = i4q_half(over(minus(high, low), all(15)))
    low = i4q_half(low)
    fitLine(batch, first: -1.2, step: 0.05, last: 40, isFree: true)
    let fitted = i4q_half(batch[.scale]), fittedLow = i4q_half(batch[.low])
    var bestScale = scale, bestLow = low, least = all(.infinity)
    for round in 0..<4 {
        sumLine(batch, scale, low)
        let isBetter = i4q_above(least, batch[.error])
        bestScale = i4q_pick(isBetter, scale, bestScale)
        bestLow = i4q_pick(isBetter, low, bestLow)
        least = i4q_pick(isBetter, batch[.error], least)
        if round == 0 {
            scale = fitted
            low = fittedLow
            continue
        }
        let w = batch[.sumW], x = batch[.sumX], l = batch[.sumL], l2 = batch[.sumL2], xl = batch[.sumXL]
        let determinant = minus(times(w, l2), times(l, l))
        let isUsable = i4q_above(determinant, nothing)
        scale = i4q_pick(isUsable, i4q_half(over(minus(times(w, xl), times(x, l)), determinant)), scale)
        low = i4q_pick(isUsable, i4q_half(over(minus(times(l2, x), times(l, xl)), determinant)), low)
    }
    sumLine(batch, bestScale, bestLow)
    batch[.scale] = bestScale
    batch[.low] = bestLow
}

/// Nearest codes on a line, their error, and the sums that a better line for them comes from.
@inline(never)
private func sumLine(_ batch: Batch, _ scale: Slice, _ low: Slice) {
    let inverse = overOrZero(all(1), scale)
    var error = nothing, w = nothing, x = nothing, l = nothing, l2 = nothing, xl = nothing
    for i in 0..<batch.depth {
        let value = batch.value(i), weight = batch.weight(i)
        let code = level(value, low, inverse)
        batch.set(level: code, i)
        let difference = minus(i4q_plus_product(low, scale, code), value), weighted = times(weight, code)
        error = i4q_plus_product(error, times(weight, difference), difference)
        w = plus(w, weight)
        x = i4q_plus_product(x, weight, value)
        l = plus(l, weighted)
        l2 = i4q_plus_product(l2, weighted, code)
        xl = i4q_plus_product(xl, weighted, value)
    }
    batch[.error] = error
    batch[.sumW] = w
    batch[.sumX] = x
    batch[.sumL] = l
    batch[.sumL2] = l2
    batch[.sumXL] = xl
}

// MARK: Q4_K: eight lanes with 6-bit multiples, `scales` and `mins`, of two binary16 numbers, `d` and `dmin`

@inline(never)
private func quantizeSuperBlocks(_ b: i4q_block_batch, _ whole: Batch) -> Int64 {
    let isBest = b.search != 0, hasImportance = b.importance != nil
    if hasImportance && !isBest { findSuperMeanSquares(b, whole) }
    forSlices(b, whole) { batch in
        if !isBest {
            if hasImportance { weigh(batch, batch[.meanSquare]) } else { weighByMagnitude(batch) }
        }
        let isLong = isBest || hasImportance
        fitLine(batch, first: isLong ? -0.9 : -1, step: isLong ? 0.05 : 0.1, last: isLong ? 36 : 20, isFree: false)
        batch[.low] = -batch[.low]
    }
    var first = 0
    while first < Int(b.lane_count) {
        findMultiples(whole, first, .scale, .d, .scales, isFitted: hasImportance && !isBest)
        findMultiples(whole, first, .low, .dmin, .mins, isFitted: hasImportance && !isBest)
        first &+= 8
    }
    roundNumbers(b, whole)
    let bad = lanesNotFinite(b, whole, .d) | lanesNotFinite(b, whole, .dmin)
    if bad != 0 { return bad }
    if isBest { refineMultiples(b, whole) }
    forSlices(b, whole) { batch in
        let scale = times(batch[.d], batch[.scales]), low = times(batch[.dmin], batch[.mins])
        // A scale of zero leaves the codes of the fit.
        let isThere = i4q_above(i4q_abs(scale), nothing)
        for i in 0..<32 {
            let code = i4q_bounded(i4q_nearest(over(plus(batch.value(i), low), scale)), 0, 15)
            batch.set(level: i4q_pick(isThere, code, isBest ? nothing : batch.level(i)), i)
        }
    }
    storeSuperBlocks(b, whole)
    return 0
}

@inline(__always)
private func roundNumbers(_ b: i4q_block_batch, _ whole: Batch) {
    forSlices(b, whole) { batch in
        batch[.d] = i4q_half(batch[.d])
        batch[.dmin] = i4q_half(batch[.dmin])
    }
}

/// No importance: root of the sub-block's mean square, plus |x|.
@inline(__always)
private func weighByMagnitude(_ batch: Batch) {
    let root = i4q_root(over(sumOfSquares(batch), all(32)))
    for i in 0..<batch.depth { batch.set(weight: plus(root, i4q_abs(batch.value(i))), i) }
}

/// Twice the mean square of each lane's super-block, summed in the order of its 256 values.
@inline(never)
private func findSuperMeanSquares(_ b: i4q_block_batch, _ whole: Batch) {
    let values = whole.memory.assumingMemoryBound(to: Float.self)
    var sum: Float = 0
    for lane in 0..<Int(b.lane_count) {
        if lane & 7 == 0 { sum = 0 }
        for i in 0..<whole.depth { sum += values[i &* 16 &+ lane] * values[i &* 16 &+ lane] }
        if lane & 7 == 7 {
            for earlier in lane &- 7...lane { whole.lanes(.meanSquare)[earlier] = 2 * sum / 256 }
        }
    }
}

@inline(__always)
private func nearestInteger(_ v: Float) -> Int32 { Int32(bitPattern: (v + 12_582_912).bitPattern & 0x7f_ffff) &- 0x40_0000 }

/// Eight lanes' numbers as multiples, 0..63, of one number: the largest becomes 63, or ggml's fit.
@inline(never)
private func findMultiples(_ whole: Batch, _ first: Int, _ source: Row, _ unit: Row, _ multiples: Row, isFitted: Bool) {
    let values = whole.lanes(source) + first, levels = whole.lanes(multiples) + first
    var largest: Float = 0
    for lane in 0..<8 where values[lane] > largest { largest = values[lane] }
    var number: Float = 0
    if isFitted {
        number = largest < 1e-15 ? fill(levels, 0) : fitMultiples(values, whole.lanes(.sumW) + first, largest, levels)
    } else {
        let inverse = largest > 0 ? 63 / largest : 0
        for lane in 0..<8 { levels[lane] = Float(min(63, nearestInteger(inverse * values[lane]) & 255)) }
        number = largest / 63
    }
    _ = fill(whole.lanes(unit) + first, number)
}

@inline(__always)
private func fill(_ numbers: UnsafeMutablePointer<Float>, _ number: Float) -> Float {
    for lane in 0..<8 { numbers[lane] = number }
    return number
}

/// ggml's make_qp_quants. Bytes wrap around as there.
@inline(__always)
private func fitMultiples(_ values: UnsafeMutablePointer<Float>, _ weights: UnsafeMutablePointer<Float>, _ largest: Float,
                          _ levels: UnsafeMutablePointer<Float>) -> Float {
    let inverse = multiplesTrial(values, weights, largest)
    var products: Float = 0, squares: Float = 0
    for lane in 0..<8 {
        let level = min(63, nearestInteger(inverse * values[lane]))
        levels[lane] = Float(level & 255)
        products += weights[lane] * values[lane] * Float(level)
        squares += weights[lane] * Float(level) * Float(level)
    }
    for _ in 0..<5 {
        var hasChanged = false
        for lane in 0..<8 {
            let weight = weights[lane], value = values[lane], old = levels[lane]
            var product = products - weight * value * old
            var square = squares - weight * old * old
            if !(product > 0 && square > 0) { continue }
            let level = min(63, nearestInteger(value * square / product))
            if Float(level) == old { continue }
            product += weight * value * Float(level)
            square += weight * Float(level) * Float(level)
            if product * product * squares > products * products * square {
                levels[lane] = Float(level & 255)
                products = product
                squares = square
                hasChanged = true
            }
        }
        if !hasChanged { break }
    }
    // NaN, where sums have overflowed, makes a scale that is refused.
    return squares > 0 ? products / squares : squares
}

/// The reciprocal number, of nine, with the smallest error.
@inline(__always)
private func multiplesTrial(_ values: UnsafeMutablePointer<Float>, _ weights: UnsafeMutablePointer<Float>, _ largest: Float) -> Float {
    var best: Float = 0, least: Float = 0
    for trial in 0..<9 {
        // The plain one first, then -4..4 without 0.
        let step = Float(trial < 5 ? trial &- 5 : trial &- 4)
        let inverse = trial == 0 ? 63 / largest : (0.1 * step + 63) / largest
        let scale = 1 / inverse
        var error: Float = 0
        for lane in 0..<8 {
            let near = nearestInteger(inverse * values[lane])
            let difference = values[lane] - scale * Float(trial == 0 ? near & 255 : min(63, near))
            error += weights[lane] * difference * difference
        }
        if trial == 0 || error < least {
            least = error
            best = inverse
        }
    }
    return best
}

/// Each lane's pair of multiples and the super-block's two numbers improved in turn, three times; the best are kept.
@inline(never)
private func refineMultiples(_ b: i4q_block_batch, _ whole: Batch) {
    forSlices(b, whole) { batch in
        batch[.bestError] = all(.infinity)
        batch[.bestD] = batch[.d]
        batch[.bestDmin] = batch[.dmin]
        batch[.bestScales] = batch[.scales]
        batch[.bestMins] = batch[.mins]
    }
    for _ in 0..<3 {
        forSlices(b, whole) { chooseMultiples($0) }
        var first = 0
        while first < Int(b.lane_count) {
            keepAndSolve(whole, first)
            first &+= 8
        }
        roundNumbers(b, whole)
    }
    forSlices(b, whole) { batch in
        batch[.d] = batch[.bestD]
        batch[.dmin] = batch[.bestDmin]
        batch[.scales] = batch[.bestScales]
        batch[.mins] = batch[.bestMins]
    }
}

/// The best of nine neighbours for each lane, the error that it leaves, and the sums for its codes.
@inline(never)
private func chooseMultiples(_ batch: Batch) {
    let d = batch[.d], dmin = batch[.dmin], scales = batch[.scales], mins = batch[.mins]
    var least = all(.infinity), bestScales = scales, bestMins = mins
    for neighbour in 0..<10 {
        // The last is the best again.
        let isLast = neighbour == 9
        let tried = isLast ? bestScales : i4q_bounded(plus(scales, all(Float(neighbour / 3 &- 1))), 0, 63)
        let triedMins = isLast ? bestMins : i4q_bounded(plus(mins, all(Float(neighbour % 3 &- 1))), 0, 63)
        sumLine(batch, times(d, tried), -times(dmin, triedMins))
        let isBetter = i4q_above(least, batch[.error])
        bestScales = i4q_pick(isBetter, tried, bestScales)
        bestMins = i4q_pick(isBetter, triedMins, bestMins)
        least = i4q_pick(isBetter, batch[.error], least)
    }
    batch[.scales] = bestScales
    batch[.mins] = bestMins
}

/// Keeps a super-block's numbers if they are better than those before, and then finds d and dmin by least squares for the
/// codes and multiples: value = d * (scale * code) - dmin * min.
@inline(never)
private func keepAndSolve(_ whole: Batch, _ first: Int) {
    let d = whole.lanes(.d) + first, dmin = whole.lanes(.dmin) + first
    var error: Float = 0, a11: Float = 0, a12: Float = 0, a22: Float = 0, b1: Float = 0, b2: Float = 0
    for lane in first..<first &+ 8 {
        let scale = whole.lanes(.scales)[lane], low = whole.lanes(.mins)[lane]
        error += whole.lanes(.error)[lane]
        a11 += scale * scale * whole.lanes(.sumL2)[lane]
        a12 -= scale * low * whole.lanes(.sumL)[lane]
        a22 += low * low * whole.lanes(.sumW)[lane]
        b1 += scale * whole.lanes(.sumXL)[lane]
        b2 -= low * whole.lanes(.sumX)[lane]
    }
    if error < whole.lanes(.bestError)[first] {
        for lane in first..<first &+ 8 {
            whole.lanes(.bestError)[lane] = error
            whole.lanes(.bestD)[lane] = d[0]
            whole.lanes(.bestDmin)[lane] = dmin[0]
            whole.lanes(.bestScales)[lane] = whole.lanes(.scales)[lane]
            whole.lanes(.bestMins)[lane] = whole.lanes(.mins)[lane]
        }
    }
    let determinant = a11 * a22 - a12 * a12
    let newD = (b1 * a22 - b2 * a12) / determinant, newDmin = (b2 * a11 - b1 * a12) / determinant
    // Where the two are not told apart, or a number would leave its range, the old ones stay.
    if !(determinant > 0 && newD > 0 && newD < 65504 && newDmin >= 0 && newDmin < 65504) { return }
    _ = fill(d, newD)
    _ = fill(dmin, newDmin)
}

/// d, dmin, the sixteen 6-bit numbers in twelve bytes, and 32 bytes of codes for each two lanes: the even one's in the low
/// nibbles.
@inline(never)
private func storeSuperBlocks(_ b: i4q_block_batch, _ whole: Batch) {
    let words = joinCodes(b, whole)
    var first = 0
    while first < Int(b.lane_count) {
        let target = UnsafeMutableRawPointer(b.blocks.unsafelyUnwrapped) + first / 8 &* 144
        target.storeBytes(of: halfBits(whole.lanes(.d)[first]), as: UInt16.self)
        target.storeBytes(of: halfBits(whole.lanes(.dmin)[first]), toByteOffset: 2, as: UInt16.self)
        let bytes = (target + 4).assumingMemoryBound(to: UInt8.self)
        let scales = whole.lanes(.scales) + first, mins = whole.lanes(.mins) + first
        for j in 0..<4 {
            let scale = byte(scales[j]), low = byte(mins[j]), scale4 = byte(scales[j &+ 4]), low4 = byte(mins[j &+ 4])
            bytes[j] = scale | (scale4 &>> 4) &<< 6
            bytes[j &+ 4] = low | (low4 &>> 4) &<< 6
            bytes[j &+ 8] = (scale4 & 15) | (low4 & 15) &<< 4
        }
        for index in 0..<32 {
            let word = words + ((index & 7) &* 16 &+ first &+ index / 8 &* 2)
            target.storeBytes(of: word[0] | word[1] &<< 4, toByteOffset: 16 &+ 4 &* index, as: UInt32.self)
        }
        first &+= 8
    }
}

@inline(__always) private func byte(_ v: Float) -> UInt8 { UInt8(truncatingIfNeeded: Int32(v)) }

// MARK: MXFP4 and NVFP4

@inline(never)
private func quantizeE2M1(_ b: i4q_block_batch, _ whole: Batch) {
    let isMX = b.format == Format.mxfp4
    // Stored scales as numbers: 0..255.
    let codes = whole.lanes(.scales), largest = whole.lanes(.largest)
    for lane in 0..<Int(b.lane_count) { codes[lane] = Float(isMX ? e8m0(largest[lane].magnitude) : ue4m3(largest[lane].magnitude / 6, isBest: b.search != 0)) }
    if b.search != 0 { chooseExponents(b, whole, isMX) }
    decodeScales(b, whole, isMX)
    forSlices(b, whole) { batch in
        let scale = batch[.scale]
        // Beyond this errors round to the same, and the order in which values are tried decides.
        let isFar = i4q_above(i4q_abs(batch[.largest]), times(scale, all(0x1p20)))
        if any(isFar) {
            for i in 0..<batch.depth { batch.set(level: i4q_e2m1_tried(batch.value(i), scale), i) }
        } else {
            for i in 0..<batch.depth { batch.set(level: i4q_e2m1(batch.value(i), scale, 1), i) }
        }
    }
    let blocks = b.blocks.unsafelyUnwrapped
    for lane in 0..<Int(b.lane_count) { blocks[isMX ? lane &* 17 : lane / 4 &* 36 &+ lane % 4] = byte(codes[lane]) }
    if isMX {
        storeCodes(b, whole, lanesPerBlock: 1, blockBytes: 17, head: 1)
    } else {
        storeCodes(b, whole, lanesPerBlock: 4, blockBytes: 36, head: 4)
    }
}

@inline(__always)
private func any(_ mask: SliceMask) -> Bool { mask.min() < 0 }

/// From .scales to .scale.
@inline(never)
private func decodeScales(_ b: i4q_block_batch, _ whole: Batch, _ isMX: Bool) {
    for lane in 0..<Int(b.lane_count) {
        let code = byte(whole.lanes(.scales)[lane])
        whole.lanes(.scale)[lane] = isMX ? halfOfE8M0(code) : halfOfUE4M3(code)
    }
    // What a slice reads beyond.
    for lane in Int(b.lane_count)..<lanes { whole.lanes(.scale)[lane] = whole.lanes(.scale)[0] }
}

/// The stored scale, among some below and above, with the smallest error.
@inline(never)
private func chooseExponents(_ b: i4q_block_batch, _ whole: Batch, _ isMX: Bool) {
    let codes = whole.lanes(.scales), best = whole.lanes(.bestScales), start = whole.lanes(.mins)
    let count = Int(b.lane_count)
    for lane in 0..<count {
        start[lane] = codes[lane]
        best[lane] = codes[lane]
        whole.lanes(.bestError)[lane] = .infinity
    }
    for trial in 0..<(isMX ? 3 : 9) {
        // The plain one first: it wins ties.
        let shift = Float(trial == 0 ? 0 : isMX ? 2 &* trial &- 3 : trial < 3 ? trial &- 3 : trial &- 2)
        for lane in 0..<count {
            codes[lane] = trial == 0 ? start[lane] : min(max(start[lane] + shift, isMX ? 0 : 1), isMX ? 254 : 126)
        }
        decodeScales(b, whole, isMX)
        forSlices(b, whole) { batch in
            let scale = batch[.scale]
            var error = nothing
            for i in 0..<batch.depth {
                let value = batch.value(i)
                let difference = minus(times(scale, i4q_e2m1(value, scale, 0)), value)
                error = i4q_plus_product(error, times(batch.weight(i), difference), difference)
            }
            batch[.error] = error
        }
        for lane in 0..<count where whole.lanes(.error)[lane] < whole.lanes(.bestError)[lane] {
            whole.lanes(.bestError)[lane] = whole.lanes(.error)[lane]
            best[lane] = codes[lane]
        }
    }
    for lane in 0..<count { codes[lane] = best[lane] }
}

/// floor(log2(largest)) + 125, the logarithm in binary32 as ggml has it: just below a power of two it is rounded up to one.
/// Below 2^-125 the scale is the smallest.
@inline(__always)
private func e8m0(_ largest: Float) -> UInt8 {
    let word = largest.bitPattern
    let exponent = Int32(word &>> 23) &- 127
    let missing = 0x80_0000 &- Int32(word & 0x7f_ffff)
    var floor = exponent
    if missing < 64 {
        let part = Double(missing) * 0x1p-24
        let logarithm = Float(Double(exponent &+ 1) - part * (1 + part / 2) * 1.4426950408889634)
        if logarithm >= Float(exponent &+ 1) { floor = exponent &+ 1 }
    }
    return UInt8(truncatingIfNeeded: max(floor &+ 125, 0))
}

/// 2^(code - 128), for values of E2M1 that are doubled.
@inline(__always)
private func halfOfE8M0(_ code: UInt8) -> Float {
    Float(bitPattern: code < 2 ? 0x0020_0000 &<< UInt32(code) : UInt32(code &- 1) &<< 23)
}

/// Half up; as ggml does it, where all from 248 on are the largest, or at its best.
@inline(__always)
private func ue4m3(_ v: Float, isBest: Bool) -> UInt8 {
    if !(v > 0) { return 0 }
    let bounded = min(v, 448)
    let exponent = Int32(bounded.bitPattern &>> 23) &- 120
    if exponent <= 0 { return UInt8(truncatingIfNeeded: min(Int32(bounded * 512 + 0.5), 7)) }
    // A carry out of the fraction runs into the exponent.
    let rounded = Int32((bounded.bitPattern &+ 0x8_0000) &>> 20) &- 120 &* 8
    return rounded >= (isBest ? 0x7e : 0x78) ? 0x7e : UInt8(truncatingIfNeeded: rounded)
}

@inline(__always)
private func halfOfUE4M3(_ code: UInt8) -> Float {
    if code == 0 || code == 0x7f { return 0 }
    if code < 8 { return Float(code) * 0x1p-10 }
    return Float(bitPattern: (UInt32(code) &+ 119 &* 8) &<< 20)
}
