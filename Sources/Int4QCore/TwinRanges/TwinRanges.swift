// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Two ranges of activations, checked.
public struct TwinRanges {
    var twin: i4q_twin

    @inline(never)
    public init(_ raw: int4q_twin_ranges, _ index: Int64 = 0) throws(Failure) {
        let isGelu = try TwinRanges.isGelu(raw.kind, "ranges.kind")
        if raw.choice != int32(INT4Q_TWIN_BY_THRESHOLD) && raw.choice != int32(INT4Q_TWIN_BY_ERROR) {
            throw .invalid("ranges.choice", Int64(raw.choice), expected: "one of INT4Q_TWIN_BY_*")
        }
        try TwinRanges.requireStep(raw.first, "ranges.first", index)
        try TwinRanges.requireStep(raw.second, "ranges.second", index)
        twin = i4q_twin(first: raw.first, second: raw.second, split: 7 * raw.first, is_gelu: isGelu ? 1 : 0,
                        by_error: raw.choice == int32(INT4Q_TWIN_BY_ERROR) ? 1 : 0)
    }

    static func isGelu(_ kind: Int32, _ name: Text) throws(Failure) -> Bool {
        if kind != int32(INT4Q_TWIN_SOFTMAX) && kind != int32(INT4Q_TWIN_GELU) {
            throw .invalid(name, Int64(kind), expected: "INT4Q_TWIN_SOFTMAX or INT4Q_TWIN_GELU")
        }
        return kind == int32(INT4Q_TWIN_GELU)
    }

    @inline(never)
    private static func requireStep(_ step: Float, _ name: Text, _ index: Int64) throws(Failure) {
        if !(step >= .leastNormalMagnitude && step.isFinite) {
            throw Failure(step.isFinite ? INT4Q_ERROR_INVALID_ARGUMENT : INT4Q_ERROR_NOT_FINITE, name,
                          .element(row: index, column: 0, step), expected: "a finite step of at least 2^-126")
        }
    }

    @inline(never)
    public func quantize(_ source: Matrix, _ codes: UnsafeMutablePointer<UInt8>, rows: Range<Int64>,
                         _ kernels: i4q_kernels) throws(Failure) {
        let rowBytes = (source.columns + 1) / 2
        try FloatRuns.with(source, "source", kernels) { (runs) throws(Failure) in
            let nibbles = runs.room.assumingMemoryBound(to: UInt8.self)
            for row in rows {
                var column = 0
                while column < source.columns {
                    let count = runs.load(Int(row), column)
                    _ = try runs.range(count, Int(row), column)
                    encode(twin, runs.floats, count, through: nibbles, codes + Int(row) * rowBytes + column / 2)
                    column += count
                }
            }
        }
    }

    @inline(never)
    public func dequantize(_ codes: UnsafePointer<UInt8>, into destination: Matrix, rows: Range<Int64>, _ kernels: i4q_kernels) {
        StackMemory<17>.use { memory in
            let table = memory.assumingMemoryBound(to: Float.self)
            write(to: table)
            let decoder = RunDecoder(kernels: kernels, type: destination.type, floats: table + 16)
            let decoding = i4q_decoding(scale: 1, offset: -0.0, zero: 0, codebook: table)
            for row in rows {
                decoder.decode(decoding, codes + Int(row) * ((destination.columns + 1) / 2), count: destination.columns,
                               into: destination.mutableRow(Int(row)))
            }
        }
    }

    /// The 16 values.
    private func write(to table: UnsafeMutablePointer<Float>) {
        for step in 0..<8 {
            table[step] = twin.first * Float(twin.is_gelu != 0 ? step - 8 : step)
            table[step + 8] = twin.second * Float(step)
        }
    }
}

/// Codes of a padded run of floats; `nibbles` has room for half as many bytes.
@inline(never)
func encode(_ twin: i4q_twin, _ floats: UnsafePointer<Float>, _ count: Int, through nibbles: UnsafeMutablePointer<UInt8>,
            _ codes: UnsafeMutablePointer<UInt8>) {
    var twin = twin
    i4q_twin_encode_run(&twin, floats, Int64((count + 15) & ~15), nibbles)
    if count & 1 == 1 { nibbles[count / 2] &= 15 }
    UnsafeMutableRawPointer(codes).copyMemory(from: nibbles, byteCount: (count + 1) / 2)
}

/// The candidates of PTQ4ViT's searches.
public struct TwinCandidates {
    static var most: Int { Int(INT4Q_TWIN_MAX_CANDIDATES) }
    private static var powers: Int { 20 }
    /// The least value of GELU.
    private static var leastOfGelu: Double { 0.16997124254703522 }

    private let kind: Int32
    private let choice: Int32

    public init(kind: Int32, choice: Int32) {
        self.kind = kind
        self.choice = choice
    }

    public static func write(kind: Int32, choice: Int32, steps: Int32, largest: Float,
                             to candidates: UnsafeMutablePointer<int4q_twin_ranges>) throws(Failure) -> Int64 {
        let isGelu = try TwinRanges.isGelu(kind, "kind")
        if choice != int32(INT4Q_TWIN_BY_THRESHOLD) && choice != int32(INT4Q_TWIN_BY_ERROR) {
            throw .invalid("choice", Int64(choice), expected: "one of INT4Q_TWIN_BY_*")
        }
        let hasPowers = steps == int32(INT4Q_TWIN_STEPS_POWER)
        if !hasPowers && steps != int32(INT4Q_TWIN_STEPS_EVEN) {
            throw .invalid("steps", Int64(steps), expected: "one of INT4Q_TWIN_STEPS_*")
        }
        let writer = TwinCandidates(kind: kind, choice: choice)
        if !isGelu { return writer.softmax(candidates) }
        let top = 1.2 * Double(largest) / 7.5
        if !(largest >= 8e-36 && largest.isFinite) {
            throw Failure(largest.isFinite ? INT4Q_ERROR_INVALID_ARGUMENT : INT4Q_ERROR_NOT_FINITE, "largest",
                          .element(row: 0, column: 0, largest), expected: "a finite activation of at least 8e-36")
        }
        return hasPowers ? writer.geluPowers(candidates, top) : writer.geluEven(candidates, top)
    }

    private func ranges(_ first: Float, _ second: Float) -> int4q_twin_ranges {
        int4q_twin_ranges(kind: kind, choice: choice, first: first, second: second)
    }

    private func softmax(_ candidates: UnsafeMutablePointer<int4q_twin_ranges>) -> Int64 {
        var first: Float = 1.0 / 7
        for index in 0..<TwinCandidates.powers {
            candidates[index] = ranges(first, 1.0 / 7)
            first /= 2
        }
        return Int64(TwinCandidates.powers)
    }

    private func geluEven(_ candidates: UnsafeMutablePointer<int4q_twin_ranges>, _ top: Double) -> Int64 {
        for index in 0..<TwinCandidates.most {
            candidates[index] = ranges(Float(TwinCandidates.leastOfGelu / 8), Float(top * Double(index + 1) / 100))
        }
        return Int64(TwinCandidates.most)
    }

    /// From the largest downwards, but none that is no step.
    private func geluPowers(_ candidates: UnsafeMutablePointer<int4q_twin_ranges>, _ top: Double) -> Int64 {
        let first = Float(TwinCandidates.leastOfGelu / 8)
        var second = first
        while Double(second) * 2 <= top { second *= 2 }
        while Double(second) > top { second /= 2 }
        var count = 0
        while count < TwinCandidates.powers && second >= .leastNormalMagnitude {
            candidates[count] = ranges(first, second)
            second /= 2
            count += 1
        }
        return Int64(count)
    }
}

/// Squared errors of many candidates, summed over rows.
@inline(never)
public func writeErrors(_ candidates: UnsafePointer<int4q_twin_ranges>, count: Int64, _ source: Matrix,
                        _ errors: UnsafeMutablePointer<Double>, rows: Range<Int64>, _ kernels: i4q_kernels) throws(Failure) {
    for index in 0..<Int(count) {
        _ = try TwinRanges(candidates[index], Int64(index))
        errors[index] = 0
    }
    try FloatRuns.with(source, "source", kernels) { (runs) throws(Failure) in
        for row in rows {
            var column = 0
            while column < source.columns {
                let length = runs.load(Int(row), column)
                _ = try runs.range(length, Int(row), column)
                for index in 0..<Int(count) {
                    let raw = candidates[index]
                    var twin = i4q_twin(first: raw.first, second: raw.second, split: 7 * raw.first,
                                        is_gelu: raw.kind == int32(INT4Q_TWIN_GELU) ? 1 : 0,
                                        by_error: raw.choice == int32(INT4Q_TWIN_BY_ERROR) ? 1 : 0)
                    errors[index] += i4q_twin_error_of_run(&twin, runs.floats, Int64(runs.padded(length)))
                }
                column += length
            }
        }
    }
}
