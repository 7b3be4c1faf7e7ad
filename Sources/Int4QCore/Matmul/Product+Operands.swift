// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// The matrices of a product: one, a gated pair, or those of the experts. All have one layout; headers were validated.
struct Weights {
    let layout: BlobLayout
    var blob: UnsafeRawPointer?
    var upBlob: UnsafeRawPointer?
    var experts: UnsafePointer<int4q_expert>?
    /// Of `blob` and `upBlob`, where INT8 mode needs them. Experts' are made for each tile.
    var integers: IntegerCodebook?
    var upIntegers: IntegerCodebook?

    func gate(_ expert: Int) -> UnsafeRawPointer { experts.map { $0[expert].blob.unsafelyUnwrapped } ?? blob.unsafelyUnwrapped }
    func up(_ expert: Int) -> UnsafeRawPointer { experts.map { $0[expert].up_blob.unsafelyUnwrapped } ?? upBlob.unsafelyUnwrapped }
}

/// Bias vectors, for each expert one behind the other.
struct Bias {
    let type: ElementType
    let gate: UnsafeRawPointer?
    let up: UnsafeRawPointer?
}

extension Product {
    // MARK: What prepare reads

    public mutating func take(x args: int4q_matmul_args) throws(Failure) {
        let type = try ElementType(int4q_type(truncatingIfNeeded: plan.xType), "plan.x_type")
        x = try Matrix(args.x, type, rows: plan.m, columns: plan.k, stride: args.ldx, .init("args.x", stride: "args.ldx"))
        try takeSteps(args.x_scales)
        try takeRowExperts(args.row_experts)
        if plan.partFlags != 0 { try takeParts(try agreeing(args.blob, args.blob_bytes, .blob), try agreeingUp(args)) }
    }

    /// Of a gated product.
    private func agreeingUp(_ args: int4q_matmul_args) throws(Failure) -> Blob? {
        plan.isGated == 0 ? nil : try agreeing(args.up_blob, args.up_blob_bytes, .upBlob)
    }

    private mutating func takeSteps(_ pointer: UnsafePointer<Float>?) throws(Failure) {
        if plan.hasStaticScales == 0 { return try requireAbsent(pointer == nil, "args.x_scales") }
        let scales = try require(pointer, "args.x_scales")
        let isPerRow = plan.groupSizeField == Int64(INT4Q_GROUP_PER_ROW)
        for group in 0..<(isPerRow ? 1 : Int(groups.count)) {
            let scale = scales[group]
            if !(scale >= 0x1p-100 && scale <= 0x1p100) {
                throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "args.x_scales", .element(row: 0, column: Int64(group), scale),
                              expected: "scales of 2^-100 to 2^100")
            }
        }
        steps = scales
    }

    private mutating func takeRowExperts(_ pointer: UnsafePointer<Int32>?) throws(Failure) {
        if plan.expertCount == 0 { return try requireAbsent(pointer == nil, "args.row_experts") }
        let rows = try require(pointer, "args.row_experts")
        for row in 0..<Int(plan.m) where rows[row] < -1 || Int64(rows[row]) >= plan.expertCount {
            throw .invalid("args.row_experts", Int64(rows[row]), expected: "-1 or an expert's index below", bound: UInt64(plan.expertCount))
        }
        rowExperts = rows
    }

    // MARK: What tiles read and write

    public mutating func take(weightsAndY args: int4q_matmul_args) throws(Failure) {
        try takeWeights(args)
        let type = try ElementType(int4q_type(truncatingIfNeeded: plan.yType), "plan.y_type")
        y = try Matrix(args.y, type, rows: plan.m, columns: plan.n, stride: args.ldy, .init("args.y", stride: "args.ldy"))
        try takeBias(args)
        try takeResidual(args)
    }

    public mutating func takeWeights(_ args: int4q_matmul_args) throws(Failure) {
        if plan.expertCount > 0 {
            try requireAbsent(args.blob == nil, "args.blob")
            try requireAbsent(args.up_blob == nil, "args.up_blob")
            weights = try expertWeights(try require(args.experts, "args.experts"))
            return
        }
        try requireAbsent(args.experts == nil, "args.experts")
        let blob = try agreeing(args.blob, args.blob_bytes, .blob)
        if plan.isGated == 0 { try requireAbsent(args.up_blob == nil, "args.up_blob") }
        let up = try agreeingUp(args)
        try takeParts(blob, up)
        weights = Weights(layout: blob.layout, blob: blob.base, upBlob: up?.base, integers: integerCodebook(blob.base),
                          upIntegers: up.flatMap { integerCodebook($0.base) })
    }

    private func expertWeights(_ experts: UnsafePointer<int4q_expert>) throws(Failure) -> Weights {
        var layout: BlobLayout?
        for index in 0..<Int(plan.expertCount) {
            let expert = experts[index]
            layout = try agreeing(expert.blob, expert.blob_bytes, .expertBlob).layout
            if plan.isGated != 0 {
                _ = try agreeing(expert.up_blob, expert.up_blob_bytes, .expertUpBlob)
            } else {
                try requireAbsent(expert.up_blob == nil, "args.experts[].up_blob")
            }
        }
        return Weights(layout: layout.unsafelyUnwrapped, experts: experts)
    }

    /// A blob with a valid header that is of the plan's shape and scheme.
    private func agreeing(_ pointer: UnsafeRawPointer?, _ bytes: UInt64, _ names: BlobNames) throws(Failure) -> Blob {
        let blob = try Blob(pointer, bytes: bytes, names.pointer, names.bytes)
        typealias Pair = (blob: Int64, plan: Int64, name: Text)
        let raw = blob.scheme.raw
        let pairs: InlineArray<9, Pair> = [
            (blob.layout.n, plan.n, names.n), (blob.layout.k, plan.k, names.k),
            (Int64(raw.kind), plan.kind, names.kind), (Int64(blob.scheme.width.bits), plan.codeBits, names.codeBits),
            (Int64(raw.group_size), plan.groupSizeField, names.groupSize),
            (Int64(raw.scale_type), plan.scaleType, names.scaleType),
            (Int64(raw.codebook_scope), plan.codebookScope, names.codebookScope),
            (Int64(blob.parts.flags), plan.partFlags, names.partFlags), (blob.parts.rank, plan.partRank, names.partRank),
        ]
        for index in 0..<9 where pairs[index].blob != pairs[index].plan {
            let wanted = pairs[index].plan
            throw Failure(INT4Q_ERROR_MISMATCH, pairs[index].name, .integer(pairs[index].blob),
                          expected: wanted < 0 ? "what the plan was made for: one group per row" : "what the plan was made for,",
                          bound: wanted < 0 ? nil : UInt64(wanted))
        }
        return blob
    }

    private mutating func takeBias(_ args: int4q_matmul_args) throws(Failure) {
        if plan.biasType == 0 || plan.isGated == 0 { try requireAbsent(args.up_bias == nil, "args.up_bias") }
        if plan.biasType == 0 { return try requireAbsent(args.bias == nil, "args.bias") }
        let type = try ElementType(int4q_type(truncatingIfNeeded: plan.biasType), "plan.bias_type")
        let gate = try require(args.bias, "args.bias", alignment: type.size)
        let up = args.up_bias == nil ? nil : try require(args.up_bias, "args.up_bias", alignment: type.size)
        bias = Bias(type: type, gate: gate, up: up)
    }

    private mutating func takeResidual(_ args: int4q_matmul_args) throws(Failure) {
        if plan.residualType == 0 { return try requireAbsent(args.residual == nil, "args.residual") }
        let type = try ElementType(int4q_type(truncatingIfNeeded: plan.residualType), "plan.residual_type")
        residual = try Matrix(args.residual, type, rows: plan.m, columns: plan.n, stride: args.ldr,
                              .init("args.residual", stride: "args.ldr"))
    }

    /// An operand that would be ignored is more likely a mistake than meant.
    private func requireAbsent(_ isAbsent: Bool, _ name: Text) throws(Failure) {
        if !isAbsent { throw Failure(INT4Q_ERROR_MISMATCH, name, .text("a pointer"), expected: "NULL: the plan has no use for it") }
    }
}

/// What a failure calls a blob's parts.
struct BlobNames {
    let pointer, bytes, n, k, kind, groupSize, scaleType, codebookScope, codeBits, partFlags, partRank: Text

    static var blob: BlobNames {
        BlobNames(pointer: "args.blob", bytes: "args.blob_bytes", n: "args.blob (n)", k: "args.blob (k)", kind: "args.blob (scheme.kind)",
                  groupSize: "args.blob (scheme.group_size)", scaleType: "args.blob (scheme.scale_type)",
                  codebookScope: "args.blob (scheme.codebook_scope)", codeBits: "args.blob (scheme.code_bits)",
                  partFlags: "args.blob (part_flags)", partRank: "args.blob (part_rank)")
    }
    static var upBlob: BlobNames {
        BlobNames(pointer: "args.up_blob", bytes: "args.up_blob_bytes", n: "args.up_blob (n)", k: "args.up_blob (k)", kind: "args.up_blob (scheme.kind)",
                  groupSize: "args.up_blob (scheme.group_size)", scaleType: "args.up_blob (scheme.scale_type)",
                  codebookScope: "args.up_blob (scheme.codebook_scope)", codeBits: "args.up_blob (scheme.code_bits)",
                  partFlags: "args.up_blob (part_flags)", partRank: "args.up_blob (part_rank)")
    }
    static var expertBlob: BlobNames {
        BlobNames(pointer: "args.experts[].blob", bytes: "args.experts[].blob_bytes", n: "args.experts[].blob (n)", k: "args.experts[].blob (k)", kind: "args.experts[].blob (scheme.kind)",
                  groupSize: "args.experts[].blob (scheme.group_size)", scaleType: "args.experts[].blob (scheme.scale_type)",
                  codebookScope: "args.experts[].blob (scheme.codebook_scope)", codeBits: "args.experts[].blob (scheme.code_bits)",
                  partFlags: "args.experts[].blob (part_flags)", partRank: "args.experts[].blob (part_rank)")
    }
    static var expertUpBlob: BlobNames {
        BlobNames(pointer: "args.experts[].up_blob", bytes: "args.experts[].up_blob_bytes", n: "args.experts[].up_blob (n)", k: "args.experts[].up_blob (k)", kind: "args.experts[].up_blob (scheme.kind)",
                  groupSize: "args.experts[].up_blob (scheme.group_size)", scaleType: "args.experts[].up_blob (scheme.scale_type)",
                  codebookScope: "args.experts[].up_blob (scheme.codebook_scope)", codeBits: "args.experts[].up_blob (scheme.code_bits)",
                  partFlags: "args.experts[].up_blob (part_flags)", partRank: "args.experts[].up_blob (part_rank)")
    }
}
