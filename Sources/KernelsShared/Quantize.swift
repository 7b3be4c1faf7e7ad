// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Range, encoding and decoding of a run of values. Definitions: docs/quantizers.md.

func findRange(_ floats: UnsafePointer<Float>, count: Int) -> i4q_group_range {
    let source = UnsafeRawPointer(floats)
    let first = floats[0]
    var low = Floats(repeating: first), high = Floats(repeating: first)
    var largest = Words(repeating: 0)
    var index = 0
    while index < count {
        var values = loadElements(source, ElementType.f32, index, count: count &- index)
        if count &- index < lanes { values = fillTail(values, from: count &- index, with: first) }
        let magnitude = bits(values) & Words(repeating: 0x7fff_ffff)
        largest = largest.replacing(with: magnitude, where: magnitude .> largest)
        low = low.replacing(with: values, where: values .< low)
        high = high.replacing(with: values, where: values .> high)
        index &+= lanes
    }
    var minimum = low[0], maximum = high[0], magnitude = largest[0]
    for lane in 1..<lanes {
        if low[lane] < minimum { minimum = low[lane] }
        if high[lane] > maximum { maximum = high[lane] }
        magnitude = max(magnitude, largest[lane])
    }
    let bad = magnitude >= 0x7f80_0000 ? firstNotFinite(floats, count) : -1
    return i4q_group_range(min: minimum, max: maximum, first_not_finite: Int64(bad))
}

@inline(__always)
private func fillTail(_ values: Floats, from count: Int, with filler: Float) -> Floats {
    var filled = values
    for lane in count..<lanes { filled[lane] = filler }
    return filled
}

private func firstNotFinite(_ floats: UnsafePointer<Float>, _ count: Int) -> Int {
    for index in 0..<count where floats[index].bitPattern & 0x7f80_0000 == 0x7f80_0000 { return index }
    return -1
}

func encodeRun(_ e: i4q_encoding, _ floats: UnsafePointer<Float>, count: Int, _ codes: UnsafeMutablePointer<UInt8>) {
    let source = UnsafeRawPointer(floats)
    var index = 0
    while index < count {
        let left = count &- index
        let values = loadElements(source, ElementType.f32, index, count: left)
        let chosen = chooseCodes(e, values)
        if e.makes_bytes != 0 {
            storeBytes(chosen, count: min(left, lanes), codes + index)
        } else {
            packNibbles(chosen, count: min(left, lanes), codes + index / 2)
        }
        index &+= lanes
    }
}

@inline(__always)
private func chooseCodes(_ e: i4q_encoding, _ values: Floats) -> Ints {
    if let table = e.table { return code(i4q_divide(values, Floats(repeating: e.scale)), table) }
    if e.ggml_bias != 0 {
        // The reciprocal of a subnormal scale is infinite; ggml's conversion then gives 0.
        let steps = magnitude(ggmlSteps(values, e))
        let usable = steps .< Floats(repeating: 1024)
        return clip(i4q_truncate_f32(Floats(repeating: 0).replacing(with: steps, where: usable)), low: 0, high: 15)
    }
    let steps = (values * Floats(repeating: e.gain) - Floats(repeating: e.offset)) / Floats(repeating: e.scale)
    // A scale that was rounded down in its type can make steps large, never useful ones: keep them where rounding works.
    let limit = Floats(repeating: 1024)
    let bounded = steps.replacing(with: limit, where: steps .> limit).replacing(with: -limit, where: steps .< -limit)
    return clip(roundToIntegers(bounded) &+ Ints(repeating: e.zero), low: e.low, high: e.high)
}

/// (x - offset) * reciprocal + bias, rounded after each operation as ggml's reference is. Never below zero by more than
/// rounding: the offset is the smallest value, or the bias above the largest negative step.
@inline(__always)
private func ggmlSteps(_ values: Floats, _ e: i4q_encoding) -> Floats {
    (values - Floats(repeating: e.offset)) * Floats(repeating: e.reciprocal) + Floats(repeating: e.ggml_bias)
}

@inline(__always)
private func clip(_ codes: Ints, low: Int32, high: Int32) -> Ints {
    let bottom = Ints(repeating: low), top = Ints(repeating: high)
    return codes.replacing(with: top, where: codes .> top).replacing(with: bottom, where: codes .< bottom)
}

/// Codes of values that were divided by their scale.
@inline(__always)
func code(_ values: Floats, _ table: UnsafePointer<i4q_code_table>) -> Ints {
    let limits = UnsafeRawPointer(table)
    var codes = Ints(repeating: table.pointee.first)
    for i in 0..<15 { codes = i4q_step_above(codes, values, limits.float(i &* 4), limits.int32(i &* 4 &+ 64)) }
    return codes
}

@inline(__always)
private func magnitude(_ v: Floats) -> Floats { floats(fromBits: bits(v) & Words(repeating: 0x7fff_ffff)) }

@inline(__always)
private func packNibbles(_ codes: Ints, count: Int, _ output: UnsafeMutablePointer<UInt8>) {
    let pairs = unsafeBitCast(codes, to: SIMD8<UInt64>.self)
    let bytes = (pairs | (pairs &>> SIMD8<UInt64>(repeating: 28))) & SIMD8<UInt64>(repeating: 0xff)
    if count == lanes {
        for i in 0..<8 { output[i] = UInt8(truncatingIfNeeded: bytes[i]) }
        return
    }
    for i in 0..<(count &+ 1) / 2 {
        let byte = UInt8(truncatingIfNeeded: bytes[i])
        output[i] = 2 &* i &+ 1 < count ? byte : byte & 0x0f
    }
}

@inline(__always)
private func storeBytes(_ codes: Ints, count: Int, _ output: UnsafeMutablePointer<UInt8>) {
    let bytes = i4q_narrow_u32_u8(unsafeBitCast(codes, to: Words.self))
    if count == lanes { return UnsafeMutableRawPointer(output).storeBytes(of: bytes, as: SIMD16<UInt8>.self) }
    for i in 0..<count { output[i] = bytes[i] }
}

func decodeRun(_ d: i4q_decoding, _ codes: UnsafePointer<UInt8>, count: Int, _ floats: UnsafeMutablePointer<Float>) {
    let output = UnsafeMutableRawPointer(floats)
    var index = 0
    while index < count {
        let left = count &- index
        let values = decodeLanes(d, d.code_bits == 4 ? loadNibbles(codes + index / 2, count: left)
            : loadCodes(codes + index &* Int(d.code_bits) / 8, bits: Int(d.code_bits), count: left))
        storeElements(values, output, ElementType.f32, index, count: left)
        index &+= lanes
    }
}

/// Up to 16 codes, low nibble first; lanes from `count` on are unspecified. Reads no byte beyond them.
@inline(__always)
private func loadNibbles(_ codes: UnsafePointer<UInt8>, count: Int) -> Ints {
    var bytes = SIMD8<UInt8>(repeating: 0)
    if count >= lanes {
        bytes = UnsafeRawPointer(codes).loadUnaligned(as: SIMD8<UInt8>.self)
    } else {
        for i in 0..<(count &+ 1) / 2 { bytes[i] = codes[i] }
    }
    var nibbles = SIMD16<UInt8>()
    nibbles.evenHalf = bytes & SIMD8<UInt8>(repeating: 15)
    nibbles.oddHalf = bytes &>> SIMD8<UInt8>(repeating: 4)
    return unsafeBitCast(i4q_widen_u8(nibbles), to: Ints.self)
}

/// The same for other widths.
private func loadCodes(_ codes: UnsafePointer<UInt8>, bits: Int, count: Int) -> Ints {
    var bytes = SIMD16<UInt8>(repeating: 0)
    for i in 0..<(min(count, lanes) &* bits &+ 7) / 8 { bytes[i] = codes[i] }
    if bits == 8 { return unsafeBitCast(i4q_widen_u8(bytes), to: Ints.self) }
    let word = unsafeBitCast(bytes, to: SIMD4<UInt32>.self)[0]
    let mask: UInt32 = bits == 1 ? 1 : 3
    var result = Ints(repeating: 0)
    for i in 0..<lanes { result[i] = Int32(truncatingIfNeeded: (word &>> UInt32(truncatingIfNeeded: i &* bits)) & mask) }
    return result
}

@inline(__always)
private func decodeLanes(_ d: i4q_decoding, _ codes: Ints) -> Floats {
    let scale = Floats(repeating: d.scale)
    if let codebook = d.codebook {
        var values = Floats(repeating: 0)
        for lane in 0..<lanes { values[lane] = codebook[Int(codes[lane])] }
        return scale * values
    }
    let steps = i4q_float_from_i32(codes &<< Ints(repeating: d.shift) &- Ints(repeating: d.zero))
    // Adding -0 changes nothing: the other kinds have that for an offset.
    if d.offset.bitPattern == 0x8000_0000 { return scale * steps }
    return fusedMultiplyAdd(scale, steps, Floats(repeating: d.offset))
}
