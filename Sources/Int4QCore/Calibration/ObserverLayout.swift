// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// An observer's description that was checked, and where its parts are in memory:
///
///     [header] [counts] [lows] [highs] AVERAGE: [averages of lows, of highs] [lows, highs of the batch being pushed]
///     MOMENTS: [sums] [sums of magnitudes] [sums of squares]   HISTOGRAM: [slots][2 * bins] counts
///
/// one element for each slot, each part at a multiple of 64 bytes.
public struct ObserverLayout {
    public enum Axis { case tensor, channel, token, group }

    public let raw: int4q_observer_desc
    public let axis: Axis
    public let slots: Int
    public let totalBytes: UInt64
    let parts: ObserverParts

    var bins: Int { Int(raw.bins) }
    var hasMoments: Bool { raw.observed & UInt32(INT4Q_OBSERVE_MOMENTS) != 0 }
    var hasHistogram: Bool { raw.observed & UInt32(INT4Q_OBSERVE_HISTOGRAM) != 0 }
    var hasAverage: Bool { raw.observed & UInt32(INT4Q_OBSERVE_AVERAGE) != 0 }

    @inline(never)
    public init(_ raw: int4q_observer_desc) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_observer_desc.self, "desc.struct_size")
        try requireZero(raw.reserved, "desc.reserved")
        switch Int(raw.axis) {
        case Int(INT4Q_AXIS_TENSOR): axis = .tensor
        case Int(INT4Q_AXIS_CHANNEL): axis = .channel
        case Int(INT4Q_AXIS_TOKEN): axis = .token
        case Int(INT4Q_AXIS_GROUP): axis = .group
        default: throw .invalid("desc.axis", Int64(raw.axis), expected: "one of INT4Q_AXIS_*")
        }
        try checkExtent(raw, axis)
        try checkObserved(raw)
        let groups = axis == .group ? (raw.extent - 1) / Int64(raw.group_size) + 1 : max(raw.extent, 1)
        self.raw = raw
        slots = Int(groups)
        parts = try ObserverParts(raw, slots: UInt64(groups))
        totalBytes = parts.end
    }
}

private func checkExtent(_ raw: int4q_observer_desc, _ axis: ObserverLayout.Axis) throws(Failure) {
    if axis == .group {
        try requireAtLeast(Int64(raw.group_size), 1, "desc.group_size")
    } else if raw.group_size != 0 {
        throw .invalid("desc.group_size", Int64(raw.group_size), expected: "0 with this axis")
    }
    if axis != .tensor {
        try requireAtLeast(raw.extent, 1, "desc.extent")
    } else if raw.extent != 0 {
        throw .invalid("desc.extent", raw.extent, expected: "0 with this axis")
    }
}

private func checkObserved(_ raw: int4q_observer_desc) throws(Failure) {
    let average = UInt32(INT4Q_OBSERVE_AVERAGE), histogram = UInt32(INT4Q_OBSERVE_HISTOGRAM)
    if raw.observed & ~(average | histogram | UInt32(INT4Q_OBSERVE_MOMENTS)) != 0 {
        throw .invalid("desc.observed", Int64(raw.observed), expected: "INT4Q_OBSERVE_* added up")
    }
    if raw.observed & histogram == 0 {
        if raw.bins != 0 { throw .invalid("desc.bins", raw.bins, expected: "0 without INT4Q_OBSERVE_HISTOGRAM") }
    } else if raw.bins < 16 || raw.bins > 65536 || raw.bins & (raw.bins - 1) != 0 {
        throw .invalid("desc.bins", raw.bins, expected: "a power of two, 16 to 65536")
    }
    let isMomentum = raw.observed & average == 0 ? raw.momentum == 0 : raw.momentum > 0 && raw.momentum <= 1
    if !isMomentum {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "desc.momentum", .number(raw.momentum),
                      expected: "above 0 and at most 1 with INT4Q_OBSERVE_AVERAGE, else 0")
    }
}

/// Byte offsets; a part that is not there has the offset of the next one.
struct ObserverParts {

    private(set) var counts = 0, lows = 0, highs = 0
    private(set) var averageLows = 0, averageHighs = 0, batchLows = 0, batchHighs = 0
    private(set) var sums = 0, magnitudes = 0, squares = 0, histograms = 0
    private(set) var end = SavedBlock.headerBytes

    init(_ raw: int4q_observer_desc, slots: UInt64) throws(Failure) {
        counts = try take(slots, 8)
        lows = try take(slots, 4)
        highs = try take(slots, 4)
        let average: UInt64 = raw.observed & UInt32(INT4Q_OBSERVE_AVERAGE) == 0 ? 0 : 1
        averageLows = try take(slots, 8 * average)
        averageHighs = try take(slots, 8 * average)
        batchLows = try take(slots, 4 * average)
        batchHighs = try take(slots, 4 * average)
        let moments: UInt64 = raw.observed & UInt32(INT4Q_OBSERVE_MOMENTS) == 0 ? 0 : 8
        sums = try take(slots, moments)
        magnitudes = try take(slots, moments)
        squares = try take(slots, moments)
        histograms = try take(slots, 16 * UInt64(raw.bins))
    }

    @inline(never)
    private mutating func take(_ slots: UInt64, _ bytes: UInt64) throws(Failure) -> Int {
        let part = try CheckedSize(slots, "desc.extent").times(bytes).roundedUp(to: 64)
        let begin = end
        end = try part.plus(begin).value
        return Int(begin)
    }
}
