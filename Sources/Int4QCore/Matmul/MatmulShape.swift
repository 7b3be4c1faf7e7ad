// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A described product that was checked.
public struct MatmulShape {
    public enum Mode { case f32, int8, bf16, binary }

    public let mode: Mode
    public let m: Int64
    public let scheme: Scheme
    public let layout: BlobLayout
    public let xType: ElementType
    public let yType: ElementType
    public let workerCount: UInt32
    public let activation: Int32
    public let isGated: Bool
    public let hasStaticScales: Bool
    /// Nil where there is none.
    public let biasType: ElementType?
    public let residualType: ElementType?
    /// 0: one matrix for all rows.
    public let expertCount: UInt32
    public let partFlags: UInt32
    public let partRank: UInt32

    static let mostExperts: UInt32 = 65536

    public init(_ desc: int4q_matmul_desc) throws(Failure) {
        try requireStructSize(desc.struct_size, of: int4q_matmul_desc.self, "desc.struct_size")
        mode = try Mode(desc.mode)
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
        let known = UInt32(INT4Q_MATMUL_GATED) | UInt32(INT4Q_MATMUL_STATIC_SCALES)
        if desc.flags & ~known != 0 { throw .invalid("desc.flags", Int64(desc.flags), expected: "INT4Q_MATMUL_* or 0") }
        isGated = desc.flags & UInt32(INT4Q_MATMUL_GATED) != 0
        hasStaticScales = desc.flags & UInt32(INT4Q_MATMUL_STATIC_SCALES) != 0
        activation = desc.activation
        biasType = desc.bias_type == 0 ? nil : try ElementType(desc.bias_type, "desc.bias_type")
        residualType = desc.residual_type == 0 ? nil : try ElementType(desc.residual_type, "desc.residual_type")
        expertCount = desc.expert_count
        partFlags = desc.part_flags
        partRank = desc.part_rank
        try checkCombination(desc)
        if partFlags != 0 || partRank != 0 { try checkParts() }
    }

    private func checkParts() throws(Failure) {
        if partFlags & ~PartsShape.all != 0 { throw .invalid("desc.part_flags", Int64(partFlags), expected: "INT4Q_PART_* or 0") }
        let hasLowRank = partFlags & PartsShape.lowRank != 0
        if hasLowRank ? partRank < 1 || Int64(partRank) > PartsShape.mostRanks : partRank != 0 {
            throw .invalid("desc.part_rank", Int64(partRank), expected: "1 to 256 with INT4Q_PART_LOW_RANK, else 0")
        }
        if layout.k > Int64(Int32.max) {
            throw .invalid("desc.k", layout.k, expected: "with parts at most", bound: UInt64(Int32.max))
        }
        if expertCount > 0 {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "desc.part_flags", .integer(Int64(partFlags)), expected: "0 with experts")
        }
    }

    private func checkCombination(_ desc: int4q_matmul_desc) throws(Failure) {
        if activation < int32(INT4Q_ACTIVATION_NONE) || activation > int32(INT4Q_ACTIVATION_SILU) {
            throw .invalid("desc.activation", Int64(activation), expected: "one of INT4Q_ACTIVATION_*")
        }
        if hasStaticScales && mode != .int8 {
            throw .invalid("desc.flags", Int64(desc.flags), expected: "INT4Q_MATMUL_STATIC_SCALES in INT4Q_MODE_INT8 only")
        }
        // A code of these modes is a byte or half of one table for all columns; sixteen tables fit no register.
        if scheme.hasRowCodebooks && mode != .f32 {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "desc.mode", .integer(Int64(desc.mode)),
                          expected: "INT4Q_MODE_F32 with INT4Q_CODEBOOK_PER_ROW")
        }
        if mode == .binary && !scheme.isFew {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "desc.mode", .integer(Int64(desc.mode)),
                          expected: "another INT4Q_MODE_* for weights that are neither BINARY nor TERNARY")
        }
        if mode == .bf16 && !scheme.width.isNibble {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "desc.mode", .integer(Int64(desc.mode)),
                          expected: "another INT4Q_MODE_* for codes that have not 4 bits")
        }
        if expertCount > MatmulShape.mostExperts {
            throw .invalid("desc.expert_count", Int64(expertCount), expected: "at most", bound: UInt64(MatmulShape.mostExperts))
        }
        if expertCount > 0 && m > Int64(Int32.max) {
            throw .invalid("desc.m", m, expected: "with experts at most", bound: UInt64(Int32.max))
        }
    }
}

extension MatmulShape.Mode {
    init(_ raw: int4q_compute_mode) throws(Failure) {
        switch Int(raw) {
        case Int(INT4Q_MODE_F32): self = .f32
        case Int(INT4Q_MODE_INT8): self = .int8
        case Int(INT4Q_MODE_BF16): self = .bf16
        case Int(INT4Q_MODE_BINARY): self = .binary
        default: throw .invalid("desc.mode", Int64(raw), expected: "one of INT4Q_MODE_*")
        }
    }

    var raw: Int64 {
        switch self {
        case .f32: Int64(INT4Q_MODE_F32)
        case .int8: Int64(INT4Q_MODE_INT8)
        case .bf16: Int64(INT4Q_MODE_BF16)
        case .binary: Int64(INT4Q_MODE_BINARY)
        }
    }
}
