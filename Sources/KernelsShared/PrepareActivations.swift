// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Turns a row of activations into what the tile kernels read; the layouts stand in int4q_kernels.h.

/// The fixed order in which a group's 16 partial sums become one.
@inline(__always)
func sumLanes(_ v: Floats) -> Float {
    let eight = v.lowHalf + v.highHalf
    let four = eight.lowHalf + eight.highHalf
    let two = four.lowHalf + four.highHalf
    return two[0] + two[1]
}

/// Where a row's bytes stand: lines of 64, perhaps with other rows' between them.
private struct RowPlaces {
    private let base: UnsafeMutableRawPointer
    private let lineStride: Int

    @inline(__always)
    init(_ a: i4q_activations) {
        base = UnsafeMutableRawPointer(a.prepared.unsafelyUnwrapped)
        lineStride = Int(a.line_stride)
    }

    @inline(__always)
    func at(_ offset: Int) -> UnsafeMutableRawPointer { base + ((offset &>> 6) &* lineStride &+ (offset & 63)) }

    /// Multiples of 16.
    @inline(__always)
    func zero(from: Int, to: Int) {
        var offset = from
        while offset < to {
            at(offset).storeBytes(of: SIMD16<UInt8>(repeating: 0), as: SIMD16<UInt8>.self)
            offset &+= 16
        }
    }
}

/// Every 16 values of a range of k, with zeros behind the last. Those that are there whole come first, in a loop without a call: there
/// what `use` adds up stays in registers.
@inline(__always)
private func eachVector(_ a: i4q_activations, _ range: Range<Int>, _ use: (_ values: Floats, _ index: Int) -> Void) {
    let source = a.source.unsafelyUnwrapped, whole = min(range.upperBound, Int(a.k) & ~(lanes &- 1))
    var index = range.lowerBound
    while index < whole {
        use(loadElements(source, a.source_type, index), index)
        index &+= lanes
    }
    while index < range.upperBound {
        use(loadTail(source, a.source_type, index, count: max(Int(a.k) &- index, 0)), index)
        index &+= lanes
    }
}

/// What becomes of activations in the modes of floats.
private protocol ActivationFormat {
    associatedtype Stored
    static var bytes: Int { get }
    static func stored(_ values: Floats) -> Stored
    static func floats(_ stored: Stored) -> Floats
}

private enum AsTheyAre: ActivationFormat {
    static var bytes: Int { 4 }
    @inline(__always) static func stored(_ values: Floats) -> Floats { values }
    @inline(__always) static func floats(_ stored: Floats) -> Floats { stored }
}

private enum RoundedToBFloats: ActivationFormat {
    static var bytes: Int { 4 }
    @inline(__always) static func stored(_ values: Floats) -> Floats { widenBFloats(narrowToBFloats(values)) }
    @inline(__always) static func floats(_ stored: Floats) -> Floats { stored }
}

private enum BFloats: ActivationFormat {
    static var bytes: Int { 2 }
    @inline(__always) static func stored(_ values: Floats) -> Halves { narrowToBFloats(values) }
    @inline(__always) static func floats(_ stored: Halves) -> Floats { widenBFloats(stored) }
}

func prepareF32(_ a: i4q_activations) { prepareFloats(a, AsTheyAre.self) }

/// BF16 mode where F32's kernels do the rest.
func prepareRounded(_ a: i4q_activations) { prepareFloats(a, RoundedToBFloats.self) }

/// BF16 mode with products of bfloat16.
func prepareBFloats(_ a: i4q_activations) { prepareFloats(a, BFloats.self) }

@inline(__always)
private func prepareFloats<Format: ActivationFormat>(_ a: i4q_activations, _ format: Format.Type) {
    let places = RowPlaces(a), padded = Int(a.k_padded), groupSize = Int(a.group_size)
    let end = min(Int(a.group_count) &* groupSize, padded)
    if a.sums_offset < 0 {
        _ = store(a, 0..<end, format)
    } else {
        for group in 0..<Int(a.group_count) {
            let begin = group &* groupSize
            let sum = sumLanes(store(a, begin..<min(begin &+ groupSize, end), format))
            places.at(Int(a.sums_offset) &+ group &* 4).storeBytes(of: sum, as: Float.self)
        }
    }
    places.zero(from: end &* Format.bytes, to: padded &* Format.bytes)
}

/// Stores a range of k; returns the 16 partial sums of what was stored.
@inline(__always)
private func store<Format: ActivationFormat>(_ a: i4q_activations, _ range: Range<Int>, _ format: Format.Type) -> Floats {
    let places = RowPlaces(a)
    var partial = Floats(repeating: 0)
    eachVector(a, range) { values, index in
        let stored = Format.stored(values)
        places.at(index &* Format.bytes).storeBytes(of: stored, as: Format.Stored.self)
        partial += Format.floats(stored)
    }
    return partial
}

func prepareInt8(_ a: i4q_activations) {
    let places = RowPlaces(a), padded = Int(a.k_padded), groupSize = Int(a.group_size)
    for group in 0..<Int(a.group_count) {
        let begin = group &* groupSize
        let end = min(begin &+ groupSize, padded)
        let magnitude = largestMagnitude(a, begin, end)
        let step = a.steps.map { givenStep($0[group &* Int(a.steps_stride)], magnitude) } ?? quantizationStep(magnitude)
        let sum = quantizeGroup(a, begin, end, inverse: step.inverse)
        let parameters = places.at(Int(a.scales_offset) &+ group &* 8)
        parameters.storeBytes(of: step.scale, as: Float.self)
        parameters.storeBytes(of: sum &* a.share_factor, toByteOffset: 4, as: Int32.self)
    }
    places.zero(from: min(Int(a.group_count) &* groupSize, padded), to: padded)
}

/// The largest |x| as a bit pattern: among patterns without a sign, infinity and then NaN are the largest.
@inline(__always)
private func largestMagnitude(_ a: i4q_activations, _ begin: Int, _ end: Int) -> UInt32 {
    var largest = Words(repeating: 0)
    eachVector(a, begin..<end) { values, _ in largest = i4q_larger_magnitude(largest, values) }
    return i4q_largest_lane(largest)
}

/// The scale of a group of activations and what to multiply by. A row that is not finite gets a NaN scale, which makes
/// its results NaN; groups below 2^-100, whose inverse could overflow, count as zeros.
@inline(__always)
private func quantizationStep(_ magnitudeBits: UInt32) -> (scale: Float, inverse: Float) {
    if magnitudeBits >= 0x7f80_0000 { return (Float.nan, 0) }
    let magnitude = Float(bitPattern: magnitudeBits)
    if magnitude < 0x1p-100 { return (0, 0) }
    return (magnitude / 127, 127 / magnitude)
}

/// The same for a scale of the caller.
@inline(__always)
private func givenStep(_ step: Float, _ magnitudeBits: UInt32) -> (scale: Float, inverse: Float) {
    magnitudeBits >= 0x7f80_0000 ? (Float.nan, 0) : (step, 1 / step)
}

/// Scales of the caller may be too small for a value: hence the limits. Bytes are stored as k0 k4 k1 k5 k2 k6 k3 k7: a lane's low
/// nibbles hold k0 k4 k1 k5, its high ones k2 k6 k3 k7 (see docs/blob-format.md for the order and its reason).
@inline(__always)
private func quantizeGroup(_ a: i4q_activations, _ begin: Int, _ end: Int, inverse: Float) -> Int32 {
    let places = RowPlaces(a)
    if inverse == 0 {
        places.zero(from: begin, to: end)
        return 0
    }
    var sums = Ints(repeating: 0)
    eachVector(a, begin..<end) { values, index in
        let steps = i4q_clip(values * Floats(repeating: inverse), Floats(repeating: -127), Floats(repeating: 127))
        let codes = roundToIntegers(steps)
        sums &+= codes
        places.at(index).storeBytes(of: i4q_interleaved_bytes(codes), as: SIMD16<UInt8>.self)
    }
    return i4q_sum_of_lanes(sums)
}

@inline(__always)
func zeroBytes(_ pointer: UnsafeMutableRawPointer, from: Int, to: Int) {
    if from < to { (pointer + from).initializeMemory(as: UInt8.self, repeating: 0, count: to &- from) }
}
