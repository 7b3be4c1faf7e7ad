// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

typealias Lanes = SIMD16<Float>

/// What an iteration's steps depend on.
struct LearningRate {
    var step: Float
    /// AutoRound: of ranges.
    var rangeStep: Double = 0
    /// AdaRound: of the regularization, 0 while warming up; 2 * regularization * exponent, exponent - 1.
    var pull: Float = 0
    var power: Float = 0
    /// AdaRound: the reciprocal of 1 - 0.999^(iterations so far).
    var secondShare: Float = 0

    @inline(never)
    init(_ options: LearningOptions, _ iteration: Int64) {
        let raw = options.raw, all = Double(raw.iterations), done = Double(iteration)
        if !options.isAdaptive {
            step = Float(raw.step * (1 - done / all))
            rangeStep = options.learnsRanges ? raw.range_step * (1 - done / all) : 0
            return
        }
        step = Float(raw.step / (1 - LearningRate.raise(0.9, iteration + 1)))
        secondShare = Float(1 / (1 - LearningRate.raise(0.999, iteration + 1)))
        let warmUp = raw.warm_up * all
        if done < warmUp { return }
        let exponent = raw.first_exponent + (raw.last_exponent - raw.first_exponent) * ((done - warmUp) / (all - warmUp))
        pull = Float(2 * raw.regularization * exponent)
        power = Float(exponent - 1)
    }

    /// By squaring, so with the same bits on every machine.
    private static func raise(_ base: Double, _ exponent: Int64) -> Double {
        var result = 1.0, square = base, left = exponent
        while left > 0 {
            if left & 1 != 0 { result *= square }
            square *= square
            left >>= 1
        }
        return result
    }
}

/// A group's parameters in 16 lanes; each a run of 16 floats, at the end two of 16 doubles.
struct GroupLanes {
    let memory: UnsafeMutableRawPointer

    enum Field: Int {
        case scale, reciprocal, zero, offset
        /// The code of the range's lower end, without rounding the zero point: where clipped values come from.
        case end
        case upper, lower, startScale
        /// Where zero is in the range, in steps.
        case place
        case startOffset, bestScale, bestZero, bestOffset
    }

    @inline(__always)
    subscript(_ field: Field) -> Lanes {
        UnsafeRawPointer(memory).load(fromByteOffset: field.rawValue &* 64, as: Lanes.self)
    }
    @inline(__always)
    func values(_ field: Field) -> UnsafeMutablePointer<Float> {
        (memory + field.rawValue &* 64).assumingMemoryBound(to: Float.self)
    }
    /// Sums over the group's columns: of the loss's slope along the scale, and along the lower end (of clipped columns).
    var slopes: UnsafeMutablePointer<Double> { (memory + 1024).assumingMemoryBound(to: Double.self) }
}

/// Sixteen rows, or fewer at the matrix's end, and what is kept of them (LearningScratch).
struct LearnedLanes {
    let work: UnsafePointer<LearnedRounding>
    private let rows: Range<Int64>
    private let memory: UnsafeMutableRawPointer

    init(_ work: UnsafePointer<LearnedRounding>, _ rows: Range<Int64>, _ memory: UnsafeMutableRawPointer) {
        self.work = work
        self.rows = rows
        self.memory = memory
    }

    var scratch: LearningScratch { work.pointee.scratch }
    private var tensor: QuantizedTensor { work.pointee.tensor }
    private var scheme: Scheme { tensor.scheme }
    private func floats(_ array: Int) -> UnsafeMutablePointer<Float> {
        (memory + array &* scratch.padded &* 64).assumingMemoryBound(to: Float.self)
    }
    var weights: UnsafeMutablePointer<Float> { floats(0) }
    /// V.
    var learned: UnsafeMutablePointer<Float> { floats(1) }
    /// AutoRound: what is added to a weight's nearest code, 0 unless the tensor has begun with another; AdaRound: the lower of its
    /// two codes.
    var bases: UnsafeMutablePointer<Float> { floats(2) }
    var errors: UnsafeMutablePointer<Float> { floats(3) }
    /// AutoRound: of values along their scale, and whether (1) or not (0) codes are within their range. AdaRound: Adam's moments.
    var firsts: UnsafeMutablePointer<Float> { floats(4) }
    var seconds: UnsafeMutablePointer<Float> { floats(5) }
    /// AdaRound: h.
    var shares: UnsafeMutablePointer<Float> { floats(6) }
    private func bytes(_ array: Int) -> UnsafeMutablePointer<UInt8> {
        (memory + scratch.codes + array &* scratch.padded &* 16).assumingMemoryBound(to: UInt8.self)
    }
    var codes: UnsafeMutablePointer<UInt8> { bytes(0) }
    private var bestCodes: UnsafeMutablePointer<UInt8> { bytes(1) }
    func group(_ index: Int) -> GroupLanes { GroupLanes(memory: memory + scratch.parameters + index &* LearningScratch.groupBytes) }
    var sums: UnsafeMutablePointer<Double> { (memory + scratch.sums).assumingMemoryBound(to: Double.self) }
    private var form: GramForm {
        GramForm(work.pointee.gram, errors: errors, products: memory + scratch.products, work.pointee.kernels)
    }
    /// Of the start, exactly; of this iteration; of the best one; and which that is. AdaRound: what makes slopes along values of r.
    private var startLosses: UnsafeMutablePointer<Double> { (memory + scratch.losses).assumingMemoryBound(to: Double.self) }
    var losses: UnsafeMutablePointer<Double> { startLosses + 16 }
    private var bestLosses: UnsafeMutablePointer<Double> { startLosses + 32 }
    private var bestIterations: UnsafeMutablePointer<Double> { startLosses + 48 }
    var units: UnsafeMutablePointer<Double> { startLosses + 64 }

    func columns(_ group: Int) -> Range<Int> {
        group &* scratch.groupSize..<min((group &+ 1) &* scratch.groupSize, scratch.k)
    }
    var lowest: Float { scheme.isRestricted ? 1 : 0 }
    var highest: Float { Float(scheme.width.largest) }

    // MARK: Begin

    @inline(never)
    func begin() throws(Failure) {
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: scratch.laneBytes)
        try form.load(tensor, work.pointee.source, rows, work.pointee.kernels, weights: weights)
        form.add(0..<work.pointee.gram.panels)
        startLosses.update(from: form.sums, count: 16)
        for lane in 0..<16 {
            bestLosses[lane] = .infinity
            // AdaRound's loss counts in units of the loss before for each column, times the scale that G has here.
            if startLosses[lane] > 0 { units[lane] = -2 * Double(scratch.k) / (startLosses[lane] * work.pointee.scale) }
        }
        for index in 0..<scratch.groups {
            for row in rows { take(group(index), Int(row), Int(row &- rows.lowerBound), index) }
            prepare(index)
        }
    }

    private func take(_ lanes: GroupLanes, _ row: Int, _ lane: Int, _ group: Int) {
        let type = scheme.scaleType, index = tensor.groupIndex(row, group), packed = tensor.codesRow(row)
        let scale = type.load(tensor.scales, index), offset = tensor.offsets.map { type.load($0, index) } ?? 0
        let zero = scheme.kind == .symmetric ? Float(scheme.width.middle) : Float(tensor.zeroPoints?[index] ?? 0)
        let place = scheme.kind == .offset ? (scale == 0 ? 0 : max(min(-offset / scale, highest), 0))
            : scheme.kind == .asymmetric ? zero : 0
        func put(_ field: GroupLanes.Field, _ value: Float) { lanes.values(field)[lane] = value }
        put(.startScale, scale)
        put(.startOffset, offset)
        put(.bestScale, scale)
        put(.bestZero, zero)
        put(.bestOffset, offset)
        put(.place, place)
        put(.upper, 1)
        put(.lower, 1)
        put(.zero, zero)
        put(.offset, offset)
        setScale(lanes, lane, scale)
        for column in columns(group) {
            bestCodes[column &* 16 &+ lane] = UInt8(truncatingIfNeeded: scheme.width.code(packed, column))
        }
    }

    /// A group's scale, and what follows from it.
    @inline(never)
    private func setScale(_ lanes: GroupLanes, _ lane: Int, _ scale: Float) {
        let reciprocal = 1 / scale, zero = lanes.values(.zero)[lane]
        lanes.values(.scale)[lane] = scale
        // Steps of a group whose scale is 0 count as 0, and its codes stay.
        lanes.values(.reciprocal)[lane] = reciprocal.isFinite ? reciprocal : 0
        var end = scheme.kind == .offset ? 0 : zero
        if scheme.kind == .asymmetric && scale != 0 {
            let share = Double(lanes.values(.lower)[lane]) * Double(lanes.values(.place)[lane])
            end = Float(Double(zero) - share * Double(lanes.values(.startScale)[lane]) / Double(scale))
        }
        lanes.values(.end)[lane] = end
    }

    /// Where the codes that a group has are from the nearest ones; AdaRound: the lower codes, and V so that values are the weights.
    @inline(never)
    private func prepare(_ index: Int) {
        let lanes = group(index), low = Lanes(repeating: lowest), high = Lanes(repeating: highest)
        for column in columns(index) {
            let place = column &* 16
            var position = steps(lanes, weights.lanes(place))
            let bytes = UnsafeRawPointer(bestCodes + place).load(as: SIMD16<UInt8>.self), nearest = rounded(position)
            let start = i4q_float_from_i32(unsafeBitCast(i4q_widen_u8(bytes), to: SIMD16<Int32>.self))
            let other = i4q_subtract(start, i4q_clip(nearest, low, high))
            let shift = i4q_subtract(start, nearest) * i4q_clip(other * other, Lanes(repeating: 0), Lanes(repeating: 1))
            if !work.pointee.options.isAdaptive {
                bases.put(shift, place)
                continue
            }
            position = i4q_clip(position + shift, low - 1, high + 1)
            let whole = rounded(position)
            let floor = i4q_pick_by_sign(i4q_subtract(position, whole), whole - 1, whole)
            bases.put(floor, place)
            // The inverse of h.
            let odds = i4q_divide(Lanes(repeating: 1.2), i4q_subtract(position, floor) + Lanes(repeating: 0.1)) - 1
            learned.put(logarithm(odds) * Lanes(repeating: -0.69314718), place)
        }
    }

    /// Weights in steps of their group.
    @inline(__always)
    func steps(_ lanes: GroupLanes, _ weights: Lanes) -> Lanes {
        i4q_clip(i4q_subtract(weights, lanes[.offset]) * lanes[.reciprocal] + lanes[.zero], Lanes(repeating: -1024),
                 Lanes(repeating: 1024))
    }

    // MARK: Iterations

    /// Errors of the values that codes give now.
    @inline(never)
    func round() {
        for index in 0..<scratch.groups {
            if work.pointee.options.isAdaptive { roundAdaptively(index) } else { roundNearby(index) }
        }
        losses.update(repeating: 0, count: 16)
    }

    /// Takes the block's gradient, sums.
    @inline(never)
    func step(_ block: Range<Int>, _ rate: LearningRate) {
        var column = block.lowerBound
        let end = min(block.upperBound, scratch.k)
        while column < end {
            let index = column / scratch.groupSize, last = min((index &+ 1) &* scratch.groupSize, end)
            let part = sums + (column &- block.lowerBound) &* 16
            if work.pointee.options.isAdaptive {
                stepAdaptively(group(index), column..<last, part, rate)
            } else {
                stepBySign(group(index), column..<last, part, rate)
            }
            column = last
        }
    }

    /// Keeps what is better than before, and gives groups their next ranges.
    @inline(never)
    func conclude(_ iteration: Int64, _ rate: LearningRate) {
        if work.pointee.options.isAdaptive { return }
        for lane in 0..<rows.count where losses[lane] < bestLosses[lane] {
            bestLosses[lane] = losses[lane]
            bestIterations[lane] = Double(iteration)
            for column in 0..<scratch.k { bestCodes[column &* 16 &+ lane] = codes[column &* 16 &+ lane] }
            for index in 0..<scratch.groups {
                let lanes = group(index)
                lanes.values(.bestScale)[lane] = lanes.values(.scale)[lane]
                lanes.values(.bestZero)[lane] = lanes.values(.zero)[lane]
                lanes.values(.bestOffset)[lane] = lanes.values(.offset)[lane]
            }
        }
        if rate.rangeStep == 0 { return }
        for index in 0..<scratch.groups {
            for lane in 0..<rows.count { moveRange(group(index), lane, rate.rangeStep) }
        }
    }

    @inline(never)
    private func moveRange(_ lanes: GroupLanes, _ lane: Int, _ step: Double) {
        let start = Double(lanes.values(.startScale)[lane]), place = Double(lanes.values(.place)[lane]), high = Double(highest)
        let slope = lanes.slopes[lane], clipped = lanes.slopes[16 &+ lane]
        lanes.slopes[lane] = 0
        lanes.slopes[16 &+ lane] = 0
        let isSymmetric = scheme.kind == .symmetric
        let upper = move(lanes.values(.upper) + lane, slope * start * (isSymmetric ? 1 : high - place), step)
        let lower = move(lanes.values(.lower) + lane, isSymmetric ? 0 : start * place * (slope / high - clipped), step)
        let share = isSymmetric ? upper : (upper * (high - place) + lower * place) / high
        let scale = scheme.scaleType.rounded(Float(start * share))
        if !scale.isFinite { return }
        if scheme.kind == .asymmetric && scale != 0 {
            let zero = max(min(lower * place * start / Double(scale), high), 0)
            lanes.values(.zero)[lane] = rounded(Lanes(repeating: Float(zero)))[0]
        } else if scheme.kind == .offset {
            let offset = scheme.scaleType.rounded(Float(Double(lanes.values(.startOffset)[lane]) + (1 - lower) * place * start))
            if !offset.isFinite { return }
            lanes.values(.offset)[lane] = offset
        }
        setScale(lanes, lane, scale)
    }

    /// A factor's next value: a step along the slope's sign.
    private func move(_ factor: UnsafeMutablePointer<Float>, _ slope: Double, _ step: Double) -> Double {
        let raw = work.pointee.options.raw, old = Double(factor.pointee)
        let new = slope > 0 ? old + step : slope < 0 ? old - step : old
        factor.pointee = Float(max(min(new, raw.most_range), raw.least_range))
        return Double(factor.pointee)
    }

    // MARK: End

    @inline(never)
    func finish(_ outcome: inout LearningOutcome) {
        if work.pointee.options.isAdaptive { settle() }
        for row in rows { decode(Int(row &- rows.lowerBound)) }
        form.add(0..<work.pointee.gram.panels)
        let share = work.pointee.gram.share
        for row in rows {
            let lane = Int(row &- rows.lowerBound), before = startLosses[lane], after = form.sums[lane]
            outcome.startLoss += before * share
            outcome.loss += min(before, after) * share
            if !(after < before) { continue }
            outcome.improvedRows += 1
            outcome.bestIteration = max(outcome.bestIteration, Int64(bestIterations[lane]))
            write(Int(row), lane, &outcome)
        }
    }

    /// Errors of a row with its best codes, as dequantizing gives them. The sums' place serves for runs of codes and of values.
    private func decode(_ lane: Int) {
        let decoded = UnsafeMutableRawPointer(sums).assumingMemoryBound(to: Float.self)
        let run = (UnsafeMutableRawPointer(sums) + 1024).assumingMemoryBound(to: UInt8.self)
        for index in 0..<scratch.groups {
            let lanes = group(index), columns = columns(index)
            var decoding = i4q_decoding(scale: lanes.values(.bestScale)[lane], offset: -0.0, zero: 0, codebook: nil)
            decoding.code_bits = 8
            decoding.zero = Int32(lanes.values(.bestZero)[lane])
            if scheme.kind == .offset { decoding.offset = lanes.values(.bestOffset)[lane] }
            var begin = columns.lowerBound
            while begin < columns.upperBound {
                let count = min(columns.upperBound &- begin, 256)
                for column in 0..<count { run[column] = bestCodes[(begin &+ column) &* 16 &+ lane] }
                work.pointee.kernels.decode.unsafelyUnwrapped(&decoding, run, Int64(count), decoded)
                for column in 0..<count {
                    let place = (begin &+ column) &* 16 &+ lane
                    errors[place] = weights[place] - decoded[column]
                }
                begin &+= count
            }
        }
    }

    private func write(_ row: Int, _ lane: Int, _ outcome: inout LearningOutcome) {
        let type = scheme.scaleType, packed = tensor.codesRow(row), bits = scheme.width.bits
        for column in 0..<scratch.k {
            let code = bestCodes[column &* 16 &+ lane]
            if UInt8(truncatingIfNeeded: scheme.width.code(packed, column)) == code { continue }
            outcome.changedCodes += 1
            if bits == 8 {
                packed[column] = code
            } else {
                let shift: UInt8 = column & 1 == 0 ? 0 : 4
                packed[column / 2] = packed[column / 2] & (0xf0 &>> shift) | code &<< shift
            }
        }
        for index in 0..<scratch.groups {
            let place = tensor.groupIndex(row, index), lanes = group(index)
            var isChanged = store(lanes.values(.bestScale)[lane], tensor.scales, place, type)
            if let offsets = tensor.offsets, store(lanes.values(.bestOffset)[lane], offsets, place, type) { isChanged = true }
            if let zeroPoints = tensor.zeroPoints {
                let zero = UInt8(lanes.values(.bestZero)[lane])
                if zeroPoints[place] != zero { isChanged = true }
                zeroPoints[place] = zero
            }
            if isChanged { outcome.changedScales += 1 }
        }
    }

    /// Whether it was another one.
    private func store(_ value: Float, _ target: UnsafeMutableRawPointer, _ index: Int, _ type: ElementType) -> Bool {
        if type.load(target, index) == value { return false }
        type.store(value, target, index)
        return true
    }

    /// AdaRound's codes: up where h is above one half.
    private func settle() {
        for column in 0..<scratch.k {
            let place = column &* 16
            for lane in 0..<rows.count {
                let code = bases[place &+ lane] + (learned[place &+ lane] > 0 ? 1 : 0)
                bestCodes[place &+ lane] = UInt8(max(min(code, highest), lowest))
            }
        }
    }
}

extension UnsafeMutablePointer<Float> {
    /// Sixteen floats from an index on, a multiple of 16.
    @inline(__always)
    func lanes(_ index: Int) -> Lanes { UnsafeRawPointer(self + index).load(as: Lanes.self) }
    @inline(__always)
    func put(_ lanes: Lanes, _ index: Int) { UnsafeMutableRawPointer(self + index).storeBytes(of: lanes, as: Lanes.self) }
}

/// Half to even; magnitudes below 2^22.
@inline(__always)
func rounded(_ v: Lanes) -> Lanes {
    let magic = Lanes(repeating: 12_582_912)
    return i4q_subtract(v + magic, magic)
}
