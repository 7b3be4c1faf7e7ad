// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Quantizes 16 rows of a matrix straight into a block of a blob: a lane is a row, as in the blob, so scales, rounding and
// the packing of nibbles all happen in 16 rows at once. Values are loaded as 16 x 16 squares and transposed.
//
// Gives the codes that GroupParameters and encodeRun give for the schemes that round to nearest; groups that need special
// care are left to them.

/// Values of k kept between finding a group's range and choosing its codes; scratch has room for those of two groups, a square and two encodings.
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

/// Quantizes groups from `first` on and returns the first one that it leaves to others, or the number of groups. What becomes of a group's
/// range, one value after the other, takes longer than all of its squares; so codes of the group before are chosen meanwhile.
func quantizeBlock(_ q: i4q_block_quantization, from first: Int) -> Int {
    var group = first
    while true {
        let isFound = group < Int(q.group_count) && findEncoding(q, KeptGroup(q, group))
        if group > first {
            let before = KeptGroup(q, group &- 1)
            encode(q, before.encoding.pointee, before)
            store(q, before.encoding.pointee, group &- 1)
        }
        if !isFound { return group }
        group &+= 1
    }
}

/// Whether it is not left to others.
@inline(never)
private func findEncoding(_ q: i4q_block_quantization, _ group: KeptGroup) -> Bool {
    guard let found = encoding(q, findRanges(q, group)) else { return false }
    group.encoding.pointee = found
    return true
}

/// A group, and where its values are kept.
private struct KeptGroup {
    let begin: Int
    let end: Int
    let values: UnsafeMutableRawPointer
    /// A square.
    let staging: UnsafeMutableRawPointer
    let encoding: UnsafeMutablePointer<LaneEncoding>

    @inline(__always)
    init(_ q: i4q_block_quantization, _ group: Int) {
        begin = group &* Int(q.group_size)
        end = min(begin &+ Int(q.group_size), Int(q.k))
        values = q.scratch.unsafelyUnwrapped + (group & 1) &* keptDepth &* 64
        staging = q.scratch.unsafelyUnwrapped + 2 &* keptDepth &* 64
        encoding = (staging + lanes &* 64).assumingMemoryBound(to: LaneEncoding.self) + (group & 1)
    }

    /// Or loaded once more, a square at a time.
    var isKept: Bool { end &- begin <= keptDepth }

    /// Where k's value stands, and those behind it in the square.
    @inline(__always)
    func square(_ k: Int) -> UnsafeMutableRawPointer { values + (isKept ? k &- begin : (k &- begin) & (lanes &- 1)) &* 64 }

    /// 16 values of k, if they are not there any more.
    @inline(__always)
    func load(_ q: i4q_block_quantization, _ k: Int) {
        if !isKept && (k &- begin) & (lanes &- 1) == 0 { loadSquare(q, k, into: values, staging) }
    }
}

@inline(__always)
private func encode(_ q: i4q_block_quantization, _ encoding: LaneEncoding, _ group: KeptGroup) {
    if let table = q.table {
        encodeGroup(q, encoding, group, table)
    } else if q.kind == Kind.twin {
        encodeTwins(q, encoding, group)
    } else if let steps = StepsByProducts(q, encoding) {
        encodeGroup(q, encoding, steps, group)
    } else {
        encodeGroup(q, encoding, StepsByQuotients(encoding), group)
    }
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
private func findRanges(_ q: i4q_block_quantization, _ group: KeptGroup) -> LaneRanges {
    q.kind == Kind.symmetric && q.is_signed != 0 ? findRanges(q, group, isSigned: true) : findRanges(q, group, isSigned: false)
}

@inline(__always)
private func findRanges(_ q: i4q_block_quantization, _ group: KeptGroup, isSigned: Bool) -> LaneRanges {
    var ranges = LaneRanges()
    var k = group.begin
    while k < group.end {
        let target = group.square(k)
        loadSquare(q, k, into: target, group.staging)
        let values = UnsafeRawPointer(target), count = min(group.end &- k, lanes)
        if k == group.begin {
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
@_transparent
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
        let low = i4q_smaller(ranges.low, zero), high = i4q_greater(ranges.high, zero)
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

/// A zero group has no codes but its zero point: all its lanes' steps are clipped to nothing. Rows that are not there have
/// code 0, too.
@_transparent
private func encoding(_ q: i4q_block_quantization, scale: Floats, offset: Floats, low: Floats, high: Floats, zero: Ints) -> LaneEncoding {
    LaneEncoding(scale: scale, offset: offset, low: i4q_unless_zero(scale, low), high: i4q_unless_zero(scale, high),
                 zero: i4q_first_lanes(zero, q.row_count))
}

@_transparent
private func withTable(_ q: i4q_block_quantization, _ scale: Floats) -> LaneEncoding? {
    if !isUsable(scale) { return nil }
    let none = Floats(repeating: 0), used = firstLanes(q, scale)
    let keep = unsafeBitCast(i4q_unless_zero(used, floats(fromBits: Words(repeating: 0xffff_ffff))), to: Ints.self)
    return LaneEncoding(scale: used, low: none, high: none, zero: keep)
}

@_transparent
private func symmetric(_ q: i4q_block_quantization, _ scale: Floats) -> LaneEncoding? {
    if !isUsable(scale) { return nil }
    return encoding(q, scale: scale, offset: Floats(repeating: 0), low: Floats(repeating: Float(q.low &- 8)),
                    high: Floats(repeating: 7), zero: Ints(repeating: 8))
}

@_transparent
private func asymmetric(_ q: i4q_block_quantization, _ low: Floats, _ scale: Floats) -> LaneEncoding? {
    if !isUsable(scale) { return nil }
    let most = Floats(repeating: 15)
    let zero = roundToIntegers(i4q_smaller(i4q_unless_zero(scale, -low / scale), most))
    let zeros = i4q_float_from_i32(zero)
    return encoding(q, scale: scale, offset: Floats(repeating: 0), low: -zeros, high: most - zeros, zero: zero)
}

@_transparent
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
    return withOffset(q, i4q_unless_zero(count, edge), firstLanes(q, scale))
}

@inline(__always)
private func firstLanes(_ q: i4q_block_quantization, _ values: Floats) -> Floats {
    floats(fromBits: unsafeBitCast(i4q_first_lanes(unsafeBitCast(values, to: Ints.self), q.row_count), to: Words.self))
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

/// How many steps values are above the offset.
private protocol Steps {
    @inline(__always) func of(_ values: Floats) -> Floats
}

private struct StepsByQuotients: Steps {
    private let scale: Floats
    private let offset: Floats

    @inline(__always)
    init(_ e: LaneEncoding) {
        scale = e.scale
        offset = e.offset
    }

    @inline(__always) func of(_ values: Floats) -> Floats { i4q_divide(i4q_subtract(values, offset), scale) }
}

/// The same numbers, as far as they are half a step or more, in a fraction of the time. A scale of 16 bits has 11 digits at most. So what
/// the first product leaves has few enough to be exact, and the quotient, unless it is a number of binary32 or the middle of two (which
/// it is not: that has 25 digits), is at least 2^-12 of the distance between two away from each middle; the second product's
/// error is 2^-22 of it. Smaller values may underflow on the way, but to no half step.
private struct StepsByProducts: Steps {
    private let offset: Floats
    private let inverse: Floats
    private let negativeScale: Floats

    /// Nil where they might differ.
    @inline(__always)
    init?(_ q: i4q_block_quantization, _ e: LaneEncoding) {
        if prefersShortCode || q.scale_type == ElementType.f32 || q.is_mlx != 0 { return nil }
        if q.scale_type == ElementType.bf16 && !StepsByProducts.isModerate(e.scale) { return nil }
        offset = e.offset
        inverse = Floats(repeating: 1) / e.scale
        negativeScale = -e.scale
    }

    /// Zero, or such that nothing overflows, and only what is far below half a step underflows.
    @inline(__always)
    private static func isModerate(_ scale: Floats) -> Bool {
        let magnitude = floats(fromBits: magnitudeBits(scale))
        return !any(((magnitude .< Floats(repeating: 0x1p-40)) .& (magnitude .!= Floats(repeating: 0))) .| (magnitude .> Floats(repeating: 0x1p40)))
    }

    /// Where the scale is zero so is the code: NaN and infinity are clipped.
    @inline(__always)
    func of(_ values: Floats) -> Floats {
        let above = i4q_subtract(values, offset), steps = above * inverse
        return fusedMultiplyAdd(fusedMultiplyAdd(steps, negativeScale, above), inverse, steps)
    }
}

@inline(__always)
private func encodeGroup<S: Steps>(_ q: i4q_block_quantization, _ e: LaneEncoding, _ steps: S, _ group: KeptGroup) {
    let block = UnsafeMutableRawPointer(q.block.unsafelyUnwrapped)
    var k = group.begin
    while k < group.end {
        group.load(q, k)
        let square = UnsafeRawPointer(group.square(k))
        if group.end &- k < lanes {
            encodeTail(e, square, block + k &* 8, group.end &- k)
        } else {
            encodeRow(e, steps, square, block + k &* 8)
            encodeRow(e, steps, square + 512, block + (k &* 8 &+ codeRowBytes))
        }
        k &+= lanes
    }
}

/// Eight values of k.
@inline(__always)
private func encodeRow<S: Steps>(_ e: LaneEncoding, _ steps: S, _ values: UnsafeRawPointer, _ target: UnsafeMutableRawPointer) {
    let row = i4q_join_nibbles(
        code(e, steps, values.floats(0)), code(e, steps, values.floats(64)), code(e, steps, values.floats(128)),
        code(e, steps, values.floats(192)), code(e, steps, values.floats(256)), code(e, steps, values.floats(320)),
        code(e, steps, values.floats(384)), code(e, steps, values.floats(448)))
    target.storeBytes(of: row, as: Words.self)
}

@inline(never)
private func encodeTail(_ e: LaneEncoding, _ values: UnsafeRawPointer, _ target: UnsafeMutableRawPointer, _ count: Int) {
    let steps = StepsByQuotients(e)
    var rows = InlineArray<2, Words>(repeating: Words(repeating: 0))
    for k in 0..<count { rows[k / 8] |= code(e, steps, values.floats(k &* 64)) &<< Words(repeating: nibbleShift(k & 7)) }
    target.storeBytes(of: rows[0], as: Words.self)
    if count > 8 { target.storeBytes(of: rows[1], toByteOffset: codeRowBytes, as: Words.self) }
}

/// k +0 +2 +4 +6 in the low half of a lane, +1 +3 +5 +7 in the high half.
@inline(__always)
private func nibbleShift(_ k: Int) -> UInt32 { UInt32(truncatingIfNeeded: (k & 1) &* 16 &+ (k / 2) &* 4) }

@inline(__always)
private func code<S: Steps>(_ e: LaneEncoding, _ steps: S, _ values: Floats) -> Words {
    // NaN (0 / 0: a scale of zero) becomes the lowest step, which is 0 there.
    i4q_round_and_add(i4q_clip(steps.of(values), e.low, e.high), e.zero)
}

/// One value of k at a time: these are few.
@inline(never)
private func encodeTwins(_ q: i4q_block_quantization, _ e: LaneEncoding, _ group: KeptGroup) {
    let block = UnsafeMutableRawPointer(q.block.unsafelyUnwrapped)
    let none = Floats(repeating: 0), never = Floats(repeating: .infinity)
    // What is divided by infinity is zero.
    let negative = e.scale.replacing(with: never, where: e.scale .== none), positive = e.offset.replacing(with: never, where: e.offset .== none)
    var k = group.begin
    while k < group.end {
        group.load(q, k)
        let square = UnsafeRawPointer(group.square(k))
        var row = Words(repeating: 0)
        for i in 0..<min(group.end &- k, codeRowDepth) {
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
private func encodeGroup(_ q: i4q_block_quantization, _ e: LaneEncoding, _ group: KeptGroup, _ table: UnsafePointer<i4q_code_table>) {
    let block = UnsafeMutableRawPointer(q.block.unsafelyUnwrapped)
    var k = group.begin
    while k < group.end {
        group.load(q, k)
        let square = UnsafeRawPointer(group.square(k))
        var row = Words(repeating: 0)
        for i in 0..<min(group.end &- k, codeRowDepth) {
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
    storeElements(i4q_unless_zero(e.scale, e.scale), block + Int(q.scales_offset), q.scale_type, group &* lanes, count: lanes)
    if q.kind == Kind.asymmetric {
        let zeros = i4q_narrow_u32_u8(unsafeBitCast(e.zero, to: Words.self))
        (block + (Int(q.zeros_offset) &+ group &* 16)).storeBytes(of: zeros, as: SIMD16<UInt8>.self)
    } else if q.kind == Kind.offset || q.kind == Kind.twin {
        storeElements(e.offset, block + Int(q.zeros_offset), q.scale_type, group &* lanes, count: lanes)
    }
}
