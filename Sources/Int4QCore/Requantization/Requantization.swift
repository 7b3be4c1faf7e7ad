// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// A caller's description of how sums become codes, checked.
public struct Requantization {
    public let columns: Int64
    let type: Int32
    let columnStep: Int // of multipliers and shifts: 0 if all columns share one
    let multipliers: UnsafePointer<Int32>
    let shifts: UnsafePointer<Int32>
    let bias: UnsafePointer<Int32>?
    let lowest: Int32
    let highest: Int32
    let zeroPoint: Int32

    @inline(never)
    public init(_ raw: int4q_requantization) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_requantization.self, "requantization.struct_size")
        try requireZero(raw.reserved, "requantization.reserved")
        guard let range = Requantization.range(ofType: raw.codes_type) else {
            throw .invalid("requantization.codes_type", Int64(raw.codes_type), expected: "one of INT4Q_CODES_*")
        }
        try requireAtLeast(raw.n, 1, "requantization.n")
        _ = try CheckedSize(UInt64(raw.n), "requantization.n").times(4)
        if raw.multiplier_count != 1 && raw.multiplier_count != raw.n {
            throw .invalid("requantization.multiplier_count", raw.multiplier_count, expected: "1 or n,", bound: UInt64(raw.n))
        }
        multipliers = try require(raw.multipliers, "requantization.multipliers")
        shifts = try require(raw.shifts, "requantization.shifts")
        bias = raw.bias == nil ? nil : try require(raw.bias, "requantization.bias")
        for index in 0..<Int(raw.multiplier_count) where !FixedPointMultiplier.shifts.contains(raw.shifts[index]) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "requantization.shifts",
                          .entry(index: Int64(index), Int64(raw.shifts[index])), expected: "shifts in -31..30")
        }
        try Requantization.requireCode(raw.zero_point, in: range, "requantization.zero_point")
        try Requantization.requireCode(raw.low, in: range, "requantization.low")
        try Requantization.requireCode(raw.high, in: raw.low...range.upperBound, "requantization.high")
        columns = raw.n
        type = raw.codes_type
        columnStep = raw.multiplier_count == 1 ? 0 : 1
        // The range before the zero point is added. Where an end of it is beyond int32 no value reaches it: the nearest one does.
        let low = Int64(raw.low) - Int64(raw.zero_point), high = Int64(raw.high) - Int64(raw.zero_point)
        lowest = Int32(clamping: low)
        highest = Int32(clamping: high)
        let reached = low > Int64(Int32.max) ? low - Int64(Int32.max) : high < Int64(Int32.min) ? high - Int64(Int32.min) : 0
        zeroPoint = Int32(truncatingIfNeeded: Int64(raw.zero_point) + reached)
    }

    private static func range(ofType type: Int32) -> ClosedRange<Int32>? {
        switch Int(type) {
        case INT4Q_CODES_INT8: -128...127
        case INT4Q_CODES_UINT8: 0...255
        case INT4Q_CODES_INT4: -8...7
        case INT4Q_CODES_UINT4: 0...15
        case INT4Q_CODES_INT32: Int32.min...Int32.max
        default: nil
        }
    }

    private static func requireCode(_ value: Int32, in range: ClosedRange<Int32>, _ name: Text) throws(Failure) {
        if !range.contains(value) { throw .invalid(name, Int64(value), expected: "within the codes' type, and high not below low") }
    }

    /// Bits of a code.
    var bits: Int { type == INT4Q_CODES_INT32 ? 32 : type >= INT4Q_CODES_INT4 ? 4 : 8 }

    public func codesBytes(rows: Int64) throws(Failure) -> UInt64 {
        let row = bits == 4 ? UInt64((columns - 1) / 2 + 1) : UInt64(columns) * UInt64(bits / 8)
        return try CheckedSize(UInt64(rows), "m").times(row).value
    }

    public var codesAlignment: Int { bits == 32 ? 4 : 1 }

    @inline(never)
    public func write(_ sums: Matrix, _ codes: UnsafeMutableRawPointer, rows: Range<Int64>) {
        StackMemory<176>.use { memory in
            var columns = RequantizedColumns(self, memory)
            while columns.advance() {
                for row in rows { columns.write(sums.row(Int(row)), codes, row: Int(row)) }
            }
        }
    }
}

/// A block of neighbouring columns with what belongs to each of them, all rows of which are done before the next block.
private struct RequantizedColumns {
    static var length: Int { 512 }

    private let whole: Requantization
    private var begin = 0
    private var count = 0
    private var hasLeftShifts = false
    private let bias: UnsafeMutablePointer<Int32>
    private let multipliers: UnsafeMutablePointer<Int32>
    private let weights: UnsafeMutablePointer<Int32>
    private let leftShifts: UnsafeMutablePointer<Int32>
    /// Sums that were shifted to the left, or a row's last few, padded.
    private let staged: UnsafeMutablePointer<Int32>
    /// Codes of those.
    private let last: UnsafeMutableRawPointer

    /// `memory`: five arrays of `length`, and 64 bytes; zeros.
    init(_ whole: Requantization, _ memory: UnsafeMutableRawPointer) {
        self.whole = whole
        let length = RequantizedColumns.length
        bias = memory.assumingMemoryBound(to: Int32.self)
        multipliers = bias + length
        weights = multipliers + length
        leftShifts = weights + length
        staged = leftShifts + length
        last = UnsafeMutableRawPointer(staged + length)
    }

    /// To the next block; false if there is none.
    mutating func advance() -> Bool {
        begin += count
        count = min(Int(whole.columns) - begin, RequantizedColumns.length)
        hasLeftShifts = false
        for index in 0..<count {
            let shift = whole.shifts[(begin + index) * whole.columnStep]
            if let whole = whole.bias { bias[index] = whole[begin + index] }
            multipliers[index] = whole.multipliers[(begin + index) * whole.columnStep]
            weights[index] = 1 &<< (31 &+ min(shift, 0)) // as unsigned
            leftShifts[index] = max(shift, 0)
            hasLeftShifts = hasLeftShifts || shift > 0
        }
        return count > 0
    }

    func write(_ row: UnsafeRawPointer, _ codes: UnsafeMutableRawPointer, row index: Int) {
        let sums = row.assumingMemoryBound(to: Int32.self) + begin
        let bits = whole.bits, full = count & ~15, rest = count - full
        let target = codes + index * ((Int(whole.columns) * bits + 7) / 8) + begin * bits / 8
        if hasLeftShifts || rest > 0 { stage(sums, (hasLeftShifts ? 0 : full)..<count) }
        run(hasLeftShifts ? UnsafePointer(staged) : sums, from: 0, full, target)
        if rest == 0 { return }
        run(staged + full, from: full, 16, last)
        let bytes = (rest * bits + 7) / 8
        if rest * bits & 7 != 0 { last.assumingMemoryBound(to: UInt8.self)[bytes - 1] &= 15 }
        (target + full * bits / 8).copyMemory(from: last, byteCount: bytes)
    }

    /// Sums which with their bias are those that were shifted.
    @_optimize(speed)
    private func stage(_ sums: UnsafePointer<Int32>, _ columns: Range<Int>) {
        let first = columns.lowerBound
        i4q_shift_sums(sums + first, bias + first, leftShifts + first, Int64(columns.count), staged + first)
    }

    @inline(never)
    @_optimize(speed)
    private func run(_ sums: UnsafePointer<Int32>, from first: Int, _ count: Int, _ codes: UnsafeMutableRawPointer) {
        var requantizer = i4q_requantizer()
        requantizer.bias = UnsafeRawPointer(bias + first).assumingMemoryBound(to: UInt32.self)
        requantizer.multipliers = UnsafeRawPointer(multipliers + first).assumingMemoryBound(to: UInt32.self)
        requantizer.weights = UnsafeRawPointer(weights + first).assumingMemoryBound(to: UInt32.self)
        requantizer.lowest = whole.lowest
        requantizer.highest = whole.highest
        requantizer.zero_point = whole.zeroPoint
        requantizer.result_bits = Int32(whole.bits)
        i4q_requantize_run(&requantizer, sums, Int64(count), codes)
    }
}
