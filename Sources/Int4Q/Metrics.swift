// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 6 of the header.

@c @implementation
public func int4q_compare(_ reference: UnsafeRawPointer?, _ reference_type: int4q_type, _ reference_stride: Int64,
                          _ candidate: UnsafeRawPointer?, _ candidate_type: int4q_type, _ candidate_stride: Int64,
                          _ rows: Int64, _ columns: Int64, _ metrics: UnsafeMutablePointer<int4q_metrics>?) -> int4q_status {
    attempt("int4q_compare") { () throws(Failure) in
        try requireAtLeast(rows, 1, "rows")
        try requireAtLeast(columns, 1, "columns")
        let expected = try Matrix(reference, try ElementType(reference_type, "reference_type"), rows: rows, columns: columns,
                                  stride: reference_stride, .init("reference", stride: "reference_stride"))
        let actual = try Matrix(candidate, try ElementType(candidate_type, "candidate_type"), rows: rows, columns: columns,
                                stride: candidate_stride, .init("candidate", stride: "candidate_stride"))
        let metrics = try require(metrics, "metrics")
        try requireStructSize(metrics.pointee.struct_size, of: int4q_metrics.self, "metrics.struct_size")
        try requireZero(metrics.pointee.reserved, "metrics.reserved")
        try Comparison(expected, actual, rows: rows).write(to: metrics)
    }
}
