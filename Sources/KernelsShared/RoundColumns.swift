// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// GPTQ's inner loop: columns of 16 rows are rounded one after the other, and each one's error is spread over those after it. Gives
// the codes that encodeRun gives, and the values that decodeRun does.

func roundColumns(_ r: i4q_column_rounding) {
    let current = UnsafeMutableRawPointer(r.current.unsafelyUnwrapped), factor = UnsafeRawPointer(r.factor.unsafelyUnwrapped)
    for column in Int(r.begin)..<Int(r.end) {
        let group = Int(r.groups.unsafelyUnwrapped[column])
        let weights = UnsafeRawPointer(current).floats(column &* 64)
        let (codes, values) = choose(r, UnsafeRawPointer(r.encodings.unsafelyUnwrapped + group), weights)
        let bytes = i4q_narrow_u32_u8(unsafeBitCast(codes, to: Words.self))
        UnsafeMutableRawPointer(r.codes.unsafelyUnwrapped + column &* lanes).storeBytes(of: bytes, as: SIMD16<UInt8>.self)
        UnsafeMutableRawPointer(r.values.unsafelyUnwrapped).storeBytes(of: values, toByteOffset: column &* 64, as: Floats.self)
        let diagonal = factor.float(place(column, column, r))
        let errors = i4q_divide(i4q_subtract(weights, values), Floats(repeating: diagonal))
        i4q_add_squares_of_lanes(r.losses, errors)
        spread(-errors, from: column, r, current, factor)
    }
}

/// The byte at which an element of the factor stands.
@inline(__always)
private func place(_ row: Int, _ column: Int, _ r: i4q_column_rounding) -> Int {
    ((column / lanes &* Int(r.columns) &+ row) &* lanes &+ column % lanes) &* 4
}

@inline(__always)
private func spread(_ errors: Floats, from column: Int, _ r: i4q_column_rounding, _ current: UnsafeMutableRawPointer,
                    _ factor: UnsafeRawPointer) {
    var next = column &+ 1
    while next < Int(r.columns) {
        let row = factor + place(column, next, r)
        let count = lanes &- next % lanes
        for i in 0..<count {
            let target = (next &+ i) &* 64
            let updated = compactMultiplyAdd(errors, Floats(repeating: row.float(i &* 4)), UnsafeRawPointer(current).floats(target))
            current.storeBytes(of: updated, toByteOffset: target, as: Floats.self)
        }
        next &+= count
    }
}

/// Codes, and the values that they stand for.
@inline(__always)
private func choose(_ r: i4q_column_rounding, _ encoding: UnsafeRawPointer, _ weights: Floats) -> (Ints, Floats) {
    let divisor = encoding.floats(0), offset = encoding.floats(64), gain = encoding.floats(128)
    let scale = encoding.floats(192), shift = encoding.floats(256)
    let zero = unsafeBitCast(encoding.floats(320), to: Ints.self)
    let low = unsafeBitCast(encoding.floats(384), to: Ints.self), high = unsafeBitCast(encoding.floats(448), to: Ints.self)
    if let table = r.table { return lookUp(UnsafeRawPointer(table), i4q_divide(weights, divisor), scale, low, high) }
    var steps: Ints
    if r.ggml_bias != 0 {
        let exact = i4q_subtract(weights, offset) * divisor + Floats(repeating: r.ggml_bias)
        let magnitude = floats(fromBits: bits(exact) & Words(repeating: 0x7fff_ffff))
        // The reciprocal of a subnormal scale is infinite; ggml's conversion then gives 0.
        let usable = i4q_below(magnitude, 1024)
        steps = i4q_truncate_f32(usable)
    } else {
        let limit = Floats(repeating: 1024)
        let bounded = i4q_clip(i4q_divide(i4q_subtract(weights * gain, offset), divisor), -limit, limit)
        steps = unsafeBitCast(i4q_round_and_add(bounded, zero), to: Ints.self)
    }
    steps = i4q_clip_codes(steps, low, high)
    return (steps, compactMultiplyAdd(scale, i4q_float_from_i32(steps &- zero), shift))
}

@inline(never)
private func lookUp(_ table: UnsafeRawPointer, _ steps: Floats, _ scale: Floats, _ low: Ints, _ high: Ints) -> (Ints, Floats) {
    let codes = table + 15 &* 64
    var code = low
    let value = i4q_climb_lanes(table, codes, codes + 16 &* 64, steps, &code)
    return (i4q_clip_codes(code, low, high), scale * value)
}
