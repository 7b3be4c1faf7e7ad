// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Quantizes 16 rows of a matrix straight into a block of a blob: a lane is a row, as in the blob, so scales, rounding and
// the packing of nibbles all happen in 16 rows at once. Values are loaded as 16 x 16 squares and transposed.
//
// Gives the codes that GroupParameters and encodeRun give for the schemes that round to nearest; groups that need special
// care are left to them.

/// Values of k kept between finding a group's range and choosing its codes; scratch has room for them and one square more.
private let keptDepth = 256

/// Bytes of a row asked for ahead of a square.
private let squareDistance = 512

/// What lanes know of their groups. SYMMETRIC with a signed scale asks for the first value of largest magnitude, other
/// schemes for the ends of the range; all for the largest magnitude, which also finds what is not finite.
private struct LaneRanges {
    var largest = Words(repeating: 0)
    var signedLargest = Floats(repeating: 0)
    var low = Floats(repeating: 0)
    var high = Floats(repeating: 0)
}

/// How lanes turn values into codes: clip(round((x - offset) / scale), low, high) + zero. With a table `zero` is a mask: of
/// ones, or zero where all codes are.
private struct LaneEncoding {
    var scale: Floats
    var offset = Floats(repeating: 0)
    var low: Floats
    var high: Floats
    var zero: Ints
}

/// Quantizes groups from `first` on and returns the first one that it leaves to others, or the number of groups.
func quantizeBlock(_ q: i4q_block_quantization, from first: Int) -> Int {
    let kept = q.scratch.unsafelyUnwrapped
    var group = first
    while group < Int(q.group_count) {
        if !quantizeGroup(q, group, kept) { break }
        group &+= 1
    }
    return group
}

@inline(__always)
private func quantizeGroup(_ q: i4q_block_quantization, _ group: Int, _ kept: UnsafeMutableRawPointer) -> Bool {
    let begin = group &* Int(q.group_size)
    let end = min(begin &+ Int(q.group_size), Int(q.k))
    let isKept = end &- begin <= keptDepth
    let ranges = q.kind == Kind.symmetric && q.is_signed != 0
        ? findRanges(q, begin, end, kept, isKept, true) : findRanges(q, begin, end, kept, isKept, false)
    guard let encoding = encoding(q, ranges) else { return false }
    if let table = q.table {
        encodeGroup(q, encoding, kept, begin, end, isKept, table)
    } else if q.kind == Kind.twin {
        encodeTwins(q, encoding, kept, begin, end, isKept)
    } else if q.kind == Kind.offset {
        encodeGroup(q, encoding, kept, begin, end, isKept, true)
    } else {
        encodeGroup(q, encoding, kept, begin, end, isKept, false)
    }
    store(q, encoding, group)
    return true
}

// MARK: Loading

/// Writes 16 values of k from `k` on, of 16 rows, as [k][row]. What lies beyond the matrix is zero. `staging` is a square.
@inline(never)
private func loadSquare(_ q: i4q_block_quantization, _ k: Int, into target: UnsafeMutableRawPointer, _ staging: UnsafeMutableRawPointer) {
    let source = q.source.unsafelyUnwrapped, stride = Int(q.row_bytes)
    let count = Int(q.k) &- k
    if q.source_type == ElementType.f32 && Int(q.row_count) == lanes && count >= lanes {
        // 16 streams are more than a processor follows by itself; into the second-level cache, where rows of a width that is a
        // power of two do not push each other out.
        for row in 0..<lanes { i4q_prefetch_far(source + (row &* stride &+ k &* 4 &+ squareDistance)) }
        transposeSquare(source + k &* 4, stride, into: target)
        return
    }
    for row in 0..<lanes {
        let isThere = row < Int(q.row_count)
        let values = isThere ? loadElements(source + row &* stride, q.source_type, k, count: count) : Floats(repeating: 0)
        staging.storeBytes(of: values, toByteOffset: row &* 64, as: Floats.self)
    }
    transposeSquare(staging, 64, into: target)
}

@inline(__always)
private func findRanges(_ q: i4q_block_quantization, _ begin: Int, _ end: Int, _ kept: UnsafeMutableRawPointer, _ isKept: Bool,
                        _ isSigned: Bool) -> LaneRanges {
    var ranges = LaneRanges()
    var k = begin
    while k < end {
        let target = isKept ? kept + (k &- begin) &* 64 : kept
        loadSquare(q, k, into: target, kept + keptDepth &* 64)
        let values = UnsafeRawPointer(target), count = min(end &- k, lanes)
        if k == begin {
            ranges.signedLargest = values.floats(0)
            ranges.low = ranges.signedLargest
            ranges.high = ranges.signedLargest
        }
        if isSigned { findSigned(&ranges, values, count) } else { findEnds(&ranges, values, count) }
        k &+= lanes
    }
    return ranges
}

@inline(__always)
private func findSigned(_ ranges: inout LaneRanges, _ values: UnsafeRawPointer, _ count: Int) {
    var largest = ranges.largest, signed = ranges.signedLargest
    for i in 0..<count {
        let value = values.floats(i &* 64)
        signed = i4q_value_if_larger(largest, signed, value)
        largest = i4q_larger_magnitude(largest, value)
    }
    ranges.largest = largest
    ranges.signedLargest = signed
}

@inline(__always)
private func findEnds(_ ranges: inout LaneRanges, _ values: UnsafeRawPointer, _ count: Int) {
    var largest = ranges.largest, low = ranges.low, high = ranges.high
    for i in 0..<count {
        let value = values.floats(i &* 64)
        largest = i4q_larger_magnitude(largest, value)
        low = i4q_smaller(low, value)
        high = i4q_greater(high, value)
    }
    ranges.largest = largest
    ranges.low = low
    ranges.high = high
}

// MARK: Scales

/// Nil where a lane is not finite, is constant where that is a case of its own, or has a scale that its type cannot hold.
@inline(__always)
private func encoding(_ q: i4q_block_quantization, _ ranges: LaneRanges) -> LaneEncoding? {
    let zero = Floats(repeating: 0)
    let magnitude = floats(fromBits: ranges.largest)
    // Comparing without a sign: infinity and NaN are the largest. Far below, so that differences are finite too.
    if any(magnitude .> Floats(repeating: 0x1p100)) || any(ranges.largest .> Words(repeating: 0x7f80_0000)) { return nil }
    if q.kind == Kind.symmetric && q.is_signed != 0 {
        return symmetric(q, rounded(ranges.signedLargest / Floats(repeating: -8), q.scale_type))
    }
    let isConstant = (ranges.low .== ranges.high) .& (ranges.low .!= zero)
    switch q.kind {
    case Kind.symmetric, Kind.codebook:
        let scale = rounded(magnitude / Floats(repeating: q.divisor), q.scale_type)
        if q.table != nil { return withTable(q, q.divisor == 0 ? Floats(repeating: 1) : scale) }
        return any(isConstant) ? nil : symmetric(q, scale)
    case Kind.asymmetric:
        if any(isConstant) { return nil }
        let low = ranges.low.replacing(with: zero, where: ranges.low .> zero)
        let high = ranges.high.replacing(with: zero, where: ranges.high .< zero)
        return asymmetric(q, low, rounded((high - low) / Floats(repeating: 15), q.scale_type))
    case Kind.twin: return twin(q, ranges)
    default:
        if q.is_mlx != 0 { return mlx(q, ranges) }
        let offset = rounded(ranges.low, q.scale_type) + zero
        let scale = rounded((ranges.high - ranges.low) / Floats(repeating: 15), q.scale_type)
        return withOffset(q, offset, scale)
    }
}

@inline(__always)
private func rounded(_ values: Floats, _ type: Int64) -> Floats {
    switch type {
    case ElementType.f16: widenHalves(narrowToHalves(values))
    case ElementType.bf16: widenBFloats(narrowToBFloats(values))
    default: values
    }
}

@inline(__always)
private func isUsable(_ scale: Floats) -> Bool { !any((bits(scale) & Words(repeating: 0x7fff_ffff)) .>= Words(repeating: 0x7f80_0000)) }

@inline(__always)
private var laneNumbers: Ints { Ints(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) }

/// A zero group has no codes but its zero point: all its lanes' steps are clipped to nothing. Rows that are not there have
/// code 0, too.
@inline(__always)
private func encoding(_ q: i4q_block_quantization, scale: Floats, offset: Floats, low: Floats, high: Floats, zero: Ints) -> LaneEncoding {
    let none = Floats(repeating: 0)
    let isZero = scale .== none
    let isThere = laneNumbers .< Ints(repeating: Int32(truncatingIfNeeded: q.row_count))
    return LaneEncoding(scale: scale, offset: offset, low: low.replacing(with: none, where: isZero),
                        high: high.replacing(with: none, where: isZero), zero: Ints(repeating: 0).replacing(with: zero, where: isThere))
}

@inline(__always)
private func withTable(_ q: i4q_block_quantization, _ scale: Floats) -> LaneEncoding? {
    if !isUsable(scale) { return nil }
    let none = Floats(repeating: 0)
    let isThere = laneNumbers .< Ints(repeating: Int32(truncatingIfNeeded: q.row_count))
    let used = none.replacing(with: scale, where: isThere)
    let keep = Ints(repeating: -1).replacing(with: Ints(repeating: 0), where: used .== none)
    return LaneEncoding(scale: used, low: none, high: none, zero: keep)
}

@inline(__always)
private func symmetric(_ q: i4q_block_quantization, _ scale: Floats) -> LaneEncoding? {
    if !isUsable(scale) { return nil }
    let none = Floats(repeating: 0)
    return encoding(q, scale: scale, offset: none, low: Floats(repeating: Float(q.low &- 8)),
                    high: Floats(repeating: 7), zero: Ints(repeating: 8))
}

@inline(__always)
private func asymmetric(_ q: i4q_block_quantization, _ low: Floats, _ scale: Floats) -> LaneEncoding? {
    if !isUsable(scale) { return nil }
    let none = Floats(repeating: 0), most = Floats(repeating: 15)
    let steps = (-low / scale).replacing(with: none, where: scale .== none)
    let zero = roundToIntegers(steps.replacing(with: most, where: steps .> most))
    let zeros = i4q_float_from_i32(zero)
    return encoding(q, scale: scale, offset: none, low: -zeros, high: most - zeros, zero: zero)
}

@inline(__always)
private func withOffset(_ q: i4q_block_quantization, _ offset: Floats, _ scale: Floats) -> LaneEncoding? {
    if !isUsable(rounded(scale, q.scale_type)) || !isUsable(rounded(offset, q.scale_type)) { return nil }
    return encoding(q, scale: scale, offset: offset, low: Floats(repeating: 0), high: Floats(repeating: 15),
                    zero: Ints(repeating: 0))
}

/// GroupParameters.mlxOffset. The scale is not rounded yet: storing it does that.
@inline(never)
private func mlx(_ q: i4q_block_quantization, _ ranges: LaneRanges) -> LaneEncoding? {
    let none = Floats(repeating: 0)
    let startsLow = floats(fromBits: magnitudeBits(ranges.low)) .> floats(fromBits: magnitudeBits(ranges.high))
    let edge = ranges.high.replacing(with: ranges.low, where: startsLow)
    let span = (ranges.high - ranges.low) / Floats(repeating: 15), least = Floats(repeating: 1e-7)
    let width = span.replacing(with: least, where: span .< least)
    let step = (-width).replacing(with: width, where: startsLow)
    let count = wholeSteps(edge / step)
    let scale = (edge / count).replacing(with: step, where: count .== none)
    // Rows that are not there have zeros for everything.
    let isThere = laneNumbers .< Ints(repeating: Int32(truncatingIfNeeded: q.row_count))
    return withOffset(q, edge.replacing(with: none, where: count .== none), none.replacing(with: scale, where: isThere))
}

@inline(__always) private func magnitudeBits(_ v: Floats) -> Words { bits(v) & Words(repeating: 0x7fff_ffff) }

/// Rounded half to even, at any magnitude: adding 2^23 leaves no room for fractions, and beyond there are none.
@inline(__always)
private func wholeSteps(_ v: Floats) -> Floats {
    let magnitude = floats(fromBits: magnitudeBits(v)), magic = Floats(repeating: 0x1p23)
    let whole = bits((magnitude + magic) - magic) | (bits(v) & Words(repeating: 0x8000_0000))
    return floats(fromBits: whole).replacing(with: v, where: magnitude .>= magic)
}

/// The scale of values below zero in the place of the scale, that of the others in the place of the offset.
@inline(never)
private func twin(_ q: i4q_block_quantization, _ ranges: LaneRanges) -> LaneEncoding? {
    let none = Floats(repeating: 0)
    let below = (-ranges.low).replacing(with: none, where: ranges.low .> none)
    let above = ranges.high.replacing(with: none, where: ranges.high .< none)
    let seventh = (above / Floats(repeating: 7)).replacing(with: above, where: ranges.low .== ranges.high)
    let negative = rounded(below / Floats(repeating: 8), q.scale_type), positive = rounded(seventh, q.scale_type)
    if !isUsable(negative) || !isUsable(positive) { return nil }
    return LaneEncoding(scale: negative, offset: positive, low: Floats(repeating: -8), high: Floats(repeating: 7), zero: Ints(repeating: 8))
}

// MARK: Codes

@inline(__always)
private func encodeGroup(_ q: i4q_block_quantization, _ e: LaneEncoding, _ kept: UnsafeMutableRawPointer, _ begin: Int, _ end: Int,
                         _ isKept: Bool, _ hasOffset: Bool) {
    let block = UnsafeMutableRawPointer(q.block.unsafelyUnwrapped)
    var k = begin
    while k < end {
        if !isKept { loadSquare(q, k, into: kept, kept + keptDepth &* 64) }
        let square = UnsafeRawPointer(kept) + (isKept ? (k &- begin) &* 64 : 0)
        if end &- k < lanes {
            encodeTail(e, square, block + k &* 8, end &- k, hasOffset)
        } else {
            encodeRow(e, square, block + k &* 8, hasOffset)
            encodeRow(e, square + 512, block + (k &* 8 &+ codeRowBytes), hasOffset)
        }
        k &+= lanes
    }
}

/// Eight values of k.
@inline(__always)
private func encodeRow(_ e: LaneEncoding, _ values: UnsafeRawPointer, _ target: UnsafeMutableRawPointer, _ hasOffset: Bool) {
    let row = i4q_join_nibbles(
        code(e, values.floats(0), hasOffset), code(e, values.floats(64), hasOffset), code(e, values.floats(128), hasOffset),
        code(e, values.floats(192), hasOffset), code(e, values.floats(256), hasOffset), code(e, values.floats(320), hasOffset),
        code(e, values.floats(384), hasOffset), code(e, values.floats(448), hasOffset))
    target.storeBytes(of: row, as: Words.self)
}

@inline(never)
private func encodeTail(_ e: LaneEncoding, _ values: UnsafeRawPointer, _ target: UnsafeMutableRawPointer, _ count: Int,
                        _ hasOffset: Bool) {
    var rows = InlineArray<2, Words>(repeating: Words(repeating: 0))
    for k in 0..<count { rows[k / 8] |= code(e, values.floats(k &* 64), hasOffset) &<< Words(repeating: nibbleShift(k & 7)) }
    target.storeBytes(of: rows[0], as: Words.self)
    if count > 8 { target.storeBytes(of: rows[1], toByteOffset: codeRowBytes, as: Words.self) }
}

/// k +0 +2 +4 +6 in the low half of a lane, +1 +3 +5 +7 in the high half.
@inline(__always)
private func nibbleShift(_ k: Int) -> UInt32 { UInt32(truncatingIfNeeded: (k & 1) &* 16 &+ (k / 2) &* 4) }

@inline(__always)
private func code(_ e: LaneEncoding, _ values: Floats, _ hasOffset: Bool) -> Words {
    let steps = i4q_divide(hasOffset ? i4q_subtract(values, e.offset) : values, e.scale)
    // NaN (0 / 0: a scale of zero) becomes the lowest step, which is 0 there.
    return i4q_round_and_add(i4q_clip(steps, e.low, e.high), e.zero)
}

/// One value of k at a time: these are few.
@inline(never)
private func encodeTwins(_ q: i4q_block_quantization, _ e: LaneEncoding, _ kept: UnsafeMutableRawPointer, _ begin: Int, _ end: Int,
                         _ isKept: Bool) {
    let block = UnsafeMutableRawPointer(q.block.unsafelyUnwrapped)
    let none = Floats(repeating: 0), never = Floats(repeating: .infinity)
    // What is divided by infinity is zero.
    let negative = e.scale.replacing(with: never, where: e.scale .== none), positive = e.offset.replacing(with: never, where: e.offset .== none)
    var k = begin
    while k < end {
        if !isKept && (k &- begin) & (lanes &- 1) == 0 { loadSquare(q, k, into: kept, kept + keptDepth &* 64) }
        let square = UnsafeRawPointer(kept) + (isKept ? k &- begin : (k &- begin) & (lanes &- 1)) &* 64
        var row = Words(repeating: 0)
        for i in 0..<min(end &- k, codeRowDepth) {
            let value = square.floats(i &* 64)
            let steps = i4q_divide(value, i4q_pick_by_sign(value, negative, positive))
            let code = i4q_round_and_add(i4q_clip(steps, e.low, e.high), e.zero)
            row = i4q_insert_code(row, unsafeBitCast(code, to: Ints.self), nibbleShift(i))
        }
        (block + k &* 8).storeBytes(of: row, as: Words.self)
        k &+= codeRowDepth
    }
}

/// With a table. One value of k at a time: fifteen comparisons are work enough, and eight times that is a lot of code.
@inline(never)
private func encodeGroup(_ q: i4q_block_quantization, _ e: LaneEncoding, _ kept: UnsafeMutableRawPointer, _ begin: Int, _ end: Int,
                         _ isKept: Bool, _ table: UnsafePointer<i4q_code_table>) {
    let block = UnsafeMutableRawPointer(q.block.unsafelyUnwrapped)
    var k = begin
    while k < end {
        if !isKept && (k &- begin) & (lanes &- 1) == 0 { loadSquare(q, k, into: kept, kept + keptDepth &* 64) }
        let square = UnsafeRawPointer(kept) + (isKept ? k &- begin : (k &- begin) & (lanes &- 1)) &* 64
        var row = Words(repeating: 0)
        for i in 0..<min(end &- k, codeRowDepth) {
            row = i4q_insert_code(row, code(i4q_divide(square.floats(i &* 64), e.scale), table) & e.zero, nibbleShift(i))
        }
        (block + k &* 8).storeBytes(of: row, as: Words.self)
        k &+= codeRowDepth
    }
}

// MARK: Storing

@inline(__always)
private func store(_ q: i4q_block_quantization, _ e: LaneEncoding, _ group: Int) {
    let block = UnsafeMutableRawPointer(q.block.unsafelyUnwrapped)
    // A zero group's scale is +0, whatever its values' signs.
    let isZero = e.scale .== Floats(repeating: 0)
    let scale = e.scale.replacing(with: Floats(repeating: 0), where: isZero)
    storeElements(scale, block + Int(q.scales_offset), q.scale_type, group &* lanes, count: lanes)
    if q.kind == Kind.asymmetric {
        let zeros = i4q_narrow_u32_u8(unsafeBitCast(e.zero, to: Words.self))
        (block + (Int(q.zeros_offset) &+ group &* 16)).storeBytes(of: zeros, as: SIMD16<UInt8>.self)
    } else if q.kind == Kind.offset || q.kind == Kind.twin {
        storeElements(e.offset, block + Int(q.zeros_offset), q.scale_type, group &* lanes, count: lanes)
    }
}
