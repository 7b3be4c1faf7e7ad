// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Block formats: 16 blocks at once, a block per lane, so that every sum runs over a block's values in their order, as in the
// programs whose results are matched to the bit. Nothing here may be fused or reordered. Definitions: docs/quantizers.md.

/// Block formats, as `INT4Q_FORMAT_*` in the public header.
enum Format {
    static let q4_0: Int64 = 1
    static let q4_1: Int64 = 2
    static let q4_K: Int64 = 3
    static let iq4_NL: Int64 = 4
    static let mxfp4: Int64 = 5
    static let nvfp4: Int64 = 6
}

/// A batch in working memory: squares of [element][lane].
struct Batch {
    static var bytes: Int { 3 &* 2048 &+ 1024 }
    let memory: UnsafeMutableRawPointer
    let depth: Int

    @inline(__always) func value(_ i: Int) -> Floats { UnsafeRawPointer(memory).floats(i &* 64) }
    @inline(__always) func weight(_ i: Int) -> Floats { UnsafeRawPointer(memory).floats(2048 &+ i &* 64) }
    @inline(__always) func level(_ i: Int) -> Floats { UnsafeRawPointer(memory).floats(4096 &+ i &* 64) }
    @inline(__always) func set(weight: Floats, _ i: Int) { memory.storeBytes(of: weight, toByteOffset: 2048 &+ i &* 64, as: Floats.self) }
    @inline(__always) func set(level: Floats, _ i: Int) { memory.storeBytes(of: level, toByteOffset: 4096 &+ i &* 64, as: Floats.self) }
}

@inline(__always) private var nothing: Floats { Floats(repeating: 0) }
@inline(__always) private func all(_ value: Float) -> Floats { Floats(repeating: value) }
/// yes where a > b, else (and for NaN) no.
@inline(__always)
private func choose(_ a: Floats, above b: Floats, _ yes: Floats, _ no: Floats) -> Floats { i4q_choose(i4q_is_greater(a, b), yes, no) }
@inline(__always) private func plus(_ a: Floats, _ b: Floats) -> Floats { i4q_add(a, b) }
@inline(__always) private func minus(_ a: Floats, _ b: Floats) -> Floats { i4q_subtract(a, b) }
@inline(__always) private func times(_ a: Floats, _ b: Floats) -> Floats { i4q_multiply(a, b) }
@inline(__always) private func over(_ a: Floats, _ b: Floats) -> Floats { i4q_divide(a, b) }
/// a / b, or 0 where b is 0.
@inline(__always)
private func overOrZero(_ a: Floats, _ b: Floats) -> Floats { choose(i4q_magnitude(b), above: nothing, over(a, b), nothing) }
@inline(__always) private func toHalf(_ v: Floats) -> Floats { widenHalves(narrowToHalves(v)) }

func quantizeBatch(_ b: i4q_block_batch) -> Int64 {
    withUnsafeTemporaryAllocation(byteCount: Batch.bytes, alignment: 64) { buffer in
        let batch = Batch(memory: buffer.baseAddress.unsafelyUnwrapped, depth: b.format == Format.nvfp4 ? 16 : 32)
        load(b.values.unsafelyUnwrapped, b.source_type, b, batch, 0)
        if b.format == Format.nvfp4 && b.global_scale != 1 {
            for i in 0..<16 { batch.memory.storeBytes(of: over(batch.value(i), all(b.global_scale)), toByteOffset: i &* 64, as: Floats.self) }
        }
        let extremes = findLargest(batch)
        let bad = lanesNotFinite(floats(fromBits: extremes.largest))
        if bad != 0 { return bad }
        if let importance = b.importance {
            load(importance, ElementType.f32, b, batch, 2048)
        } else {
            for i in 0..<batch.depth { batch.set(weight: all(1), i) }
        }
        let isBest = b.search != 0
        switch b.format {
        case Format.q4_0: return isBest || b.importance != nil ? searchScales(b, batch, extremes, isTable: false) : plainSymmetric(b, batch, extremes)
        case Format.q4_1: return isBest || b.importance != nil ? searchOffsets(b, batch) : plainOffset(b, batch)
        case Format.q4_K: return quantizeSuperBlocks(b, batch)
        case Format.iq4_NL: return searchScales(b, batch, extremes, isTable: true)
        default: return quantizeE2M1(b, batch, extremes)
        }
    }
}

// MARK: Loading

@inline(__always)
private func load(_ pointers: UnsafePointer<UnsafeRawPointer?>, _ type: Int64, _ b: i4q_block_batch, _ batch: Batch, _ offset: Int) {
    let staging = batch.memory + 6144
    var k = 0
    while k < batch.depth {
        for lane in 0..<lanes {
            let isThere = lane < Int(b.lane_count)
            let run = isThere ? loadElements(pointers[lane].unsafelyUnwrapped, type, k, count: lanes) : nothing
            staging.storeBytes(of: run, toByteOffset: lane &* 64, as: Floats.self)
        }
        i4q_transpose_f32x16(staging, 64, batch.memory + (offset &+ k &* 64))
        k &+= lanes
    }
}

/// The largest magnitude, and the first value that has it; 0 if all are zeros of either sign.
private struct Extremes {
    var largest = Words(repeating: 0)
    var signed = nothing
}

@inline(__always)
private func findLargest(_ batch: Batch) -> Extremes {
    var largest = Words(repeating: 0), signed = nothing
    for i in 0..<batch.depth {
        let value = batch.value(i)
        signed = i4q_value_if_larger(largest, signed, value)
        largest = i4q_larger_magnitude(largest, value)
    }
    return Extremes(largest: largest, signed: signed)
}

@inline(__always)
private func lanesNotFinite(_ v: Floats) -> Int64 {
    let magnitudes = bits(v) & Words(repeating: 0x7fff_ffff)
    if !any(magnitudes .>= Words(repeating: 0x7f80_0000)) { return 0 }
    var mask: Int64 = 0
    for lane in 0..<lanes where magnitudes[lane] >= 0x7f80_0000 { mask |= 1 &<< Int64(lane) }
    return mask
}

// MARK: Storing

/// Eight words of each lane (NVFP4: four), each four elements' codes, one in each byte.
@inline(__always)
private func codeWord(_ batch: Batch, _ index: Int) -> Words {
    var word = Words(repeating: 0)
    for i in 0..<4 {
        let code = unsafeBitCast(i4q_truncate_f32(batch.level(4 &* index &+ i)), to: Words.self)
        word |= code &<< Words(repeating: UInt32(truncatingIfNeeded: 8 &* i))
    }
    return word
}

/// A lane's codes: its first half in low nibbles, its second half in high ones.
@inline(__always)
private func storeCodes(_ b: i4q_block_batch, _ batch: Batch, blockBytes: Int, head: Int) {
    for index in 0..<4 {
        let words = codeWord(batch, index) | codeWord(batch, index &+ 4) &<< Words(repeating: 4)
        let target = UnsafeMutableRawPointer(b.blocks.unsafelyUnwrapped) + (head &+ 4 &* index)
        for lane in 0..<Int(b.lane_count) { (target + lane &* blockBytes).storeBytes(of: words[lane], as: UInt32.self) }
    }
}

@inline(__always)
private func storeHalves(_ b: i4q_block_batch, _ halves: Halves, blockBytes: Int, head: Int) {
    let target = UnsafeMutableRawPointer(b.blocks.unsafelyUnwrapped) + head
    for lane in 0..<Int(b.lane_count) { (target + lane &* blockBytes).storeBytes(of: halves[lane], as: UInt16.self) }
}

/// Q4_0 and IQ4_NL: scale, codes.
@inline(never)
private func store(_ b: i4q_block_batch, _ batch: Batch, scale: Floats) -> Int64 {
    let halves = narrowToHalves(scale)
    let bad = lanesNotFinite(widenHalves(halves))
    if bad != 0 { return bad }
    storeHalves(b, halves, blockBytes: 18, head: 0)
    storeCodes(b, batch, blockBytes: 18, head: 2)
    return 0
}

/// Q4_1: scale, minimum, codes.
@inline(never)
private func store(_ b: i4q_block_batch, _ batch: Batch, scale: Floats, minimum: Floats) -> Int64 {
    let halves = narrowToHalves(scale), minimums = narrowToHalves(minimum)
    let bad = lanesNotFinite(widenHalves(halves)) | lanesNotFinite(widenHalves(minimums))
    if bad != 0 { return bad }
    storeHalves(b, halves, blockBytes: 20, head: 0)
    storeHalves(b, minimums, blockBytes: 20, head: 2)
    storeCodes(b, batch, blockBytes: 20, head: 4)
    return 0
}

// MARK: Q4_0 and Q4_1 as they come

/// ggml converts to int8: what is beyond, as where a subnormal's reciprocal is infinite, becomes 0.
@inline(__always)
private func truncated(_ steps: Floats) -> Floats {
    i4q_clip(choose(all(1024), above: steps, steps, nothing), nothing, all(15))
}

@inline(__always)
private func plainSymmetric(_ b: i4q_block_batch, _ batch: Batch, _ extremes: Extremes) -> Int64 {
    let scale = over(extremes.signed, all(-8))
    let inverse = overOrZero(all(1), scale)
    for i in 0..<32 { batch.set(level: truncated(plus(times(batch.value(i), inverse), all(8.5))), i) }
    return store(b, batch, scale: scale)
}

@inline(__always)
private func plainOffset(_ b: i4q_block_batch, _ batch: Batch) -> Int64 {
    var low = all(.greatestFiniteMagnitude), high = all(-.greatestFiniteMagnitude)
    for i in 0..<32 {
        low = i4q_smaller(low, batch.value(i))
        high = i4q_greater(high, batch.value(i))
    }
    let scale = over(minus(high, low), all(15))
    let inverse = overOrZero(all(1), scale)
    for i in 0..<32 { batch.set(level: truncated(plus(times(minus(batch.value(i), low), inverse), all(0.5))), i) }
    return store(b, batch, scale: scale, minimum: low)
}

// MARK: Search for a scale: Q4_0 with importance, IQ4_NL, and both at their best

/// Weights of ggml's searches: importance times the root of a mean square plus the value's own.
@inline(__always)
private func weigh(_ batch: Batch, _ meanSquares: Floats) {
    for i in 0..<32 {
        let value = batch.value(i)
        batch.set(weight: times(batch.weight(i), i4q_square_root(i4q_add_product(meanSquares, value, value))), i)
    }
}

@inline(__always)
private func sumOfSquares(_ batch: Batch) -> Floats {
    var sum = nothing
    for i in 0..<32 { sum = i4q_add_product(sum, batch.value(i), batch.value(i)) }
    return sum
}

/// What a value divided by the scale becomes: a level of -8..7, or a value of IQ4_NL's table.
@inline(__always)
private func gridValue(_ v: Floats, _ isTable: Bool) -> Floats {
    isTable ? i4q_iq4nl_value(v) : i4q_clip(i4q_nearest_level(v), all(-8), all(7))
}

/// Sums of weight * value * grid value and weight * grid value^2 for one trial.
private struct Fit {
    var products = nothing, squares = nothing

    @inline(__always)
    init(_ batch: Batch, _ inverse: Floats, _ isTable: Bool) {
        for i in 0..<32 {
            let value = batch.value(i), weight = batch.weight(i)
            let point = gridValue(times(inverse, value), isTable)
            let weighted = times(weight, point)
            products = isTable ? i4q_add_product(products, weighted, value) : i4q_add_product(products, times(weight, value), point)
            squares = i4q_add_product(squares, weighted, point)
        }
    }

    @inline(__always)
    func isBetter(than best: Floats) -> SIMD16<Int32> {
        i4q_is_greater(squares, nothing) & i4q_is_greater(times(products, products), times(best, squares))
    }
}

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
private func searchScales(_ b: i4q_block_batch, _ batch: Batch, _ extremes: Extremes, isTable: Bool) -> Int64 {
    isTable ? searchScales(b, batch, extremes, table: true) : searchScales(b, batch, extremes, table: false)
}

@inline(__always)
private func searchScales(_ b: i4q_block_batch, _ batch: Batch, _ extremes: Extremes, table isTable: Bool) -> Int64 {
    let isBest = b.search != 0
    if !isBest { prepareWeights(b, batch, isTable) }
    let signed = extremes.signed
    // Where all values are this small ggml's searches give up: scale 0.
    let isThere = i4q_is_greater(all(1e-15), floats(fromBits: extremes.largest)) ^ SIMD16<Int32>(repeating: -1)
    var inverse = isTable ? over(all(1), over(signed, all(127))) : over(all(-8), signed)
    let first = Fit(batch, inverse, isTable)
    var scale = choose(first.squares, above: nothing, over(first.products, first.squares), nothing)
    var best = times(scale, first.products), bestInverse = inverse
    for trial in 0..<(isBest ? 48 : isTable ? 15 : 18) {
        inverse = over(all(trialTarget(trial, isTable, isBest)), signed)
        let fit = Fit(batch, inverse, isTable)
        let isBetter = fit.isBetter(than: best)
        let fitted = over(fit.products, fit.squares)
        scale = i4q_choose(isBetter, fitted, scale)
        best = i4q_choose(isBetter, times(fitted, fit.products), best)
        bestInverse = i4q_choose(isBetter, inverse, bestInverse)
    }
    scale = i4q_choose(isThere, scale, nothing)
    if isBest {
        scale = polished(batch, plain: over(signed, all(isTable ? -127 : -8)), scale, isTable)
        bestInverse = overOrZero(all(1), scale)
    } else if isTable {
        bestInverse = overOrZero(all(1), scale)
    }
    for i in 0..<32 {
        let v = times(bestInverse, batch.value(i))
        let code = isTable ? i4q_iq4nl_code(v) : plus(i4q_clip(i4q_nearest_level(v), all(-8), all(7)), all(8))
        batch.set(level: isTable || isBest ? code : i4q_choose(isThere, code, nothing), i)
    }
    return store(b, batch, scale: scale)
}

/// ggml's weights.
@inline(__always)
private func prepareWeights(_ b: i4q_block_batch, _ batch: Batch, _ isTable: Bool) {
    if b.importance == nil {
        for i in 0..<32 { batch.set(weight: times(batch.value(i), batch.value(i)), i) }
    } else if isTable {
        weigh(batch, times(sumOfSquares(batch), all(0.0625)))
    } else {
        weigh(batch, UnsafeRawPointer(b.mean_squares.unsafelyUnwrapped).floats(0))
    }
}

/// Of the plain scale, the one found, and twice the best for the codes that it leads to, all rounded to binary16: the one with
/// the smallest error.
@inline(__always)
private func polished(_ batch: Batch, plain: Floats, _ scale: Floats, _ isTable: Bool) -> Floats {
    var best = nothing, least = all(.infinity), candidate = toHalf(plain)
    for round in 0..<4 {
        let inverse = overOrZero(all(1), candidate)
        var error = nothing, products = nothing, squares = nothing
        for i in 0..<32 {
            let value = batch.value(i), weight = batch.weight(i)
            let point = gridValue(times(inverse, value), isTable)
            let difference = minus(times(candidate, point), value)
            error = i4q_add_product(error, times(weight, difference), difference)
            products = i4q_add_product(products, times(weight, point), value)
            squares = i4q_add_product(squares, times(weight, point), point)
        }
        best = choose(least, above: error, candidate, best)
        least = i4q_smaller(least, error)
        candidate = toHalf(round == 0 ? scale : overOrZero(products, squares))
    }
    return best
}

// MARK: Search for a scale and a minimum: Q4_1, Q4_K

private struct Line {
    /// As fitted; value = scale * code + low.
    var scale: Floats, low: Floats
    /// How codes were chosen: nearest((value - codeLow) * inverse).
    var inverse: Floats, codeLow: Floats
    /// All values equal (or above zero where the minimum must not be): every code 0.
    var isConstant: SIMD16<Int32>
    var sumOfWeights: Floats
    /// The values' range.
    var lowest: Floats, high: Floats
}

@inline(__always)
private func level(_ value: Floats, _ low: Floats, _ inverse: Floats) -> Floats {
    i4q_clip(i4q_nearest_level(times(inverse, minus(value, low))), nothing, all(15))
}

/// Weighted least squares for the codes of each of a row of scales around (max - min) / 15: ggml's make_qkx2_quants and
/// make_qkx3_quants. `first` and `step` tell the scales; `isFree`: the minimum may be above zero.
@inline(never)
private func fitLine(_ batch: Batch, first: Float, step: Float, last: Int, isFree: Bool) -> Line {
    let ceiling = all(isFree ? .infinity : 0)
    var low = batch.value(0), high = batch.value(0), sumW = batch.weight(0), sumX = times(batch.weight(0), batch.value(0))
    for i in 1..<32 {
        let value = batch.value(i), weight = batch.weight(i)
        low = i4q_smaller(low, value)
        high = i4q_greater(high, value)
        sumW = plus(sumW, weight)
        sumX = i4q_add_product(sumX, weight, value)
    }
    let lowest = low
    low = choose(low, above: ceiling, nothing, low)
    let isConstant = i4q_is_greater(high, low) ^ SIMD16<Int32>(repeating: -1)
    var line = Line(scale: nothing, low: low, inverse: over(all(15), minus(high, low)), codeLow: low, isConstant: isConstant,
                    sumOfWeights: sumW, lowest: lowest, high: high)
    line.scale = over(all(1), line.inverse)
    for i in 0..<32 { batch.set(level: level(batch.value(i), low, line.inverse), i) }
    var best = lineError(batch, line.scale, low)
    for trial in 0...last {
        let inverse = over(all(first + step * Float(trial) + 15), minus(high, line.low))
        var sumL = nothing, sumL2 = nothing, sumXL = nothing
        for i in 0..<32 {
            let value = batch.value(i), weight = batch.weight(i)
            let code = level(value, line.low, inverse)
            batch.set(level: code, i)
            let weighted = times(weight, code)
            sumL = plus(sumL, weighted)
            sumL2 = i4q_add_product(sumL2, weighted, code)
            sumXL = i4q_add_product(sumXL, weighted, value)
        }
        let determinant = minus(times(sumW, sumL2), times(sumL, sumL))
        var scale = over(minus(times(sumW, sumXL), times(sumX, sumL)), determinant)
        var fitted = over(minus(times(sumL2, sumX), times(sumL, sumXL)), determinant)
        scale = choose(fitted, above: ceiling, over(sumXL, sumL2), scale)
        fitted = choose(fitted, above: ceiling, nothing, fitted)
        let error = lineError(batch, scale, fitted)
        let isBetter = i4q_is_greater(determinant, nothing) & i4q_is_greater(best, error)
        best = i4q_choose(isBetter, error, best)
        line.inverse = i4q_choose(isBetter, inverse, line.inverse)
        line.codeLow = i4q_choose(isBetter, line.low, line.codeLow)
        line.scale = i4q_choose(isBetter, scale, line.scale)
        line.low = i4q_choose(isBetter, fitted, line.low)
    }
    line.scale = i4q_choose(isConstant, nothing, line.scale)
    line.low = i4q_choose(isConstant, low, line.low)
    for i in 0..<32 { batch.set(level: i4q_choose(isConstant, nothing, level(batch.value(i), line.codeLow, line.inverse)), i) }
    return line
}

/// The weighted squared error of the batch's levels.
@inline(__always)
private func lineError(_ batch: Batch, _ scale: Floats, _ low: Floats) -> Floats {
    var error = nothing
    for i in 0..<32 {
        let difference = minus(i4q_add_product(low, scale, batch.level(i)), batch.value(i))
        error = i4q_add_product(error, batch.weight(i), times(difference, difference))
    }
    return error
}

@inline(__always)
private func searchOffsets(_ b: i4q_block_batch, _ batch: Batch) -> Int64 {
    if b.search == 0 {
        weigh(batch, UnsafeRawPointer(b.mean_squares.unsafelyUnwrapped).floats(0))
        let line = fitLine(batch, first: -0.9, step: 0.05, last: 36, isFree: false)
        return store(b, batch, scale: line.scale, minimum: line.low)
    }
    let line = fitLine(batch, first: -1.2, step: 0.05, last: 40, isFree: true)
    // The plain line first: what comes is not worse.
    var scale = toHalf(over(minus(line.high, line.lowest), all(15))), low = toHalf(line.lowest)
    var best = (scale: nothing, low: low), least = all(.infinity)
    for round in 0..<4 {
        let sums = LineSums(batch, scale, low)
        let isBetter = i4q_is_greater(least, sums.error)
        best = (i4q_choose(isBetter, scale, best.scale), i4q_choose(isBetter, low, best.low))
        least = i4q_choose(isBetter, sums.error, least)
        if round == 0 {
            scale = toHalf(line.scale)
            low = toHalf(line.low)
            continue
        }
        let determinant = minus(times(sums.w, sums.l2), times(sums.l, sums.l))
        let isUsable = i4q_is_greater(determinant, nothing)
        scale = i4q_choose(isUsable, toHalf(over(minus(times(sums.w, sums.xl), times(sums.x, sums.l)), determinant)), scale)
        low = i4q_choose(isUsable, toHalf(over(minus(times(sums.l2, sums.x), times(sums.l, sums.xl)), determinant)), low)
    }
    let inverse = overOrZero(all(1), best.scale)
    for i in 0..<32 { batch.set(level: level(batch.value(i), best.low, inverse), i) }
    return store(b, batch, scale: best.scale, minimum: best.low)
}

/// Nearest codes on a line, their error, and the sums that a better line for them comes from.
private struct LineSums {
    var error = nothing, w = nothing, x = nothing, l = nothing, l2 = nothing, xl = nothing

    @inline(__always)
    init(_ batch: Batch, _ scale: Floats, _ low: Floats) {
        let inverse = overOrZero(all(1), scale)
        for i in 0..<32 {
            let value = batch.value(i), weight = batch.weight(i)
            let code = level(value, low, inverse)
            let difference = minus(i4q_add_product(low, scale, code), value)
            error = i4q_add_product(error, times(weight, difference), difference)
            let weighted = times(weight, code)
            w = plus(w, weight)
            x = i4q_add_product(x, weight, value)
            l = plus(l, weighted)
            l2 = i4q_add_product(l2, weighted, code)
            xl = i4q_add_product(xl, weighted, value)
        }
    }
}

// MARK: Q4_K

/// A super-block: eight lanes with 6-bit multiples of two binary16 numbers.
private struct SuperScales {
    var d = nothing, dmin = nothing
    /// 0..63, as floats.
    var scales = nothing, mins = nothing
}

@inline(never)
private func quantizeSuperBlocks(_ b: i4q_block_batch, _ batch: Batch) -> Int64 {
    let isBest = b.search != 0, hasImportance = b.importance != nil
    if !isBest {
        if hasImportance { weigh(batch, superMeanSquares(batch)) } else { weighByMagnitude(batch) }
    }
    let line = isBest || hasImportance ? fitLine(batch, first: -0.9, step: 0.05, last: 36, isFree: false)
        : fitLine(batch, first: -1, step: 0.1, last: 20, isFree: false)
    let mins = -line.low
    var chosen = isBest || !hasImportance ? simpleScales(line.scale, mins) : searchedScales(line.scale, mins, line.sumOfWeights)
    let bad = lanesNotFinite(chosen.d) | lanesNotFinite(chosen.dmin)
    if bad != 0 { return bad }
    if isBest { chosen = refinedScales(batch, chosen) }
    let scale = times(chosen.d, chosen.scales), low = times(chosen.dmin, chosen.mins)
    // A scale of zero leaves the codes of the fit.
    let isThere = i4q_is_greater(i4q_magnitude(scale), nothing)
    for i in 0..<32 {
        let code = i4q_clip(i4q_nearest_level(over(plus(batch.value(i), low), scale)), nothing, all(15))
        batch.set(level: i4q_choose(isThere, code, batch.level(i)), i)
    }
    for first in stride(from: 0, to: Int(b.lane_count), by: 8) { store(b, chosen, first) }
    storeSuperCodes(b, batch)
    return 0
}

/// No importance: root of the sub-block's mean square, plus |x|.
@inline(__always)
private func weighByMagnitude(_ batch: Batch) {
    let root = i4q_square_root(over(sumOfSquares(batch), all(32)))
    for i in 0..<32 { batch.set(weight: plus(root, i4q_magnitude(batch.value(i))), i) }
}

/// Twice the mean square of each lane's super-block, summed in the order of its 256 values.
@inline(__always)
private func superMeanSquares(_ batch: Batch) -> Floats {
    var result = nothing
    for first in stride(from: 0, to: lanes, by: 8) {
        var sum: Float = 0
        for lane in first..<first &+ 8 {
            for i in 0..<32 {
                let value = UnsafeRawPointer(batch.memory).float(i &* 64 &+ lane &* 4)
                sum += value * value
            }
        }
        for lane in first..<first &+ 8 { result[lane] = 2 * sum / 256 }
    }
    return result
}

/// The largest scale and minimum become 63.
@inline(__always)
private func simpleScales(_ scales: Floats, _ mins: Floats) -> SuperScales {
    var result = SuperScales(), largest = nothing, deepest = nothing
    for first in stride(from: 0, to: lanes, by: 8) {
        var most: Float = 0, deep: Float = 0
        for lane in first..<first &+ 8 {
            if scales[lane] > most { most = scales[lane] }
            if mins[lane] > deep { deep = mins[lane] }
        }
        for lane in first..<first &+ 8 {
            largest[lane] = most
            deepest[lane] = deep
        }
    }
    result.d = toHalf(over(largest, all(63)))
    result.dmin = toHalf(over(deepest, all(63)))
    result.scales = sixBits(times(overOrZero(all(63), largest), scales))
    result.mins = sixBits(times(overOrZero(all(63), deepest), mins))
    return result
}

/// Nearest, as an unsigned byte, at most 63.
@inline(__always)
private func sixBits(_ v: Floats) -> Floats {
    let bytes = i4q_truncate_f32(i4q_nearest_level(v)) & SIMD16<Int32>(repeating: 255)
    return i4q_clip(i4q_float_from_i32(bytes), nothing, all(63))
}

@inline(__always)
private func searchedScales(_ scales: Floats, _ mins: Floats, _ weights: Floats) -> SuperScales {
    var result = SuperScales()
    for first in stride(from: 0, to: lanes, by: 8) {
        let d = fitSixBits(scales, weights, first, &result.scales)
        let dmin = fitSixBits(mins, weights, first, &result.mins)
        for lane in first..<first &+ 8 {
            result.d[lane] = d
            result.dmin[lane] = dmin
        }
    }
    result.d = toHalf(result.d)
    result.dmin = toHalf(result.dmin)
    return result
}

@inline(__always)
private func nearestInteger(_ v: Float) -> Int32 { Int32(bitPattern: (v + 12_582_912).bitPattern & 0x7f_ffff) &- 0x40_0000 }

/// Eight values as multiples of one number: ggml's make_qp_quants. Bytes wrap around as there.
@inline(never)
private func fitSixBits(_ values: Floats, _ weights: Floats, _ first: Int, _ levels: inout Floats) -> Float {
    var largest: Float = 0
    for lane in first..<first &+ 8 where values[lane] > largest { largest = values[lane] }
    if largest < 1e-15 {
        for lane in first..<first &+ 8 { levels[lane] = 0 }
        return 0
    }
    var inverse = sixBitTrial(values, weights, first, largest)
    var products: Float = 0, squares: Float = 0
    for lane in first..<first &+ 8 {
        let level = min(63, nearestInteger(inverse * values[lane]))
        levels[lane] = Float(level & 255)
        let weighted = weights[lane] * values[lane]
        products += weighted * Float(level)
        squares += weights[lane] * Float(level) * Float(level)
    }
    for _ in 0..<5 {
        var hasChanged = false
        for lane in first..<first &+ 8 {
            let weight = weights[lane], value = values[lane]
            var product = products - weight * value * levels[lane]
            var square = squares - weight * levels[lane] * levels[lane]
            if !(product > 0 && square > 0) { continue }
            let level = min(63, nearestInteger(value * square / product))
            if Float(level) == levels[lane] { continue }
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
    inverse = squares > 0 ? products / squares : 0
    return inverse
}

/// The reciprocal scale, of nine, with the smallest error.
@inline(__always)
private func sixBitTrial(_ values: Floats, _ weights: Floats, _ first: Int, _ largest: Float) -> Float {
    var best = 63 / largest, least: Float = 0
    for trial in 0..<9 {
        // The plain scale first, then -4..4 without 0.
        let step = Float(trial < 5 ? trial &- 5 : trial &- 4)
        let inverse = trial == 0 ? 63 / largest : (0.1 * step + 63) / largest
        let scale = 1 / inverse
        var error: Float = 0
        for lane in first..<first &+ 8 {
            let near = nearestInteger(inverse * values[lane])
            let level = trial == 0 ? near & 255 : min(63, near)
            let difference = values[lane] - scale * Float(level)
            error += weights[lane] * difference * difference
        }
        if trial == 0 || error < least {
            least = error
            best = inverse
        }
    }
    return best
}

/// Each lane's pair of multiples and the super-block's two numbers improved in turn.
@inline(__always)
private func refinedScales(_ batch: Batch, _ start: SuperScales) -> SuperScales {
    var best = start, least = all(.infinity), tried = start
    for _ in 0..<3 {
        let lanesError = chooseMultiples(batch, &tried)
        let error = summed(lanesError)
        let isBetter = i4q_is_greater(least, error)
        best.d = i4q_choose(isBetter, tried.d, best.d)
        best.dmin = i4q_choose(isBetter, tried.dmin, best.dmin)
        best.scales = i4q_choose(isBetter, tried.scales, best.scales)
        best.mins = i4q_choose(isBetter, tried.mins, best.mins)
        least = i4q_choose(isBetter, error, least)
        solve(batch, &tried)
    }
    return best
}

/// The best of nine neighbours for each lane.
@inline(__always)
private func chooseMultiples(_ batch: Batch, _ s: inout SuperScales) -> Floats {
    let center = s
    var least = all(.infinity)
    for neighbour in 0..<9 {
        let scales = i4q_clip(plus(center.scales, all(Float(neighbour / 3 &- 1))), nothing, all(63))
        let mins = i4q_clip(plus(center.mins, all(Float(neighbour % 3 &- 1))), nothing, all(63))
        let sums = LineSums(batch, times(s.d, scales), -times(s.dmin, mins))
        let isBetter = i4q_is_greater(least, sums.error)
        s.scales = i4q_choose(isBetter, scales, s.scales)
        s.mins = i4q_choose(isBetter, mins, s.mins)
        least = i4q_choose(isBetter, sums.error, least)
    }
    return least
}

/// The sum over each lane's super-block, in all its lanes.
@inline(__always)
private func summed(_ v: Floats) -> Floats {
    var result = nothing
    for first in stride(from: 0, to: lanes, by: 8) {
        var sum: Float = 0
        for lane in first..<first &+ 8 { sum += v[lane] }
        for lane in first..<first &+ 8 { result[lane] = sum }
    }
    return result
}

/// Least squares for d and dmin, given codes and multiples: value = d * (scale code) - dmin * min.
@inline(__always)
private func solve(_ batch: Batch, _ s: inout SuperScales) {
    let sums = LineSums(batch, times(s.d, s.scales), -times(s.dmin, s.mins))
    let a11 = summed(times(times(s.scales, s.scales), sums.l2)), a12 = -summed(times(times(s.scales, s.mins), sums.l))
    let a22 = summed(times(times(s.mins, s.mins), sums.w))
    let b1 = summed(times(s.scales, sums.xl)), b2 = -summed(times(s.mins, sums.x))
    let determinant = minus(times(a11, a22), times(a12, a12))
    let d = toHalf(over(minus(times(b1, a22), times(b2, a12)), determinant))
    let dmin = toHalf(over(minus(times(b2, a11), times(b1, a12)), determinant))
    // Where the two are not told apart, or a number leaves its range, the old ones stay.
    let isUsable = i4q_is_greater(determinant, nothing) & i4q_is_greater(d, nothing) & i4q_is_greater(all(65505), d)
        & i4q_is_greater(all(65505), dmin) & i4q_is_greater(dmin, all(-1e-30))
    s.d = i4q_choose(isUsable, d, s.d)
    s.dmin = i4q_choose(isUsable, dmin, s.dmin)
}

/// d, dmin and the sixteen 6-bit numbers in twelve bytes.
@inline(__always)
private func store(_ b: i4q_block_batch, _ s: SuperScales, _ first: Int) {
    let target = UnsafeMutableRawPointer(b.blocks.unsafelyUnwrapped) + first / 8 &* 144
    target.storeBytes(of: narrowToHalves(s.d)[first], as: UInt16.self)
    target.storeBytes(of: narrowToHalves(s.dmin)[first], toByteOffset: 2, as: UInt16.self)
    let bytes = (target + 4).assumingMemoryBound(to: UInt8.self)
    for j in 0..<4 {
        let scale = byte(s.scales[first &+ j]), low = byte(s.mins[first &+ j])
        let scale4 = byte(s.scales[first &+ j &+ 4]), low4 = byte(s.mins[first &+ j &+ 4])
        bytes[j] = scale | (scale4 &>> 4) &<< 6
        bytes[j &+ 4] = low | (low4 &>> 4) &<< 6
        bytes[j &+ 8] = (scale4 & 15) | (low4 & 15) &<< 4
    }
}

@inline(__always) private func byte(_ v: Float) -> UInt8 { UInt8(truncatingIfNeeded: Int32(v)) }

/// Two neighbouring lanes share 32 bytes: the even one's codes in the low nibbles.
@inline(__always)
private func storeSuperCodes(_ b: i4q_block_batch, _ batch: Batch) {
    for index in 0..<8 {
        let words = codeWord(batch, index)
        for pair in 0..<Int(b.lane_count) / 2 {
            let target = UnsafeMutableRawPointer(b.blocks.unsafelyUnwrapped) + (pair / 4 &* 144 &+ 16 &+ (pair & 3) &* 32 &+ 4 &* index)
            target.storeBytes(of: words[2 &* pair] | words[2 &* pair &+ 1] &<< 4, as: UInt32.self)
        }
    }
}

// MARK: MXFP4 and NVFP4

@inline(never)
private func quantizeE2M1(_ b: i4q_block_batch, _ batch: Batch, _ extremes: Extremes) -> Int64 {
    let isMX = b.format == Format.mxfp4
    let largest = floats(fromBits: extremes.largest)
    var codes = InlineArray<16, UInt8>(repeating: 0)
    for lane in 0..<lanes { codes[lane] = isMX ? e8m0(largest[lane]) : ue4m3(largest[lane] / 6) }
    if b.search != 0 { chooseExponents(batch, &codes, isMX) }
    var scale = nothing
    for lane in 0..<lanes { scale[lane] = isMX ? halfOfE8M0(codes[lane]) : halfOfUE4M3(codes[lane]) }
    // Beyond this errors round to the same, and the order in which values are tried decides.
    if any(largest .> times(scale, all(0x1p20))) {
        for i in 0..<batch.depth { batch.set(level: i4q_e2m1_tried_code(batch.value(i), scale), i) }
    } else {
        for i in 0..<batch.depth { batch.set(level: i4q_e2m1_code(batch.value(i), scale), i) }
    }
    let blocks = b.blocks.unsafelyUnwrapped
    if isMX {
        for lane in 0..<Int(b.lane_count) { blocks[lane &* 17] = codes[lane] }
        storeCodes(b, batch, blockBytes: 17, head: 1)
        return 0
    }
    for lane in 0..<Int(b.lane_count) { blocks[lane / 4 &* 36 &+ lane % 4] = codes[lane] }
    for index in 0..<2 {
        let words = codeWord(batch, index) | codeWord(batch, index &+ 2) &<< Words(repeating: 4)
        let target = UnsafeMutableRawPointer(blocks) + (4 &+ 4 &* index)
        for lane in 0..<Int(b.lane_count) { (target + (lane / 4 &* 36 &+ lane % 4 &* 8)).storeBytes(of: words[lane], as: UInt32.self) }
    }
    return 0
}

/// The stored scale, among some below and above, with the smallest error.
@inline(__always)
private func chooseExponents(_ batch: Batch, _ codes: inout InlineArray<16, UInt8>, _ isMX: Bool) {
    let start = codes
    var least = all(.infinity)
    for trial in 0..<(isMX ? 3 : 9) {
        var scale = nothing, tried = start
        for lane in 0..<lanes {
            // The plain one first: it wins ties.
            let shift = trial == 0 ? 0 : isMX ? (trial == 1 ? -1 : 1) : trial < 3 ? trial &- 3 : trial &- 2
            let code = min(max(Int(start[lane]) &+ shift, isMX ? 0 : 1), isMX ? 254 : 126)
            tried[lane] = trial == 0 ? start[lane] : UInt8(truncatingIfNeeded: code)
            scale[lane] = isMX ? halfOfE8M0(tried[lane]) : halfOfUE4M3(tried[lane])
        }
        var error = nothing
        for i in 0..<batch.depth {
            let difference = minus(times(scale, i4q_e2m1_value(batch.value(i), scale)), batch.value(i))
            error = i4q_add_product(error, times(batch.weight(i), difference), difference)
        }
        for lane in 0..<lanes where error[lane] < least[lane] {
            least[lane] = error[lane]
            codes[lane] = tried[lane]
        }
    }
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
    code < 2 ? Float(bitPattern: 0x0020_0000 &<< UInt32(code)) : Float(bitPattern: UInt32(code &- 1) &<< 23)
}

/// Half up; as ggml does it.
@inline(__always)
private func ue4m3(_ v: Float) -> UInt8 {
    if !(v > 0) { return 0 }
    let bounded = min(v, 448)
    let exponent = Int32(bounded.bitPattern &>> 23) &- 120
    if exponent <= 0 { return UInt8(truncatingIfNeeded: min(Int32(bounded * 512 + 0.5), 7)) }
    // A carry out of the fraction runs into the exponent. From 248 on ggml takes the largest.
    let rounded = Int32((bounded.bitPattern &+ 0x8_0000) &>> 20) &- 120 &* 8
    return rounded >= 0x78 ? 0x7e : UInt8(truncatingIfNeeded: rounded)
}

@inline(__always)
private func halfOfUE4M3(_ code: UInt8) -> Float {
    if code == 0 || code == 0x7f { return 0 }
    if code < 8 { return Float(code) * 0x1p-10 }
    return Float(bitPattern: (UInt32(code) &+ 119 &* 8) &<< 20)
}
