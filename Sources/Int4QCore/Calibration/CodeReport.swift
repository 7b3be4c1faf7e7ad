// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// How often each code is used, and which groups and rows use only one.
public struct CodeReport {
    private let tensor: QuantizedTensor
    private let floor: Float
    private var counts = InlineArray<16, Int64>(repeating: 0)
    private var groups: Int64 = 0
    private var groupsOfOneCode: Int64 = 0
    private var groupsAtFloor: Int64 = 0
    private var rowsOfOneCode: Int64 = 0

    public init(_ tensor: QuantizedTensor, scaleFloor: Float) throws(Failure) {
        if !(scaleFloor >= 0) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "scale_floor", .number(scaleFloor), expected: "at least 0")
        }
        if tensor.scheme.width.bits > 4 {
            throw Failure(INT4Q_ERROR_UNSUPPORTED, "tensor.scheme.code_bits", .integer(Int64(tensor.scheme.width.bits)),
                          expected: "codes of at most 4 bits")
        }
        self.tensor = tensor
        floor = scaleFloor
    }

    @inline(never)
    public mutating func look(rows: Range<Int64>) {
        for row in rows {
            var before = counts
            for group in 0..<Int(tensor.layout.groupsPerRow) { look(Int(row), group) }
            for code in 0..<16 { before[code] = counts[code] - before[code] }
            if isOneCode(before, tensor.layout.k) { rowsOfOneCode += 1 }
        }
    }

    private mutating func look(_ row: Int, _ group: Int) {
        let begin = group * tensor.layout.groupSize
        let end = min(begin + tensor.layout.groupSize, Int(tensor.layout.k))
        let own = countCodes(tensor.codesRow(row), begin..<end, tensor.scheme.width)
        for code in 0..<16 { counts[code] += own[code] }
        groups += 1
        if isOneCode(own, Int64(end - begin)) { groupsOfOneCode += 1 }
        let scale = tensor.scheme.scaleType.load(tensor.scales, tensor.groupIndex(row, group))
        if !(scale.magnitude > floor) || !scale.isFinite { groupsAtFloor += 1 }
    }

    /// One element alone is no sign of anything.
    private func isOneCode(_ counts: InlineArray<16, Int64>, _ total: Int64) -> Bool {
        if total < 2 { return false }
        for code in 0..<16 where counts[code] == total { return true }
        return false
    }

    public func write(to report: UnsafeMutablePointer<int4q_code_report>) {
        var total: Int64 = 0, most = 0
        for code in 0..<16 {
            total += counts[code]
            if counts[code] > counts[most] { most = code }
        }
        withUnsafeMutableBytes(of: &report.pointee.code_counts) { bytes in
            for code in 0..<16 { bytes.storeBytes(of: counts[code], toByteOffset: code * 8, as: Int64.self) }
        }
        report.pointee.groups = groups
        report.pointee.groups_of_one_code = groupsOfOneCode
        report.pointee.groups_at_floor = groupsAtFloor
        report.pointee.rows_of_one_code = rowsOfOneCode
        report.pointee.most_used_code = Int64(most)
        report.pointee.most_used_share = Double(counts[most]) / Double(total)
        report.pointee.end_share = Double(counts[0] + counts[tensor.scheme.kind == .ternary ? 2 : Int(tensor.scheme.width.largest)]) / Double(total)
    }
}

@inline(never)
private func countCodes(_ codes: UnsafePointer<UInt8>, _ elements: Range<Int>, _ width: CodeWidth) -> InlineArray<16, Int64> {
    var counts = InlineArray<16, Int64>(repeating: 0)
    for element in elements { counts[Int(width.code(codes, element))] += 1 }
    return counts
}
