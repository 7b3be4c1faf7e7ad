// SPDX-License-Identifier: Apache-2.0

/// A codebook as INT8 mode multiplies by it: signed bytes, and a step that goes into the scale.
///
/// With c = max |codebook|, value v becomes round(levels * v / c). `levels` is the smallest of 1..127 that makes all of them
/// integers already, so that codebooks such as powers of two, FP4 or evenly spaced values lose nothing but the rounding of
/// step = c / levels; 127 if none does. (docs/numerics.md)
struct IntegerCodebook {
    var bytes = SIMD16<Int8>(repeating: 0)
    let levels: Int
    let step: Float

    init(_ codebook: UnsafePointer<Float>) {
        var largest: Float = 0
        for code in 0..<16 { largest = max(largest, codebook[code].magnitude) }
        let c = Double(largest)
        levels = (1...127).first { IntegerCodebook.areIntegers(codebook, times: Double($0), over: c) } ?? 127
        step = largest / Float(levels)
        for code in 0..<16 {
            bytes[code] = Int8(truncatingIfNeeded: Int32(IntegerCodebook.rounded(Double(codebook[code]) * Double(levels) / c)))
        }
    }

    /// The products of a value and of c with at most 127 are exact in binary64, so nothing here is nearly an integer.
    private static func areIntegers(_ codebook: UnsafePointer<Float>, times levels: Double, over c: Double) -> Bool {
        for code in 0..<16 {
            let multiple = Double(codebook[code]) * levels
            if rounded(multiple / c) * c != multiple { return false }
        }
        return true
    }

    /// In binary64, where nothing can overflow; adding 1.5 * 2^52 rounds to an integer, half to even.
    private static func rounded(_ value: Double) -> Double { (value + 0x1.8p52) - 0x1.8p52 }
}
