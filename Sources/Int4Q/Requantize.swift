// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 11 of the header.

@c @implementation
public func int4q_requantize_multiplier(_ values: UnsafePointer<Double>?, _ count: Int64,
                                        _ multipliers: UnsafeMutablePointer<Int32>?,
                                        _ shifts: UnsafeMutablePointer<Int32>?) -> int4q_status {
    attempt("int4q_requantize_multiplier") { () throws(Failure) in
        let values = try require(values, "values")
        try requireAtLeast(count, 1, "count")
        _ = try CheckedSize(UInt64(count), "count").times(8)
        let multipliers = try require(multipliers, "multipliers")
        let shifts = try require(shifts, "shifts")
        try FixedPointMultiplier.write(values, count: Int(count), multipliers, shifts)
    }
}

@c @implementation
public func int4q_requantize_rows(_ requantization: UnsafePointer<int4q_requantization>?, _ sums: UnsafePointer<Int32>?,
                                  _ sums_stride: Int64, _ m: Int64, _ codes: UnsafeMutableRawPointer?, _ codes_bytes: UInt64,
                                  _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_requantize_rows") { () throws(Failure) in
        let requantization = try Requantization(try require(requantization, "requantization").pointee)
        try requireAtLeast(m, 1, "m")
        // Four bytes an element, which is all that a matrix asks of a type.
        let type = try ElementType(int4q_type(INT4Q_TYPE_F32), "sums")
        let sums = try Matrix(sums, type, rows: m, columns: requantization.columns, stride: sums_stride,
                              .init("sums", stride: "sums_stride"))
        let codes = try require(codes, "codes", alignment: requantization.codesAlignment)
        try requireBytes(codes_bytes, needed: try requantization.codesBytes(rows: m), "codes_bytes")
        try requireRange(row_begin, row_end, of: m, "row_begin", "row_end")
        requantization.write(sums, codes, rows: row_begin..<row_end)
    }
}
