// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// One of ggml's 4-bit types.
public enum BlockFormat: Int32 {
    case q4_0 = 1
    case q4_1 = 2
    case q4_K = 3
    case iq4_NL = 4
    case mxfp4 = 5
    case nvfp4 = 6

    public init(_ raw: int4q_format, _ name: Text) throws(Failure) {
        guard let format = BlockFormat(rawValue: raw) else {
            throw .invalid(name, Int64(raw), expected: "one of INT4Q_FORMAT_*")
        }
        self = format
    }

    /// Values in a block.
    var depth: Int64 { self == .q4_K ? 256 : self == .nvfp4 ? 64 : 32 }

    var blockBytes: Int {
        switch self {
        case .q4_0, .iq4_NL: 18
        case .q4_1: 20
        case .q4_K: 144
        case .mxfp4: 17
        case .nvfp4: 36
        }
    }

    /// A group's share of them.
    var groupBytes: Int { self == .q4_K ? 18 : self == .nvfp4 ? 9 : blockBytes }

    /// Values that share a scale.
    var groupSize: Int { self == .nvfp4 ? 16 : 32 }
    var groupsPerBlock: Int { Int(depth) / groupSize }

    // MARK: As a tensor

    /// Whether a tensor's scales can be stored as they are.
    public var holdsTensors: Bool { self != .q4_K && self != .nvfp4 }

    public var scheme: int4q_scheme {
        var scheme = int4q_scheme()
        scheme.group_size = Int32(groupSize)
        let (kind, type) = switch self {
        case .q4_0: (INT4Q_KIND_SYMMETRIC, INT4Q_TYPE_F16)
        case .q4_1: (INT4Q_KIND_OFFSET, INT4Q_TYPE_F16)
        case .q4_K: (INT4Q_KIND_OFFSET, INT4Q_TYPE_F32)
        case .iq4_NL: (INT4Q_KIND_CODEBOOK, INT4Q_TYPE_F16)
        case .mxfp4: (INT4Q_KIND_CODEBOOK, INT4Q_TYPE_BF16)
        case .nvfp4: (INT4Q_KIND_CODEBOOK, INT4Q_TYPE_F32)
        }
        scheme.kind = int32(kind)
        scheme.scale_type = int32(type)
        return scheme
    }

    public func write(codebook: UnsafeMutablePointer<Float>) {
        for code in 0..<16 { codebook[code] = value(code) }
    }

    /// The codebook's values; zeros where there is none.
    private func value(_ code: Int) -> Float {
        switch self {
        case .q4_0, .q4_1, .q4_K: return 0
        case .iq4_NL:
            let values: InlineArray<16, Float> = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
            return values[code]
        case .mxfp4, .nvfp4:
            // Code 8 is +0, as in ggml.
            let values: InlineArray<16, Float> = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]
            return values[code]
        }
    }

    /// A tensor of the scheme above: kind, group size, scale type and codebook.
    public func requireAgreement(with tensor: QuantizedTensor) throws(Failure) {
        let own = scheme, raw = tensor.scheme.raw
        try requireEqual(Int64(raw.kind), Int64(own.kind), "tensor.scheme.kind")
        try requireEqual(Int64(tensor.scheme.width.bits), 4, "tensor.scheme.code_bits")
        try requireEqual(Int64(raw.group_size), Int64(own.group_size), "tensor.scheme.group_size")
        if self != .mxfp4 || raw.scale_type != int4q_type(INT4Q_TYPE_F32) {
            try requireEqual(Int64(raw.scale_type), Int64(own.scale_type), "tensor.scheme.scale_type")
        }
        try requireEqual(Int64(raw.codebook_scope), Int64(own.codebook_scope), "tensor.scheme.codebook_scope")
        guard let codebook = tensor.codebook(0) else { return }
        for code in 0..<16 where codebook[code] != value(code) {
            throw Failure(INT4Q_ERROR_MISMATCH, "tensor.codebook", .element(row: 0, column: Int64(code), codebook[code]),
                          expected: "the format's values")
        }
    }

    private func requireEqual(_ value: Int64, _ own: Int64, _ name: Text) throws(Failure) {
        if value == own { return }
        throw Failure(INT4Q_ERROR_MISMATCH, name, .integer(value), expected: "the format's,", bound: UInt64(bitPattern: own))
    }
}

/// The sizes of a matrix in a block format, free of overflow.
public struct BlockLayout {
    public let format: BlockFormat
    public let n: Int64
    public let k: Int64
    public let bytes: UInt64
    let groupsPerRow: Int
    let rowBytes: Int

    public init(_ format: BlockFormat, n: Int64, k: Int64) throws(Failure) {
        try requireAtLeast(n, 1, "n")
        try requireAtLeast(k, 1, "k")
        if k % format.depth != 0 {
            throw .invalid("k", k, expected: "a multiple of the format's block,", bound: UInt64(format.depth))
        }
        self.format = format
        self.n = n
        self.k = k
        let blocks = try CheckedSize(UInt64(n), "n").times(UInt64(k / format.depth))
        bytes = try blocks.times(UInt64(format.blockBytes)).value
        groupsPerRow = Int(k) / format.groupSize
        rowBytes = groupsPerRow &* format.groupBytes
    }

    /// Blocks of a row, its block of a group, and the group's number there.
    func group(_ index: Int, ofRow row: Int, in blocks: UnsafeRawPointer) -> BlockGroup {
        let perBlock = format.groupsPerBlock
        let block = blocks + (row &* rowBytes &+ index / perBlock &* format.blockBytes)
        return BlockGroup(format: format, block: block, index: index % perBlock)
    }
}

/// 0 stands for 1; only NVFP4 has another.
public func checkedGlobalScale(_ scale: Float, _ format: BlockFormat, _ name: Text) throws(Failure) -> Float {
    if scale == 0 || scale == 1 { return 1 }
    if format != .nvfp4 {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, name, .number(scale), expected: "0 or 1 with this format")
    }
    if !(scale > 0 && scale.isFinite) {
        let status = scale.isFinite ? Int(INT4Q_ERROR_INVALID_ARGUMENT) : Int(INT4Q_ERROR_NOT_FINITE)
        throw Failure(status, name, .number(scale), expected: "a finite number above zero, or 0 for 1")
    }
    return scale
}
