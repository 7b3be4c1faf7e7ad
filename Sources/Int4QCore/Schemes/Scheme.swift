// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A scheme descriptor that was checked: every field is known and the combination makes sense.
public struct Scheme {
    public enum Kind { case symmetric, asymmetric, offset, codebook, binary, ternary }

    public let raw: int4q_scheme
    public let kind: Kind
    public let scaleType: ElementType
    public let width: CodeWidth

    public var isPerRow: Bool { raw.group_size == int32(INT4Q_GROUP_PER_ROW) }
    public var usesGgmlRounding: Bool { raw.rounding == int32(INT4Q_ROUNDING_GGML) }
    public var usesMlxRounding: Bool { raw.rounding == int32(INT4Q_ROUNDING_MLX) }
    public var usesLogarithms: Bool { raw.rounding == int32(INT4Q_ROUNDING_NEAREST_LOG) }
    /// Whether each row has a codebook of its own.
    public var hasRowCodebooks: Bool { raw.codebook_scope == int32(INT4Q_CODEBOOK_PER_ROW) }
    public var hasUnitScale: Bool { raw.scale_rule == int32(INT4Q_SCALE_ONE) }
    /// Whether any number may be a scale.
    public var hasFreeScales: Bool { !hasUnitScale && scaleRule != Int(INT4Q_SCALE_POWER_OF_TWO) }
    /// Whether scales, zero points and offsets are the caller's.
    public var hasGivenScales: Bool { raw.scale_rule == int32(INT4Q_SCALE_GIVEN) }
    /// Of 1 or 2 bits.
    var isFew: Bool { kind == .binary || kind == .ternary }
    /// code_bits as blobs and plans have it: 0 unless codes are wider than the kind's own.
    var wideBits: Int32 { width.bits == 8 ? 8 : 0 }
    public var isRestricted: Bool { raw.code_range == int32(INT4Q_RANGE_RESTRICTED) }
    public var scaleRule: Int {
        let rule = Int(raw.scale_rule)
        if rule != Int(INT4Q_SCALE_DEFAULT) { return rule }
        return width.bits == 8 ? Int(INT4Q_SCALE_AMAX_7) : Int(INT4Q_SCALE_SIGNED_MAX_8)
    }

    public init(_ raw: int4q_scheme) throws(Failure) {
        switch Int(raw.kind) {
        case Int(INT4Q_KIND_SYMMETRIC): kind = .symmetric
        case Int(INT4Q_KIND_ASYMMETRIC): kind = .asymmetric
        case Int(INT4Q_KIND_OFFSET): kind = .offset
        case Int(INT4Q_KIND_CODEBOOK): kind = .codebook
        case Int(INT4Q_KIND_BINARY): kind = .binary
        case Int(INT4Q_KIND_TERNARY): kind = .ternary
        default: throw .invalid("scheme.kind", Int64(raw.kind), expected: "one of INT4Q_KIND_*")
        }
        scaleType = try ElementType(raw.scale_type, "scheme.scale_type")
        width = try CodeWidth(kind, raw.code_bits)
        self.raw = raw
        try checkGroupSize()
        try checkConventions()
        try checkCodebookScope()
        try checkReserved()
    }

    /// The length of a group in a row of k.
    public func groupSize(k: Int64) -> Int64 { isPerRow ? k : Int64(raw.group_size) }

    private func checkGroupSize() throws(Failure) {
        switch raw.group_size {
        case 16:
            if isFew { throw .invalid("scheme.group_size", 16, expected: "32 or more with this kind") }
        case 32, 64, 128, 256: return
        default:
            if !isPerRow {
                throw .invalid("scheme.group_size", Int64(raw.group_size),
                               expected: "16, 32, 64, 128, 256 or INT4Q_GROUP_PER_ROW")
            }
        }
    }

    private func checkConventions() throws(Failure) {
        let rule = Int(raw.scale_rule)
        if rule < Int(INT4Q_SCALE_DEFAULT) || rule > Int(INT4Q_SCALE_GIVEN) {
            throw .invalid("scheme.scale_rule", Int64(rule), expected: "one of INT4Q_SCALE_*")
        }
        if !isScaleRuleOfKind(rule) { throw .invalid("scheme.scale_rule", Int64(rule), expected: "another INT4Q_SCALE_* with this kind") }
        if !isRestricted && raw.code_range != int32(INT4Q_RANGE_FULL) {
            throw .invalid("scheme.code_range", Int64(raw.code_range), expected: "one of INT4Q_RANGE_*")
        }
        if isRestricted && (kind != .symmetric || scaleRule == Int(INT4Q_SCALE_SIGNED_MAX_8)) {
            throw .invalid("scheme.code_range", Int64(raw.code_range),
                           expected: "INT4Q_RANGE_FULL with this kind and scale rule")
        }
        try checkRounding()
    }

    private func isScaleRuleOfKind(_ rule: Int) -> Bool {
        if rule == Int(INT4Q_SCALE_DEFAULT) || hasGivenScales { return true }
        return switch kind {
        case .symmetric: !hasUnitScale
        case .codebook: hasUnitScale
        case .ternary: rule == Int(INT4Q_SCALE_AMAX_7)
        case .asymmetric, .offset, .binary: false
        }
    }

    private func checkRounding() throws(Failure) {
        if !usesGgmlRounding && !usesLogarithms && !usesMlxRounding && raw.rounding != int32(INT4Q_ROUNDING_NEAREST_EVEN) {
            throw .invalid("scheme.rounding", Int64(raw.rounding), expected: "one of INT4Q_ROUNDING_*")
        }
        let isGgmlKind = kind == .offset || (kind == .symmetric && scaleRule == Int(INT4Q_SCALE_SIGNED_MAX_8))
        let hasOwnRounding = width.isNibble && !hasGivenScales
        if usesGgmlRounding && !(isGgmlKind && hasOwnRounding) {
            throw .invalid("scheme.rounding", Int64(raw.rounding),
                           expected: "INT4Q_ROUNDING_NEAREST_EVEN with this kind and scale rule")
        }
        if (usesLogarithms && kind != .codebook) || (usesMlxRounding && !(kind == .offset && hasOwnRounding)) {
            throw .invalid("scheme.rounding", Int64(raw.rounding), expected: "another INT4Q_ROUNDING_* with this kind")
        }
    }

    private func checkCodebookScope() throws(Failure) {
        if !hasRowCodebooks && raw.codebook_scope != int32(INT4Q_CODEBOOK_PER_TENSOR) {
            throw .invalid("scheme.codebook_scope", Int64(raw.codebook_scope),
                           expected: "INT4Q_CODEBOOK_PER_TENSOR or INT4Q_CODEBOOK_PER_ROW")
        }
        if hasRowCodebooks && kind != .codebook {
            throw .invalid("scheme.codebook_scope", Int64(raw.codebook_scope), expected: "INT4Q_CODEBOOK_PER_TENSOR with this kind")
        }
    }

    private func checkReserved() throws(Failure) {
        let r = raw.reserved
        let all = r.0 | r.1 | r.2 | r.3
        if all != 0 { throw .invalid("scheme.reserved", Int64(all), expected: "0") }
    }
}

extension CodeWidth {
    /// 0 stands for the kind's own.
    fileprivate init(_ kind: Scheme.Kind, _ field: Int32) throws(Failure) {
        let own: Int32 = switch kind {
        case .binary: 1
        case .ternary: 2
        case .symmetric, .asymmetric, .offset, .codebook: 4
        }
        let mayBeWide = kind == .symmetric || kind == .asymmetric || kind == .offset
        if field != 0 && field != own && !(field == 8 && mayBeWide) {
            throw .invalid("scheme.code_bits", Int64(field), expected: "0, or what the kind can have")
        }
        bits = Int(field == 0 ? own : field)
    }
}

/// Enumerators arrive from C as Int; fields are Int32.
@inline(__always) func int32(_ enumerator: Int) -> Int32 { Int32(truncatingIfNeeded: enumerator) }
@inline(__always) func int32(_ enumerator: Int32) -> Int32 { enumerator }
