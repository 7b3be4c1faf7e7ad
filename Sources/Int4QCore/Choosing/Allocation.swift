// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// Losses and bytes of candidates for layers, as a caller gives them, checked.
public struct AllocationProblem {
    let losses: UnsafePointer<Double>
    let bytes: UnsafePointer<UInt64>
    let weights: UnsafePointer<Double>?
    let layers: Int
    let candidates: Int

    @inline(never)
    public init(_ losses: UnsafePointer<Double>, _ bytes: UnsafePointer<UInt64>, weights: UnsafePointer<Double>?, layers: Int64,
                candidates: Int64) throws(Failure) {
        _ = try AllocationScratch(layers: layers, candidates: candidates)
        self.losses = losses
        self.bytes = bytes
        self.weights = weights
        self.layers = Int(layers)
        self.candidates = Int(candidates)
        try check()
    }

    private func check() throws(Failure) {
        var most: UInt64 = 0, total = 0.0
        for layer in 0..<layers {
            if let weights, !(weights[layer] >= 0 && weights[layer].isFinite) {
                throw Failure(weights[layer].isFinite ? INT4Q_ERROR_INVALID_ARGUMENT : INT4Q_ERROR_NOT_FINITE, "weights",
                              .listed(index: Int64(layer), Float(weights[layer])), expected: "finite numbers of at least 0")
            }
            var largest: UInt64 = 0, isPossible = false, worst = 0.0
            for candidate in 0..<candidates {
                let loss = losses[layer &* candidates &+ candidate]
                if !(loss >= 0) {
                    throw Failure(loss.isNaN ? INT4Q_ERROR_NOT_FINITE : INT4Q_ERROR_INVALID_ARGUMENT, "losses",
                                  .element(row: Int64(layer), column: Int64(candidate), Float(loss)),
                                  expected: "numbers of at least 0, or infinity")
                }
                if !loss.isFinite { continue }
                isPossible = true
                worst = max(worst, loss)
                largest = max(largest, bytes[layer &* candidates &+ candidate])
            }
            if !isPossible {
                throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "losses", .listed(index: Int64(layer), .infinity),
                              expected: "a candidate with a finite loss for each layer")
            }
            total += worst * (weights?[layer] ?? 1)
            if !total.isFinite {
                throw Failure(INT4Q_ERROR_NOT_FINITE, "losses", .listed(index: Int64(layer), Float(worst)),
                              expected: "numbers whose weighted sums are finite")
            }
            let (sum, overflow) = most.addingReportingOverflow(largest)
            if overflow || sum > UInt64(Int64.max) {
                throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, "bytes", .unsigned(largest), expected: "sums that fit in 63 bits")
            }
            most = sum
        }
    }

    /// MixQuant: the fewest bytes that cost hardly more than the reference.
    @inline(never)
    public func choose(reference: Int64, tolerance: Double, _ choices: UnsafeMutablePointer<Int32>) throws(Failure) {
        if reference < 0 || reference >= Int64(candidates) {
            throw .invalid("reference", reference, expected: "0 or more and below", bound: UInt64(candidates))
        }
        if !(tolerance >= 0 && tolerance.isFinite) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "tolerance", .number(Float(tolerance)), expected: "finite and at least 0")
        }
        for layer in 0..<layers {
            let losses = self.losses + layer &* candidates, bytes = self.bytes + layer &* candidates
            let limit = (1 + tolerance) * losses[Int(reference)]
            var best = -1
            for index in 0..<candidates where losses[index] <= limit && losses[index].isFinite {
                let isEqual = best >= 0 && bytes[index] == bytes[best]
                if best < 0 || bytes[index] < bytes[best] || (isEqual && losses[index] < losses[best]) { best = index }
            }
            choices[layer] = Int32(best)
        }
    }
}

/// Where the parts of the scratch are:
///
///     [layers][candidates] options     [layers + 1] lists     [candidates] places in a list     states
public struct AllocationScratch {
    let lists: Int
    let heads: Int
    let states: Int
    /// Losses, and bytes.
    public let cells: Int64

    @inline(never)
    public init(layers: Int64, candidates: Int64) throws(Failure) {
        try requireAtLeast(layers, 1, "layers")
        if candidates < 1 || candidates > 4096 { throw .invalid("candidates", candidates, expected: "1 to 4096") }
        let each = UInt64(candidates) * UInt64(MemoryLayout<AllocationOption>.stride)
        let lists = try CheckedSize(UInt64(layers), "layers").times(each).roundedUp(to: 64)
        let heads = try CheckedSize(UInt64(layers), "layers").plus(1).times(UInt64(MemoryLayout<AllocationList>.stride))
            .plus(lists.value).roundedUp(to: 64)
        self.lists = Int(lists.value)
        cells = layers * candidates
        self.heads = Int(heads.value)
        states = Int(try heads.plus(UInt64(candidates) * 8).roundedUp(to: 64).value)
    }

    public func bytes(states count: Int64) throws(Failure) -> UInt64 {
        if count < 1 || count > Int64(Int32.max) { throw .invalid("states", count, expected: "1 to 2147483647") }
        let each = UInt64(MemoryLayout<AllocationState>.stride)
        return try CheckedSize(UInt64(count), "states").times(each).plus(UInt64(states)).value
    }
}

/// A candidate of a layer that no other beats in both.
private struct AllocationOption {
    var bytes: UInt64
    var loss: Double
    var index: Int32
}

private struct AllocationList {
    /// Of options.
    var count = 0
    /// The layer's states.
    var begin = 0, end = 0
    /// The option of the best choice known.
    var known = 0
    /// Of all layers before: the fewest bytes, and the least loss + price * (bytes beyond the fewest).
    var leastBytes: UInt64 = 0
    var leastCost = 0.0
}

/// What a choice for a layer and all after it comes to.
private struct AllocationState {
    var bytes: UInt64
    var loss: Double
    /// The state of the next layer that it continues.
    var parent: Int32
    var choice: Int32
}

/// The exact optimum, by lists of states that no other beats and that may still become the best.
///
/// With a price for each byte, any choice's loss is at least that of a choice free of any budget, of loss + price * bytes, less
/// price * budget. The price is that for which this bound is greatest.
public struct Allocator {
    private let problem: AllocationProblem
    private let budget: UInt64
    private let options: UnsafeMutablePointer<AllocationOption>
    private let lists: UnsafeMutablePointer<AllocationList>
    private let heads: UnsafeMutablePointer<Int>
    private let states: UnsafeMutablePointer<AllocationState>
    private let capacity: Int
    private let scratchBytes: UInt64
    private var price = 0.0
    /// What the budget leaves beyond the fewest bytes, and what that costs at the price.
    private var slack: UInt64 = 0
    private var slackCost: Double { price * Double(slack) }
    /// Bounds above this cannot lead to the best choice.
    private var limit = Double.infinity
    private var used = 0

    @inline(never)
    public init(_ problem: AllocationProblem, budget: UInt64, _ memory: UnsafeMutableRawPointer, bytes: UInt64) throws(Failure) {
        let scratch = try AllocationScratch(layers: Int64(problem.layers), candidates: Int64(problem.candidates))
        self.problem = problem
        self.budget = budget
        options = memory.assumingMemoryBound(to: AllocationOption.self)
        lists = (memory + scratch.lists).assumingMemoryBound(to: AllocationList.self)
        heads = (memory + scratch.heads).assumingMemoryBound(to: Int.self)
        states = (memory + scratch.states).assumingMemoryBound(to: AllocationState.self)
        let room = (bytes - UInt64(scratch.states)) / UInt64(MemoryLayout<AllocationState>.stride)
        capacity = Int(min(room, UInt64(Int32.max)))
        scratchBytes = bytes
        for layer in 0...problem.layers { lists[layer] = AllocationList() }
        for layer in 0..<problem.layers { takeOptions(layer) }
        let least = lists[problem.layers].leastBytes
        if least > budget {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "budget", .unsigned(budget), expected: "at least", bound: least)
        }
        slack = budget - least
    }

    private func own(_ layer: Int) -> UnsafeMutablePointer<AllocationOption> { options + layer &* problem.candidates }

    /// Candidates by bytes, without those that another beats or equals.
    private func takeOptions(_ layer: Int) {
        let own = own(layer), weight = problem.weights?[layer] ?? 1
        var count = 0
        for index in 0..<problem.candidates {
            let place = layer &* problem.candidates &+ index, loss = problem.losses[place]
            if !loss.isFinite { continue }
            let option = AllocationOption(bytes: problem.bytes[place], loss: weight * loss, index: Int32(index))
            var begin = 0
            while begin < count && own[begin].bytes < option.bytes { begin += 1 }
            // Those before take fewer bytes, and the losses of all fall.
            if begin > 0 && own[begin - 1].loss <= option.loss { continue }
            if begin < count && own[begin].bytes == option.bytes && own[begin].loss <= option.loss { continue }
            var end = begin
            while end < count && own[end].loss >= option.loss { end += 1 }
            let moved = count - end
            if begin + 1 > end {
                for other in stride(from: count - 1, through: end, by: -1) { own[other + 1] = own[other] }
            } else {
                for other in 0..<moved { own[begin + 1 + other] = own[end + other] }
            }
            own[begin] = option
            count = begin + 1 + moved
        }
        lists[layer].count = count
        lists[layer + 1].leastBytes = lists[layer].leastBytes + own[0].bytes
    }

    @inline(never)
    public mutating func run(_ choices: UnsafeMutablePointer<Int32>, _ allocation: UnsafeMutablePointer<int4q_allocation>) throws(Failure) {
        findPrice()
        let bound = lists[problem.layers].leastCost - slackCost
        let known = improveKnown()
        let share = max(1e-9, Double(problem.layers) * 0x1p-50)
        limit = known + share * (known + slackCost + lists[problem.layers].leastCost)
        append(AllocationState(bytes: 0, loss: 0, parent: -1, choice: -1))
        lists[problem.layers].end = used
        for layer in stride(from: problem.layers - 1, through: 0, by: -1) { try extend(layer) }
        let last = used - 1
        var state = last
        for layer in 0..<problem.layers {
            choices[layer] = states[state].choice
            state = Int(states[state].parent)
        }
        allocation.pointee.loss = states[last].loss
        allocation.pointee.bound = max(min(bound, states[last].loss), 0)
        allocation.pointee.bytes = states[last].bytes
        allocation.pointee.states = Int64(used)
    }

    private mutating func append(_ state: AllocationState) {
        states[used] = state
        used &+= 1
    }

    // MARK: The bound

    private func extra(_ layer: Int, _ option: Int) -> UInt64 { own(layer)[option].bytes - own(layer)[0].bytes }

    /// The best choice with bytes at a price, into `known` and `leastCost`; whether it is within the budget.
    private func choose(at price: Double) -> Bool {
        var taken: UInt64 = 0
        for layer in 0..<problem.layers {
            var best = 0, least = Double.infinity
            for option in 0..<lists[layer].count {
                let cost = own(layer)[option].loss + price * Double(extra(layer, option))
                if cost < least {
                    least = cost
                    best = option
                }
            }
            lists[layer].known = best
            lists[layer + 1].leastCost = lists[layer].leastCost + least
            taken += extra(layer, best)
        }
        return taken <= slack
    }

    /// The lowest price at which the best choice is within the budget: bisection over the bits of binary64.
    private mutating func findPrice() {
        if choose(at: 0) { return }
        var below: UInt64 = 0, above = Double.greatestFiniteMagnitude.bitPattern
        while above - below > 1 {
            let middle = below + (above - below) / 2
            if choose(at: Double(bitPattern: middle)) { above = middle } else { below = middle }
        }
        price = Double(bitPattern: above)
        _ = choose(at: price)
    }

    /// Spends what that choice leaves of the budget, the greatest gain first; the loss then.
    private func improveKnown() -> Double {
        var left = slack
        for layer in 0..<problem.layers { left -= extra(layer, lists[layer].known) }
        for _ in 0..<64 {
            var bestLayer = -1, bestOption = 0, gain = 0.0
            for layer in 0..<problem.layers {
                let known = lists[layer].known
                for option in known + 1..<max(lists[layer].count, known + 1) {
                    let less = own(layer)[known].loss - own(layer)[option].loss
                    if less > gain && own(layer)[option].bytes - own(layer)[known].bytes <= left {
                        gain = less
                        bestLayer = layer
                        bestOption = option
                    }
                }
            }
            if bestLayer < 0 { break }
            left -= own(bestLayer)[bestOption].bytes - own(bestLayer)[lists[bestLayer].known].bytes
            lists[bestLayer].known = bestOption
        }
        var loss = 0.0
        for layer in stride(from: problem.layers - 1, through: 0, by: -1) { loss += own(layer)[lists[layer].known].loss }
        return loss
    }

    // MARK: States

    /// The states of a layer from those of the next one, in ascending order of bytes and descending order of losses.
    @inline(never)
    private mutating func extend(_ layer: Int) throws(Failure) {
        let own = own(layer), count = lists[layer].count, next = lists[layer + 1]
        let before = lists[layer].leastBytes, after = lists[problem.layers].leastBytes - lists[layer].leastBytes
        for option in 0..<count { heads[option] = next.begin }
        lists[layer].begin = used
        var lastLoss = Double.infinity
        while true {
            var best = -1, state = AllocationState(bytes: .max, loss: .infinity, parent: 0, choice: .max)
            for option in 0..<count where heads[option] < next.end {
                let parent = states[heads[option]], bytes = parent.bytes &+ own[option].bytes
                if bytes > state.bytes { continue }
                let loss = parent.loss + own[option].loss
                if bytes < state.bytes || loss < state.loss || (loss == state.loss && own[option].index < state.choice) {
                    state = AllocationState(bytes: bytes, loss: loss, parent: Int32(truncatingIfNeeded: heads[option]),
                                            choice: own[option].index)
                    best = option
                }
            }
            if best < 0 || state.bytes &+ before > budget { break }
            heads[best] &+= 1
            if !(state.loss < lastLoss) { continue }
            let cost = state.loss + price * Double(state.bytes &- after) + lists[layer].leastCost - slackCost
            if cost > limit { continue }
            if used == capacity {
                throw Failure(INT4Q_ERROR_BUFFER_TOO_SMALL, "scratch_bytes", .unsigned(scratchBytes),
                              expected: "room for more states than", bound: UInt64(capacity))
            }
            lastLoss = state.loss
            append(state)
        }
        lists[layer].end = used
    }
}
