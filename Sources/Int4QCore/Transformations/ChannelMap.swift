// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// A caller's map of channels that was checked: parts in ascending order of target, no target without one.
public struct ChannelMap {
    public let k: Int64
    public let newK: Int64
    private let parts: UnsafeBufferPointer<int4q_channel_part>

    @inline(never)
    public init(_ raw: int4q_reassembly) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_reassembly.self, "map.struct_size")
        try requireZero(raw.reserved, "map.reserved")
        try ChannelMap.requireCount(raw.k, "map.k")
        try ChannelMap.requireCount(raw.new_k, "map.new_k")
        try requireAtLeast(raw.part_count, raw.new_k, "map.part_count")
        k = raw.k
        newK = raw.new_k
        parts = UnsafeBufferPointer(start: try require(raw.parts, "map.parts"), count: Int(raw.part_count))
        var target: Int64 = -1
        for index in 0..<parts.count {
            let part = parts[index]
            let isNext = Int64(part.target) == target || Int64(part.target) == target + 1
            if part.target < 0 || !isNext || Int64(part.target) >= newK || (index == parts.count - 1 && Int64(part.target) != newK - 1) {
                throw ChannelMap.bad(index, Int64(part.target), "targets in ascending order, each of 0 to new_k - 1")
            }
            if part.source < 0 || Int64(part.source) >= k {
                throw ChannelMap.bad(index, Int64(part.source), "sources of 0 to k - 1")
            }
            if !part.x_factor.isFinite || part.reserved != 0 {
                throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "map.parts", .listed(index: Int64(index), part.x_factor),
                              expected: "finite factors, and zeros in `reserved`")
            }
            target = Int64(part.target)
        }
    }

    private static func bad(_ index: Int, _ value: Int64, _ expected: Text) -> Failure {
        Failure(INT4Q_ERROR_INVALID_ARGUMENT, "map.parts", .entry(index: Int64(index), value), expected: expected)
    }

    /// Channels have numbers of 32 bits.
    @inline(never)
    static func requireCount(_ count: Int64, _ name: Text) throws(Failure) {
        try requireAtLeast(count, 1, name)
        if count > Int64(Int32.max) {
            throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, name, .integer(count), expected: "at most", bound: UInt64(Int32.max))
        }
    }

    /// Of a row of both.
    @inline(never)
    public static func rowBytes(k: Int64, newK: Int64) throws(Failure) -> UInt64 {
        try requireCount(k, "k")
        try requireCount(newK, "new_k")
        return UInt64(wholeLines(Int(k + newK) * 4))
    }

    @inline(never)
    public static func takesWeights(_ side: Int32) throws(Failure) -> Bool {
        if side == int32(INT4Q_REASSEMBLY_WEIGHTS) { return true }
        if side == int32(INT4Q_REASSEMBLY_INPUTS) { return false }
        throw .invalid("side", Int64(side), expected: "INT4Q_REASSEMBLY_INPUTS or INT4Q_REASSEMBLY_WEIGHTS")
    }

    @inline(never)
    public func apply(_ source: Matrix, to target: Matrix, rows: Range<Int64>, ofWeights: Bool, _ memory: UnsafeMutableRawPointer,
                      _ kernels: i4q_kernels) {
        let old = memory.assumingMemoryBound(to: Float.self), new = old + Int(k)
        for row in rows {
            kernels.load.unsafelyUnwrapped(source.row(Int(row)), Int64(source.type.raw), k, old)
            new.update(repeating: 0, count: Int(newK))
            for part in parts {
                let value = old[Int(part.source)]
                new[Int(part.target)] += ofWeights ? value : part.x_factor * value
            }
            kernels.store.unsafelyUnwrapped(new, newK, Int64(target.type.raw), target.mutableRow(Int(row)))
        }
    }

    /// Fills a new matrix of newK channels.
    @inline(never)
    public func apply(_ gram: Gram, to target: Gram) {
        target.takeCounts(of: gram)
        for index in 0..<parts.count {
            let part = parts[index], channel = Int(part.target), source = Int(part.source), factor = Double(part.x_factor)
            target.sums[channel] += factor * gram.sums[source]
            target.magnitudes[channel] += factor.magnitude * gram.magnitudes[source]
            target.maxima[channel] += part.x_factor.magnitude * gram.maxima[source]
            for otherIndex in 0..<parts.count {
                let other = parts[otherIndex], column = Int(other.target)
                // Those above the diagonal, and all of the squares on it.
                if column < channel && column / panelWidth != channel / panelWidth { continue }
                let product = gram.products[TrianglePanels.symmetricPlace(source, Int(other.source))]
                target.products[TrianglePanels.place(channel, column)] += factor * Double(other.x_factor) * product
            }
        }
        for channel in 0..<Int(newK) {
            let place = TrianglePanels.place(channel, channel)
            target.products[place] = max(target.products[place], 0)
        }
    }
}

extension Gram {
    /// Rows and batches, which stand side by side in the header (docs/reconstruction.md).
    fileprivate func takeCounts(of other: Gram) { (memory + 32).copyMemory(from: other.memory + 32, byteCount: 16) }
}
