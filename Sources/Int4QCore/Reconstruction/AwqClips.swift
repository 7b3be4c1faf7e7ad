// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

public struct AwqClipScratch {
    let rows: TrialRows
    public let bytes: UInt64

    @inline(never)
    public init(_ scheme: Scheme, k: Int64) throws(Failure) {
        try requireAtLeast(k, 1, "k")
        rows = try TrialRows(scheme, columns: min(scheme.groupSize(k: k), k))
        bytes = UInt64(rows.bytes)
    }
}

/// AWQ's search for the magnitude to which a group's weights are best clipped.
public struct AwqClips {
    private let trial: QuantizationTrial
    private let scratch: AwqClipScratch
    private let memory: UnsafeMutableRawPointer
    private let steps: Int32
    private let tried: Int32
    private let clips: UnsafeMutablePointer<Float>
    private let destination: Matrix?

    public init(_ trial: QuantizationTrial, _ scratch: AwqClipScratch, _ memory: UnsafeMutableRawPointer, steps: Int32, tried: Int32,
                _ clips: UnsafeMutablePointer<Float>, _ destination: Matrix?) throws(Failure) {
        if steps < 1 || steps > 1000 { throw .invalid("steps", Int64(steps), expected: "1 to 1000") }
        if tried < 1 || tried > steps { throw .invalid("tried", Int64(tried), expected: "1 to steps,", bound: UInt64(steps)) }
        self.trial = trial
        self.scratch = scratch
        self.memory = memory
        self.steps = steps
        self.tried = tried
        self.clips = clips
        self.destination = destination
    }

    @inline(never)
    public func run(_ rows: Range<Int64>) throws(Failure) {
        try trial.codebooks?.check(rows, "codebook")
        var row = rows.lowerBound
        while row < rows.upperBound {
            let end = min(row + 16, rows.upperBound)
            let k = trial.source.columns, size = min(Int(trial.scheme.groupSize(k: Int64(k))), k)
            let groups = (k - 1) / size + 1
            for group in 0..<groups {
                try search(row..<end, group * size..<min(group * size + size, k), clips + Int(row) * groups + group, stride: groups)
            }
            row = end
        }
    }

    /// One group of up to 16 rows.
    private func search(_ rows: Range<Int64>, _ columns: Range<Int>, _ clips: UnsafeMutablePointer<Float>, stride: Int) throws(Failure) {
        let source = trial.source, count = rows.count
        let part = Matrix(base: source.row(Int(rows.lowerBound)) + columns.lowerBound * source.type.size, type: source.type,
                          columns: columns.count, strideBytes: source.strideBytes)
        let clipped = scratch.rows.matrix(memory, columns.count), form = scratch.rows.form(trial.gram, memory, trial.kernels)
        let panels = columns.lowerBound / panelWidth..<(columns.upperBound + panelWidth - 1) / panelWidth
        try StackMemory<4>.use { (room) throws(Failure) in
            let largest = room.assumingMemoryBound(to: Float.self), limits = largest + 16
            let best = (room + 128).assumingMemoryBound(to: Double.self)
            for row in 0..<count { largest[row] = try largestMagnitude(part, row, rows.lowerBound, columns.lowerBound) }
            for step in 0..<tried {
                let share = Float(1 - Double(step) / Double(steps))
                for row in 0..<count { limits[row] = largest[row] * share }
                try clip(part, limits, clipped, count)
                let isUsable = tryRows(clipped, part, form, count, rows.lowerBound)
                form.add(panels)
                for row in 0..<count {
                    let loss = isUsable & (1 << row) != 0 ? form.sums[row] : .infinity
                    if step == 0 || loss < best[row] {
                        best[row] = loss
                        clips[row * stride] = limits[row]
                    }
                }
            }
            guard let destination else { return }
            for row in 0..<count { limits[row] = clips[row * stride] }
            let target = Matrix(base: destination.row(Int(rows.lowerBound)) + columns.lowerBound * destination.type.size,
                                type: destination.type, columns: columns.count, strideBytes: destination.strideBytes)
            try clip(part, limits, target, count)
        }
    }

    private func largestMagnitude(_ part: Matrix, _ row: Int, _ firstRow: Int64, _ firstColumn: Int) throws(Failure) -> Float {
        var range = i4q_group_range()
        var largest: Float = 0
        try FloatRuns.with(part, "source", trial.kernels) { (runs) throws(Failure) in
            var column = 0
            while column < part.columns {
                let count = runs.load(row, column)
                trial.kernels.group_range.unsafelyUnwrapped(runs.floats, Int64(count), &range)
                let bad = Int(range.first_not_finite)
                if bad >= 0 { throw runs.notFinite(runs.floats[bad], Int(firstRow) + row, firstColumn + column + bad) }
                largest = max(largest, max(-range.min, range.max))
                column += count
            }
        }
        return largest
    }

    @inline(never)
    private func clip(_ source: Matrix, _ limits: UnsafePointer<Float>, _ target: Matrix, _ rows: Int) throws(Failure) {
        try FloatRuns.with(source, "source", trial.kernels) { (runs) throws(Failure) in
            for row in 0..<rows {
                var column = 0
                while column < source.columns {
                    let count = runs.load(row, column), limit = limits[row]
                    for index in 0..<count { runs.floats[index] = max(min(runs.floats[index], limit), -limit) }
                    trial.kernels.store.unsafelyUnwrapped(runs.floats, Int64(count), Int64(target.type.raw),
                                                          target.mutableRow(row) + column * target.type.size)
                    column += count
                }
            }
        }
    }

    /// Errors of what clipped rows become; a bit for each row that can be quantized.
    private func tryRows(_ clipped: Matrix, _ part: Matrix, _ form: GramForm, _ rows: Int, _ firstRow: Int64) -> Int {
        var usable = 0
        guard let tensor = try? scratch.rows.tensor(memory, rows: rows, columns: part.columns, codebook: trial.codebook(firstRow)) else {
            return 0
        }
        for row in 0..<Int64(rows) {
            do throws(Failure) {
                try quantize(tensor, clipped, rows: row..<row + 1, trial.kernels)
                usable |= 1 << Int(row)
            } catch {}
        }
        // Of rows that cannot be quantized the parts are what they were: floats of any kind, whose sums are not used.
        try? form.load(tensor, part, 0..<Int64(rows))
        return usable
    }
}
