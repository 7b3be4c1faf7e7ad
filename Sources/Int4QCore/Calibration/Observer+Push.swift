// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

extension Observer {
    /// Takes a batch; nothing in its values can make this fail.
    @inline(never)
    public func push(_ x: Matrix, rows: Int64, _ kernels: i4q_kernels) throws(Failure) {
        try requireExtent(x, rows)
        let isOneRow = layout.axis == .tensor && (rows == 1 || x.strideBytes == x.columns * x.type.size)
        let count = Int64(x.columns) * rows
        let source = isOneRow
            ? try Matrix(x.base, x.type, rows: 1, columns: count, stride: count, .init("x", stride: "ldx")) : x
        let hasLanes = layout.axis == .tensor && layout.hasHistogram && layout.bins <= LaneCounts.mostBins
            && count >= Int64(LaneCounts.leastElements)
        if hasLanes {
            pushInLanes(source, isOneRow ? 1 : Int(rows), kernels)
        } else {
            push(source, isOneRow ? 1 : Int(rows), kernels, nil)
        }
        if layout.hasAverage { moveAverages() }
        batches &+= 1
    }

    /// A function of its own for the sake of its large frame.
    @inline(never)
    private func pushInLanes(_ source: Matrix, _ rows: Int, _ kernels: i4q_kernels) {
        var lanes = LaneCounts()
        withUnsafeMutablePointer(to: &lanes) { push(source, rows, kernels, $0) }
    }

    @inline(never)
    private func push(_ source: Matrix, _ rows: Int, _ kernels: i4q_kernels, _ lanes: UnsafeMutablePointer<LaneCounts>?) {
        var memory = PushMemory()
        withUnsafeMutableBytes(of: &memory) { bytes in
            let pusher = BatchPusher(self, source, kernels, bytes.baseAddress.unsafelyUnwrapped, lanes: lanes)
            if layout.axis == .channel {
                pusher.pushColumns(rows: rows)
            } else {
                pusher.pushRows(rows)
            }
        }
    }

    private func requireExtent(_ x: Matrix, _ rows: Int64) throws(Failure) {
        if layout.axis == .tensor { return }
        let isToken = layout.axis == .token
        let found = isToken ? rows : Int64(x.columns)
        if found != layout.raw.extent {
            throw Failure(INT4Q_ERROR_MISMATCH, isToken ? "rows" : "columns", .integer(found), expected: "the observer's extent,",
                          bound: UInt64(layout.raw.extent))
        }
    }

    /// Slots without a finite value in this batch keep theirs.
    private func moveAverages() {
        let momentum = Double(layout.raw.momentum)
        for slot in 0..<layout.slots where batchLows[slot] <= batchHighs[slot] {
            move(&averageLows[slot], to: Double(batchLows[slot]), momentum, isFirst: averageLows[slot] == .infinity)
            move(&averageHighs[slot], to: Double(batchHighs[slot]), momentum, isFirst: averageHighs[slot] == -.infinity)
        }
        clearBatch()
    }

    private func move(_ average: inout Double, to value: Double, _ momentum: Double, isFirst: Bool) {
        let step = momentum * (value - average)
        average = isFirst ? value : average + step
    }

    func count(_ number: Int, _ slot: Int) { counts[slot] &+= Int64(number) }

    func widen(_ slot: Int, low: Float, high: Float) {
        // Adding +0 makes a negative zero positive: which one came first should not matter.
        lows[slot] = min(lows[slot], low + 0)
        highs[slot] = max(highs[slot], high + 0)
        if layout.hasAverage {
            batchLows[slot] = min(batchLows[slot], low + 0)
            batchHighs[slot] = max(batchHighs[slot], high + 0)
        }
    }
}
