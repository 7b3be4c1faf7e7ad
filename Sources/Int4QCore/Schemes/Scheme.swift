// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A scheme descriptor that was checked: every field is known and the combination makes sense.
public struct Scheme {
    public enum Kind { case symmetric, asymmetric, offset, codebook }

    public let raw: int4q_scheme
    public let kind: Kind
    public let scaleType: ElementType

    public var isPerRow: Bool { raw.group_size == int32(INT4Q_GROUP_PER_ROW) }
    public var usesGgmlRounding: Bool { raw.rounding == int32(INT4Q_ROUNDING_GGML) }
    public var usesMlxRounding: Bool { raw.rounding == int32(INT4Q_ROUNDING_MLX) }
    public var usesLogarithms: Bool { raw.rounding == int32(INT4Q_ROUNDING_NEAREST_LOG) }
    /// Whether each row has a codebook of its own.
    public var hasRowCodebooks: Bool { raw.codebook_scope == int32(INT4Q_CODEBOOK_PER_ROW) }
    public var hasUnitScale: Bool { raw.scale_rule == int32(INT4Q_SCALE_ONE) }
    public var isRestricted: Bool { raw.code_range == int32(INT4Q_RANGE_RESTRICTED) }
    public var scaleRule: Int {
        let rule = Int(raw.scale_rule)
        return rule == Int(INT4Q_SCALE_DEFAULT) ? Int(INT4Q_SCALE_SIGNED_MAX_8) : rule
    }

    public init(_ raw: int4q_scheme) throws(Failure) {
        switch Int(raw.kind) {
        case Int(INT4Q_KIND_SYMMETRIC): kind = .symmetric
        case Int(INT4Q_KIND_ASYMMETRIC): kind = .asymmetric
        case Int(INT4Q_KIND_OFFSET): kind = .offset
        case Int(INT4Q_KIND_CODEBOOK): kind = .codebook
        default: throw .invalid("scheme.kind", Int64(raw.kind), expected: "one of INT4Q_KIND_*")
        }
        scaleType = try ElementType(raw.scale_type, "scheme.scale_type")
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
        case 16, 32, 64, 128, 256: return
        default:
            if !isPerRow {
                throw .invalid("scheme.group_size", Int64(raw.group_size),
                               expected: "16, 32, 64, 128, 256 or INT4Q_GROUP_PER_ROW")
            }
        }
    }

    private func checkConventions() throws(Failure) {
        let rule = Int(raw.scale_rule)
        if rule < Int(INT4Q_SCALE_DEFAULT) || rule > Int(INT4Q_SCALE_ONE) {
            throw .invalid("scheme.scale_rule", Int64(rule), expected: "one of INT4Q_SCALE_*")
        }
        if hasUnitScale && kind != .codebook {
            throw .invalid("scheme.scale_rule", Int64(rule), expected: "another INT4Q_SCALE_* with this kind")
        }
        if kind != .symmetric && rule != Int(INT4Q_SCALE_DEFAULT) && !hasUnitScale {
            throw .invalid("scheme.scale_rule", Int64(rule), expected: kind == .codebook
                ? "INT4Q_SCALE_DEFAULT or INT4Q_SCALE_ONE with this kind" : "INT4Q_SCALE_DEFAULT with this kind")
        }
        if !isRestricted && raw.code_range != int32(INT4Q_RANGE_FULL) {
            throw .invalid("scheme.code_range", Int64(raw.code_range), expected: "one of INT4Q_RANGE_*")
        }
        if isRestricted && (kind != .symmetric || scaleRule == Int(INT4Q_SCALE_SIGNED_MAX_8)) {
            throw .invalid("scheme.code_range", Int64(raw.code_range),
                           expected: "INT4Q_RANGE_FULL with this kind and scale rule")
        }
        try checkRounding()
    }

    private func checkRounding() throws(Failure) {
        if !usesGgmlRounding && !usesLogarithms && !usesMlxRounding && raw.rounding != int32(INT4Q_ROUNDING_NEAREST_EVEN) {
            throw .invalid("scheme.rounding", Int64(raw.rounding), expected: "one of INT4Q_ROUNDING_*")
        }
        let isGgmlScheme = kind == .offset || (kind == .symmetric && scaleRule == Int(INT4Q_SCALE_SIGNED_MAX_8))
        if usesGgmlRounding && !isGgmlScheme {
            throw .invalid("scheme.rounding", Int64(raw.rounding),
                           expected: "INT4Q_ROUNDING_NEAREST_EVEN with this kind and scale rule")
        }
        if (usesLogarithms && kind != .codebook) || (usesMlxRounding && kind != .offset) {
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
        let all = r.0 | r.1 | r.2 | r.3 | r.4
        if all != 0 { throw .invalid("scheme.reserved", Int64(all), expected: "0") }
    }
}

/// Enumerators arrive from C as Int; fields are Int32.
@inline(__always) func int32(_ enumerator: Int) -> Int32 { Int32(truncatingIfNeeded: enumerator) }
@inline(__always) func int32(_ enumerator: Int32) -> Int32 { enumerator }
