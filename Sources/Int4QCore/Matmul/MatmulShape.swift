// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A described product that was checked.
public struct MatmulShape {
    public enum Mode { case f32, int8 }

    public let mode: Mode
    public let m: Int64
    public let scheme: Scheme
    public let layout: BlobLayout
    public let xType: ElementType
    public let yType: ElementType
    public let workerCount: UInt32

    public init(_ desc: int4q_matmul_desc) throws(Failure) {
        try requireStructSize(desc.struct_size, of: int4q_matmul_desc.self, "desc.struct_size")
        try requireZero(desc.reserved, "desc.reserved")
        switch Int(desc.mode) {
        case Int(INT4Q_MODE_F32): mode = .f32
        case Int(INT4Q_MODE_INT8): mode = .int8
        default: throw .invalid("desc.mode", Int64(desc.mode), expected: "one of INT4Q_MODE_*")
        }
        try requireAtLeast(desc.m, 1, "desc.m")
        try requireAtLeast(desc.n, 1, "desc.n")
        try requireAtLeast(desc.k, 1, "desc.k")
        m = desc.m
        scheme = try Scheme(desc.scheme)
        layout = try BlobLayout(scheme, n: desc.n, k: desc.k)
        xType = try ElementType(desc.x_type, "desc.x_type")
        yType = try ElementType(desc.y_type, "desc.y_type")
        workerCount = desc.worker_count
        if workerCount < 1 || workerCount > 1024 {
            throw .invalid("desc.worker_count", Int64(workerCount), expected: "1 to 1024")
        }
        if mode == .int8 && scheme.kind == .codebook {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "desc.mode", .text("INT4Q_MODE_INT8"),
                          expected: "INT4Q_MODE_F32 with INT4Q_KIND_CODEBOOK")
        }
    }
}
