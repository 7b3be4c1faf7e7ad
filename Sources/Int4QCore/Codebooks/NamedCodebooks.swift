// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// Writes a codebook that has a name. Sources: docs/quantizers.md.
public func writeCodebook(_ which: Int32, to values: UnsafeMutablePointer<Float>) throws(Failure) {
    switch which {
    case int32(INT4Q_CODEBOOK_NF4):
        let table: InlineArray<16, Float> = [
            -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
            -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
            0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
        ]
        for code in 0..<16 { values[code] = table[code] }
    case int32(INT4Q_CODEBOOK_FP4_E2M1): writeSigned([0, 0.5, 1, 1.5, 2, 3, 4, 6], to: values)
    case int32(INT4Q_CODEBOOK_FP4_BITSANDBYTES):
        // Twelfths, and the first one a sixteenth of a twelfth.
        writeSigned([0, 0.0625 / 12, 8.0 / 12, 1, 4.0 / 12, 0.5, 2.0 / 12, 0.25], to: values)
    case int32(INT4Q_CODEBOOK_FP4_RADIX4): writeSigned([0, 0x1p-6, 0x1p-4, 0x1p-2, 1, 4, 16, 64], to: values)
    case int32(INT4Q_CODEBOOK_POWERS_OF_TWO):
        writeSigned([0x1p-7, 0x1p-6, 0x1p-5, 0x1p-4, 0x1p-3, 0x1p-2, 0x1p-1, 1], to: values)
        values[0] = 0
    case int32(INT4Q_CODEBOOK_SEVEN_POWERS_OF_TWO): writeSigned([0, 0x1p-6, 0x1p-5, 0x1p-4, 0x1p-3, 0x1p-2, 0x1p-1, 1], to: values)
    case int32(INT4Q_CODEBOOK_IQ4_NL):
        let table: InlineArray<16, Int8> = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
        for code in 0..<16 { values[code] = Float(table[code]) }
    default: throw .invalid("which", Int64(which), expected: "one of INT4Q_CODEBOOK_*")
    }
}

/// Bit 3 of the code is the sign, of zero too.
private func writeSigned(_ magnitudes: InlineArray<8, Float>, to values: UnsafeMutablePointer<Float>) {
    for code in 0..<8 {
        values[code] = magnitudes[code]
        values[code + 8] = -magnitudes[code]
    }
}

/// The middles of equal bins of a range.
public func writeLinearBins(_ low: Float, _ high: Float, levels: Int32, to values: UnsafeMutablePointer<Float>) throws(Failure) {
    if levels != 15 && levels != 16 { throw .invalid("levels", Int64(levels), expected: "15 or 16") }
    if !low.isFinite { throw Failure(INT4Q_ERROR_NOT_FINITE, "min", .text("NaN or infinite"), expected: "a finite number") }
    if !high.isFinite { throw Failure(INT4Q_ERROR_NOT_FINITE, "max", .text("NaN or infinite"), expected: "a finite number") }
    if !(low < high) { throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "max", .text("not above min"), expected: "a number above min") }
    let width = (Double(high) - Double(low)) / Double(levels)
    for code in 0..<16 { values[code] = Float(Double(low) + (Double(min(code, Int(levels) - 1)) + 0.5) * width) }
}
