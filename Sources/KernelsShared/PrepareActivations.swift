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

func prepareF32(_ a: i4q_activations) { prepareFloats(a) { $0 } }

/// BF16 mode where F32's kernels do the rest.
func prepareRounded(_ a: i4q_activations) { prepareFloats(a) { widenBFloats(narrowToBFloats($0)) } }

@inline(__always)
private func prepareFloats(_ a: i4q_activations, _ rounded: (Floats) -> Floats) {
    prepareGroups(a, elementBytes: 4, rounded) { values, pointer in pointer.storeBytes(of: values, as: Floats.self) }
}

/// BF16 mode with products of bfloat16.
func prepareBFloats(_ a: i4q_activations) {
    prepareGroups(a, elementBytes: 2, { widenBFloats(narrowToBFloats($0)) }) { values, pointer in
        pointer.storeBytes(of: narrowToBFloats(values), as: Halves.self)
    }
}

@inline(__always)
private func prepareGroups(_ a: i4q_activations, elementBytes: Int, _ rounded: (Floats) -> Floats,
                           _ store: (Floats, UnsafeMutableRawPointer) -> Void) {
    let source = a.source.unsafelyUnwrapped
    let prepared = UnsafeMutableRawPointer(a.prepared.unsafelyUnwrapped)
    let k = Int(a.k), padded = Int(a.k_padded), groupSize = Int(a.group_size)
    let sums = prepared + Int(a.sums_offset)
    for group in 0..<Int(a.group_count) {
        var partial = Floats(repeating: 0)
        var index = group &* groupSize
        let end = min(index &+ groupSize, padded)
        while index < end {
            let values = rounded(loadElements(source, a.source_type, index, count: max(k &- index, 0)))
            partial += values
            store(values, prepared + index &* elementBytes)
            index &+= lanes
        }
        sums.storeBytes(of: sumLanes(partial), toByteOffset: group &* 4, as: Float.self)
    }
    zeroBytes(prepared, from: min(Int(a.group_count) &* groupSize, padded) &* elementBytes, to: padded &* elementBytes)
}

func prepareInt8(_ a: i4q_activations) {
    let prepared = UnsafeMutableRawPointer(a.prepared.unsafelyUnwrapped)
    let padded = Int(a.k_padded), groupSize = Int(a.group_size)
    let parameters = prepared + Int(a.scales_offset)
    for group in 0..<Int(a.group_count) {
        let begin = group &* groupSize
        let end = min(begin &+ groupSize, padded)
        let magnitude = largestMagnitude(a, begin, end)
        let step = a.steps.map { givenStep($0[group &* Int(a.steps_stride)], magnitude) } ?? quantizationStep(magnitude)
        let sum = quantizeGroup(a, begin, end, inverse: step.inverse)
        parameters.storeBytes(of: step.scale, toByteOffset: group &* 8, as: Float.self)
        parameters.storeBytes(of: sum &* a.share_factor, toByteOffset: group &* 8 &+ 4, as: Int32.self)
    }
    zeroBytes(prepared, from: min(Int(a.group_count) &* groupSize, padded), to: padded)
}

/// The largest |x| as a bit pattern: among patterns without a sign, infinity and then NaN are the largest.
@inline(__always)
private func largestMagnitude(_ a: i4q_activations, _ begin: Int, _ end: Int) -> UInt32 {
    var largest = Words(repeating: 0)
    var index = begin
    while index < end {
        let values = loadElements(a.source.unsafelyUnwrapped, a.source_type, index, count: max(Int(a.k) &- index, 0))
        largest = i4q_larger_magnitude(largest, values)
        index &+= lanes
    }
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
    let output = UnsafeMutableRawPointer(a.prepared.unsafelyUnwrapped)
    if inverse == 0 {
        zeroBytes(output, from: begin, to: end)
        return 0
    }
    var sums = Ints(repeating: 0)
    var index = begin
    while index < end {
        let values = loadElements(a.source.unsafelyUnwrapped, a.source_type, index, count: max(Int(a.k) &- index, 0))
        let steps = i4q_clip(values * Floats(repeating: inverse), Floats(repeating: -127), Floats(repeating: 127))
        let codes = roundToIntegers(steps)
        sums &+= codes
        output.storeBytes(of: i4q_interleaved_bytes(codes), toByteOffset: index, as: SIMD16<UInt8>.self)
        index &+= lanes
    }
    return i4q_sum_of_lanes(sums)
}

@inline(__always)
func zeroBytes(_ pointer: UnsafeMutableRawPointer, from: Int, to: Int) {
    if from < to { (pointer + from).initializeMemory(as: UInt8.self, repeating: 0, count: to &- from) }
}
