// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

public struct ReassemblyOptions {
    let raw: int4q_reassembly_options
    var widens: Bool { raw.flags & UInt32(INT4Q_REASSEMBLY_WIDEN) != 0 }

    @inline(never)
    public init(_ raw: int4q_reassembly_options, k: Int64) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_reassembly_options.self, "options.struct_size")
        if raw.flags & ~UInt32(INT4Q_REASSEMBLY_WIDEN) != 0 {
            throw .invalid("options.flags", Int64(raw.flags), expected: "INT4Q_REASSEMBLY_* or 0")
        }
        if !(raw.threshold >= 0 && raw.threshold.isFinite) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "options.threshold", .number(Float(raw.threshold)),
                          expected: "a finite number above 0, or 0 for a search")
        }
        if raw.most_copies < 0 || raw.most_copies > k / 2 {
            throw .invalid("options.most_copies", raw.most_copies, expected: "0 to k / 2,", bound: UInt64(k / 2))
        }
        if raw.steps < 1 || raw.steps > 1000 { throw .invalid("options.steps", Int64(raw.steps), expected: "1 to 1000") }
        if raw.bits < 2 || raw.bits > 16 { throw .invalid("options.bits", Int64(raw.bits), expected: "2 to 16") }
        try requireAtLeast(raw.group_size, 0, "options.group_size")
        self.raw = raw
    }
}

/// Which channels are split and merged, and where their parts go.
public struct ReassemblyPlan {
    private let gram: Gram
    private let weights: Gram?
    private let options: ReassemblyOptions
    private let memory: UnsafeMutableRawPointer
    private let k: Int
    private var threshold = 0.0
    private var copies = 0
    private var splitChannels: Int64 = 0
    private var mergeLoss = 0.0
    private var roundingLoss = 0.0

    /// For each channel: into how many it is split, the one that it is merged into or -1, the most similar one, and its distance;
    /// for each of at most 3 k / 2 places the mean square of its input and the squares of its column of weights.
    @inline(never)
    public static func scratchBytes(k: Int64) throws(Failure) -> UInt64 {
        try ChannelMap.requireCount(k, "k")
        return UInt64(wholeLines(Int(k) * 32))
    }

    private var distances: UnsafeMutablePointer<Double> { memory.assumingMemoryBound(to: Double.self) }
    private var counts: UnsafeMutablePointer<Int32> { (memory + 8 &* k).assumingMemoryBound(to: Int32.self) }
    private var partners: UnsafeMutablePointer<Int32> { counts + k }
    private var similar: UnsafeMutablePointer<Int32> { partners + k }
    private var inputs: UnsafeMutablePointer<Float> { (memory + 20 &* k).assumingMemoryBound(to: Float.self) }
    private var squares: UnsafeMutablePointer<Float> { inputs + (k &+ k / 2) }
    private var newK: Int { options.widens ? k &+ copies : k }

    @inline(never)
    public init(_ gram: Gram, _ weights: Gram?, _ options: ReassemblyOptions, _ memory: UnsafeMutableRawPointer) throws(Failure) {
        self.gram = gram
        self.weights = weights
        self.options = options
        self.memory = memory
        k = Int(gram.layout.k)
        try gram.validate("gram")
        if let weights {
            try weights.validate("weights")
            if weights.layout.k != gram.layout.k {
                throw Failure(INT4Q_ERROR_MISMATCH, "weights", .integer(weights.layout.k), expected: "the inputs' k,",
                              bound: UInt64(gram.layout.k))
            }
        } else if options.raw.threshold == 0 {
            throw Failure(INT4Q_ERROR_NULL_POINTER, "weights", .text("NULL"), expected: "the weights' Gram matrix, for a search")
        }
        for channel in 0..<k where gram.maxima[channel] == 0 && gram.diagonal(channel) > 0 {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "gram", .listed(index: Int64(channel), 0),
                          expected: "channels whose maxima are known")
        }
    }

    @inline(never)
    public mutating func run() throws(Failure) {
        if options.raw.threshold > 0 {
            if try evaluate(options.raw.threshold) { return }
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "options.threshold", .number(Float(options.raw.threshold)),
                          expected: "one that most_copies, and as many channels to merge, are enough for")
        }
        var largest = 0.0
        for channel in 0..<k { largest = max(largest, Double(gram.maxima[channel])) }
        // From the largest on, which splits nothing; only less loss counts.
        var best = largest, least = Double.infinity
        for step in stride(from: options.raw.steps, to: 0, by: -1) {
            let candidate = largest * Double(step) / Double(options.raw.steps)
            if try evaluate(candidate), mergeLoss + roundingLoss < least {
                least = mergeLoss + roundingLoss
                best = candidate
            }
        }
        _ = try evaluate(best)
    }

    @inline(never)
    public func write(to report: UnsafeMutablePointer<int4q_reassembly_report>) {
        report.pointee.new_k = Int64(newK)
        report.pointee.part_count = partCount
        report.pointee.split_channels = splitChannels
        report.pointee.copies = Int64(copies)
        report.pointee.threshold = threshold
        report.pointee.merge_loss = mergeLoss
        report.pointee.rounding_loss = roundingLoss
    }

    public var partCount: Int64 { Int64(k + copies) }

    public func write(to parts: UnsafeMutablePointer<int4q_channel_part>) { layOut(parts) }

    // MARK: One threshold

    /// False if there are too few channels.
    @inline(never)
    private mutating func evaluate(_ threshold: Double) throws(Failure) -> Bool {
        self.threshold = threshold
        copies = 0
        splitChannels = 0
        mergeLoss = 0
        for channel in 0..<k {
            partners[channel] = -1
            let largest = Double(gram.maxima[channel])
            let count = largest > threshold ? (largest / threshold).rounded(.up) : 1
            if count - 1 > Double(options.raw.most_copies) { return false }
            counts[channel] = Int32(count)
            copies += Int(count) - 1
            if count > 1 { splitChannels += 1 }
            if copies > Int(options.raw.most_copies) { return false }
        }
        if copies > 0 && !options.widens && !merge() { return false }
        layOut(nil)
        roundingLoss = weights == nil ? 0 : estimateRounding()
        return true
    }

    /// Every second one of the channels that are not split finds the most similar one of the others; those of the least distances
    /// are merged.
    @inline(never)
    private mutating func merge() -> Bool {
        var isFirst = true, others = 0, seekers = 0
        for channel in 0..<k {
            similar[channel] = -1
            if counts[channel] > 1 { continue }
            // -1: a seeker, -2: one of the others.
            similar[channel] = isFirst ? -1 : -2
            if isFirst { seekers &+= 1 } else { others &+= 1 }
            isFirst.toggle()
        }
        if others == 0 || seekers < copies { return false }
        for channel in 0..<k where counts[channel] == 1 && similar[channel] == -1 {
            var best = -1, least = Double.infinity
            for other in 0..<k where counts[other] == 1 && similar[other] == -2 {
                let distance = self.distance(channel, other)
                if distance < least || best < 0 {
                    least = distance
                    best = other
                }
            }
            distances[channel] = least
            partners[channel] = Int32(best)
        }
        // The most similar ones are kept in `similar`, and come back one by one.
        for channel in 0..<k {
            if partners[channel] >= 0 { similar[channel] = partners[channel] } else { similar[channel] = -1 }
            partners[channel] = -1
        }
        for _ in 0..<copies {
            var best = -1
            for channel in 0..<k where similar[channel] >= 0 {
                if best < 0 || distances[channel] < distances[best] { best = channel }
            }
            partners[best] = similar[best]
            similar[best] = -1
            mergeLoss += distances[best] * gram.share
        }
        return true
    }

    @inline(__always)
    private func distance(_ a: Int, _ b: Int) -> Double {
        let inputs = ReassemblyPlan.distance(gram, a, b)
        guard let weights else { return inputs / 4 }
        return inputs * ReassemblyPlan.distance(weights, a, b) / 4
    }

    @inline(__always)
    private static func distance(_ gram: Gram, _ a: Int, _ b: Int) -> Double {
        let squares = gram.diagonal(a) + gram.diagonal(b)
        return max(squares - 2 * gram.products[TrianglePanels.symmetricPlace(a, b)], 0)
    }

    // MARK: Places

    /// Fills the places' squares, and writes parts if they have a place.
    @inline(never)
    private func layOut(_ parts: UnsafeMutablePointer<int4q_channel_part>?) {
        let merges = copies > 0 && !options.widens
        var written = 0, copied = 0, copiesLeft = Int(counts[0]) - 1
        for place in 0..<newK {
            if place < k && partners[place] < 0 {
                var members = 1
                if merges { for other in 0..<k where Int(partners[other]) == place { members &+= 1 } }
                let factor = 1 / Float(members &* Int(counts[place]))
                var input = 0.0, column = 0.0
                for source in members == 1 ? place..<place &+ 1 : 0..<k where source == place || Int(partners[source]) == place {
                    input += square(gram, source, place, members)
                    if let weights { column += square(weights, source, place, members) }
                    parts?[written] = int4q_channel_part(target: Int32(place), source: Int32(source), x_factor: factor, reserved: 0)
                    written &+= 1
                }
                inputs[place] = Float(input * gram.share) * factor * factor
                squares[place] = Float(column)
            } else {
                while copiesLeft == 0 {
                    copied &+= 1
                    copiesLeft = Int(counts[copied]) - 1
                }
                copiesLeft &-= 1
                let factor = 1 / Float(counts[copied])
                inputs[place] = Float(gram.diagonal(copied) * gram.share) * factor * factor
                squares[place] = Float(weights?.diagonal(copied) ?? 0)
                parts?[written] = int4q_channel_part(target: Int32(place), source: Int32(copied), x_factor: factor, reserved: 0)
                written &+= 1
            }
        }
    }

    /// What a channel adds to the square of a place's sum, with the members before it.
    @inline(never)
    private func square(_ gram: Gram, _ source: Int, _ place: Int, _ members: Int) -> Double {
        var sum = gram.diagonal(source)
        if members == 1 { return sum }
        for other in 0..<source where other == place || Int(partners[other]) == place {
            sum += 2 * gram.products[TrianglePanels.symmetricPlace(source, other)]
        }
        return sum
    }

    /// A group's step follows its largest magnitude in each row, whose square is on average near (sum of v^(5/2))^(2/5), v being
    /// the channels' mean squares: v itself if one is alone, and 7 v for 128 of the same v (8 v if they are normal).
    @inline(never)
    private func estimateRounding() -> Double {
        let size = options.raw.group_size == 0 ? newK : Int(min(options.raw.group_size, Int64(newK)))
        let levels = Double(1 << (Int(options.raw.bits) - 1) - 1)
        var sum = 0.0, begin = 0
        while begin < newK {
            let end = min(begin + size, newK)
            var powers = 0.0, columns = 0.0
            for place in begin..<end {
                let square = Double(max(inputs[place], 0))
                powers += square * square * square.squareRoot()
                columns += Double(squares[place])
            }
            sum += i4q_pow(powers, 0.4) / (levels * levels) / 12 * columns
            begin = end
        }
        return sum
    }
}
