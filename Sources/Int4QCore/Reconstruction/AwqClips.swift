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
    /// Nil: 1, 1 - 1 / steps and so on.
    private let shares: UnsafePointer<Float>?
    private let clips: UnsafeMutablePointer<Float>
    private let destination: Matrix?

    @inline(never)
    public init(_ trial: QuantizationTrial, _ scratch: AwqClipScratch, _ memory: UnsafeMutableRawPointer, steps: Int32,
                tried: Int32, shares: UnsafePointer<Float>? = nil, _ clips: UnsafeMutablePointer<Float>,
                _ destination: Matrix?) throws(Failure) {
        if steps < 1 || steps > 1000 { throw .invalid("steps", Int64(steps), expected: "1 to 1000") }
        if tried < 1 || tried > steps { throw .invalid("tried", Int64(tried), expected: "1 to steps,", bound: UInt64(steps)) }
        self.trial = trial
        self.scratch = scratch
        self.memory = memory
        self.steps = steps
        self.tried = tried
        self.shares = shares
        self.clips = clips
        self.destination = destination
    }

    @inline(never)
    public func run(_ rows: Range<Int64>) throws(Failure) {
        try trial.codebooks?.check(rows, "codebook")
        let k = trial.source.columns, size = min(Int(trial.scheme.groupSize(k: Int64(k))), k), groups = (k - 1) / size + 1
        var row = rows.lowerBound
        while row < rows.upperBound {
            let end = min(row + 16, rows.upperBound)
            // First of all the largest magnitudes.
            let own = clips + Int(row) * groups
            own.update(repeating: 0, count: Int(end - row) * groups)
            try raise(own, trial.source, rows: row..<end, size: size, stride: groups, trial.kernels)
            for group in 0..<groups {
                try search(row..<end, group * size..<min(group * size + size, k), own + group, stride: groups)
            }
            row = end
        }
    }

    /// One group of up to 16 rows. `clips` begin as its largest magnitudes.
    @inline(never)
    private func search(_ rows: Range<Int64>, _ columns: Range<Int>, _ clips: UnsafeMutablePointer<Float>,
                        stride: Int) throws(Failure) {
        let count = rows.count, source = part(trial.source, rows, columns)
        let clipped = scratch.rows.matrix(memory, columns.count), form = scratch.rows.form(trial.gram, memory, trial.kernels)
        let panels = columns.lowerBound / panelWidth..<(columns.upperBound + panelWidth - 1) / panelWidth
        try StackMemory<4>.use { (room) throws(Failure) in
            let largest = room.assumingMemoryBound(to: Float.self), limits = largest + 16
            let best = (room + 128).assumingMemoryBound(to: Double.self)
            for row in 0..<count { largest[row] = clips[row * stride] }
            for step in 0..<tried {
                let share = shares?[Int(step)] ?? Float(1 - Double(step) / Double(steps))
                for row in 0..<count { limits[row] = largest[row] * share }
                try clip(source, limits, clipped, count)
                let usable = tryRows(clipped, source, form, count, rows.lowerBound)
                form.add(panels)
                for row in 0..<count {
                    let loss = usable & (1 << row) != 0 ? form.sums[row] : .infinity
                    if step == 0 || loss < best[row] {
                        best[row] = loss
                        clips[row * stride] = limits[row]
                    }
                }
            }
            guard let destination else { return }
            for row in 0..<count { limits[row] = clips[row * stride] }
            try clip(source, limits, part(destination, rows, columns), count)
        }
    }

    private func part(_ matrix: Matrix, _ rows: Range<Int64>, _ columns: Range<Int>) -> Matrix {
        Matrix(base: matrix.row(Int(rows.lowerBound)) + columns.lowerBound * matrix.type.size, type: matrix.type,
               columns: columns.count, strideBytes: matrix.strideBytes)
    }

    @inline(never)
    private func clip(_ source: Matrix, _ limits: UnsafePointer<Float>, _ target: Matrix, _ rows: Int) throws(Failure) {
        let store = trial.kernels.store.unsafelyUnwrapped
        try source.eachRun(0..<Int64(rows), trial.kernels, isChecked: false) { runs, row, column, count in
            for index in 0..<count { runs.floats[index] = max(min(runs.floats[index], limits[row]), -limits[row]) }
            store(runs.floats, Int64(count), Int64(target.type.raw), target.mutableRow(row) + column * target.type.size)
        }
    }

    /// Errors of what clipped rows become; a bit for each row that can be quantized.
    @inline(never)
    private func tryRows(_ clipped: Matrix, _ source: Matrix, _ form: GramForm, _ rows: Int, _ firstRow: Int64) -> Int {
        var usable = 0
        do throws(Failure) {
            let tensor = try scratch.rows.tensor(memory, rows: rows, columns: source.columns, codebook: trial.codebook(firstRow))
            for row in 0..<Int64(rows) {
                do throws(Failure) {
                    try quantize(tensor, clipped, rows: row..<row + 1, trial.kernels)
                    usable |= 1 << Int(row)
                } catch {}
            }
            // Rows that cannot be quantized decode to floats of any kind, which are not used.
            try form.load(tensor, source, 0..<Int64(rows), trial.kernels)
        } catch {
            // Neither fails: the codebook has been checked, and all is finite.
            return 0
        }
        return usable
    }
}
