// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// A caller's list of schemes that a layer might get.
public struct Candidates {
    /// Nil: the usual ones.
    private let base: UnsafePointer<int4q_candidate>?
    public let count: Int

    static var usualCount: Int { 33 }

    @inline(never)
    public init(_ base: UnsafePointer<int4q_candidate>?, _ count: Int64, mayBeUsual: Bool) throws(Failure) {
        if mayBeUsual && base == nil && count == 0 {
            self.base = nil
            self.count = Candidates.usualCount
            return
        }
        self.base = try require(base, "candidates")
        if count < 1 || count > 4096 { throw .invalid("count", count, expected: "1 to 4096") }
        self.count = Int(count)
        for index in 0..<self.count { _ = try scheme(index) }
    }

    func raw(_ index: Int) -> int4q_candidate { base?[index] ?? Candidates.usual(index) }

    func scheme(_ index: Int) throws(Failure) -> Scheme {
        let raw = raw(index), scheme = try Scheme(raw.scheme)
        if scheme.hasGivenScales {
            throw .invalid("scheme.scale_rule", Int64(raw.scheme.scale_rule),
                           expected: "another INT4Q_SCALE_* here: none are given")
        }
        if scheme.kind != .codebook && raw.codebook != nil {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "candidates.codebook", .pointer(UInt(bitPattern: raw.codebook)),
                          expected: "NULL for this kind")
        }
        if raw.reserved != 0 { throw .invalid("candidates.reserved", Int64(raw.reserved), expected: "0") }
        let needsName = scheme.kind == .codebook && raw.codebook == nil && !scheme.hasRowCodebooks
        if needsName || raw.named != 0 {
            if !needsName { throw .invalid("candidates.named", Int64(raw.named), expected: "0 for this kind or beside a codebook") }
            if raw.named < int32(INT4Q_CODEBOOK_NF4) || raw.named > int32(INT4Q_CODEBOOK_SEVEN_POWERS_OF_TWO) {
                throw .invalid("candidates.named", Int64(raw.named), expected: "one of INT4Q_CODEBOOK_* where codebook is NULL")
            }
        }
        return scheme
    }

    /// The caller's codebook, or one by name, written to 16 floats.
    @inline(never)
    func codebook(_ index: Int, _ room: UnsafeMutablePointer<Float>) throws(Failure) -> UnsafePointer<Float>? {
        let raw = raw(index)
        if raw.named == 0 { return raw.codebook }
        try writeCodebook(raw.named, to: room)
        return UnsafePointer(room)
    }

    /// The same, of which all values were looked at.
    @inline(never)
    func checkedCodebooks(_ index: Int, n: Int64, _ room: UnsafeMutableRawPointer) throws(Failure) -> CallersCodebooks? {
        let values = try codebook(index, room.assumingMemoryBound(to: Float.self))
        let codebooks = try CallersCodebooks(try scheme(index), values, n: n, "candidates.codebook")
        try codebooks?.check(0..<n, "candidates.codebook")
        return codebooks
    }

    @inline(never)
    public static func writeUsual(to target: UnsafeMutablePointer<int4q_candidate>?, capacity: Int64) throws(Failure) {
        if capacity == 0 { return }
        let target = try require(target, "candidates")
        if capacity < Int64(usualCount) {
            throw Failure(INT4Q_ERROR_BUFFER_TOO_SMALL, "capacity", .integer(capacity), expected: "0 or at least",
                          bound: UInt64(usualCount))
        }
        for index in 0..<usualCount { target[index] = usual(index) }
    }

    private static func usual(_ index: Int) -> int4q_candidate {
        var candidate = int4q_candidate()
        let kind = index / 6, size = index % 6
        candidate.scheme.scale_type = int4q_type(INT4Q_TYPE_F16)
        candidate.scheme.group_size = size == 5 ? int32(INT4Q_GROUP_PER_ROW) : 16 << Int32(truncatingIfNeeded: size)
        switch kind {
        case 0: candidate.scheme.kind = int32(INT4Q_KIND_SYMMETRIC)
        case 1: candidate.scheme.kind = int32(INT4Q_KIND_ASYMMETRIC)
        case 2: candidate.scheme.kind = int32(INT4Q_KIND_OFFSET)
        case 3, 4:
            candidate.scheme.kind = int32(INT4Q_KIND_CODEBOOK)
            candidate.named = kind == 3 ? int32(INT4Q_CODEBOOK_NF4) : int32(INT4Q_CODEBOOK_IQ4_NL)
        default:
            candidate.scheme.kind = int32(INT4Q_KIND_SYMMETRIC)
            candidate.scheme.code_bits = 8
            candidate.scheme.group_size = size == 0 ? 32 : size == 1 ? 128 : int32(INT4Q_GROUP_PER_ROW)
        }
        return candidate
    }
}
