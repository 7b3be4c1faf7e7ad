// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// The quantizer of textbooks: one scale for a whole array. Definitions and the published package: docs/quantizers.md.
public struct Int4Values {
    public let scale: Float
    public let zeroPoint: Int32
    private let wrapsCodes: Bool

    public init(_ values: UnsafePointer<Float>, count: Int, method: Int32, flags: UInt32) throws(Failure) {
        let isAbsmax = method == int32(INT4Q_INT4_ABSMAX)
        if !isAbsmax && method != int32(INT4Q_INT4_MINMAX) {
            throw .invalid("method", Int64(method), expected: "INT4Q_INT4_MINMAX or INT4Q_INT4_ABSMAX")
        }
        if flags & ~UInt32(INT4Q_INT4_PUBLISHED) != 0 {
            throw .invalid("flags", Int64(flags), expected: "INT4Q_INT4_PUBLISHED or 0")
        }
        var low = values[0], high = values[0]
        for index in 0..<count {
            let value = values[index]
            if !value.isFinite {
                throw Failure(INT4Q_ERROR_NOT_FINITE, "values", .listed(index: Int64(index), value), expected: "finite values")
            }
            low = min(low, value)
            high = max(high, value)
        }
        wrapsCodes = flags != 0
        if isAbsmax {
            scale = usable(max(low.magnitude, high.magnitude) / 7)
            zeroPoint = 0
        } else if wrapsCodes {
            scale = usable((high - low) / 15)
            zeroPoint = 0
            if !scale.isFinite {
                throw Failure(INT4Q_ERROR_NOT_FINITE, "values", .text("of a range that overflows"),
                              expected: "a range that fits binary32")
            }
        } else {
            low = min(low, 0)
            scale = usable(Float((Double(max(high, 0)) - Double(low)) / 15))
            zeroPoint = clipped((-8 - low / scale).rounded(.toNearestOrEven))
        }
    }

    public func encode(_ values: UnsafePointer<Float>, count: Int, into codes: UnsafeMutablePointer<Int8>) {
        for index in 0..<count {
            let step = (values[index] / scale).rounded(.toNearestOrEven)
            codes[index] = Int8(truncatingIfNeeded: wrapsCodes ? clipped(Float(wrapped(step))) : clipped(step + Float(zeroPoint)))
        }
    }

    /// A conversion to eight bits as processors do it that go through 32: the low byte, 0 beyond them.
    private func wrapped(_ step: Float) -> Int8 {
        step.magnitude < 0x1p31 ? Int8(truncatingIfNeeded: Int32(step)) : 0
    }
}

private func usable(_ scale: Float) -> Float { scale == 0 ? 1 : scale }

private func clipped(_ step: Float) -> Int32 { Int32(min(max(step, -8), 7)) }

public func dequantizeInt4Values(_ codes: UnsafePointer<Int8>, count: Int, scale: Float, zeroPoint: Int32,
                                 into values: UnsafeMutablePointer<Float>) throws(Failure) {
    if zeroPoint < -8 || zeroPoint > 7 { throw .invalid("zero_point", Int64(zeroPoint), expected: "a number in -8..7") }
    if !scale.isFinite {
        throw Failure(INT4Q_ERROR_NOT_FINITE, "scale", .text("NaN or infinite"), expected: "a finite number")
    }
    for index in 0..<count where codes[index] < -8 || codes[index] > 7 {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "codes", .entry(index: Int64(index), Int64(codes[index])),
                      expected: "codes in -8..7")
    }
    for index in 0..<count { values[index] = Float(Int32(codes[index]) - zeroPoint) * scale }
}
