// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// Weights of up to 65536 different values, by hashing.
struct DistinctValues {
    static var limit: Int { 1 << 16 }
    /// Twice the slots that are ever filled, so that searches stay short.
    private static var slotCount: Int { 2 * limit }
    static var bytes: Int { slotCount * MemoryLayout<Slot>.stride }

    struct Slot {
        /// 0, which no number has, where the slot is free.
        var key: UInt32
        var weight: Double
    }

    private let slots: UnsafeMutablePointer<Slot>
    private var used = 0

    init(_ memory: UnsafeMutableRawPointer) {
        slots = memory.bindMemory(to: Slot.self, capacity: DistinctValues.slotCount)
        slots.initialize(repeating: Slot(key: 0, weight: 0), count: DistinctValues.slotCount)
    }

    /// Writes the different values of positive weight, ascending, and returns how many they are; nil if there are too many.
    mutating func collect(_ source: WeightedSource, to points: UnsafeMutablePointer<WeightedPoint>) -> Int? {
        var fits = true
        source.forEachRun { values, weights, count in
            for index in 0..<count where fits {
                fits = add(orderedKey(values[index]), weights.map { Double($0[index]) } ?? 1)
            }
            return fits
        }
        if !fits { return nil }
        let count = compact()
        sort(count)
        for index in 0..<count {
            points[index] = WeightedPoint(value: Double(valueOfKey(slots[index].key)), weight: slots[index].weight)
        }
        return count
    }

    /// False if there is no room.
    private mutating func add(_ key: UInt32, _ weight: Double) -> Bool {
        var slot = Int((key &* 0x9e37_79b1) >> 15)
        while slots[slot].key != key {
            if slots[slot].key == 0 {
                if used == DistinctValues.limit { return false }
                used += 1
                slots[slot].key = key
                break
            }
            slot = (slot + 1) & (DistinctValues.slotCount - 1)
        }
        slots[slot].weight += weight
        return true
    }

    /// Values of positive weight go to the front.
    private func compact() -> Int {
        var count = 0
        for slot in 0..<DistinctValues.slotCount where slots[slot].weight > 0 {
            slots[count] = slots[slot]
            count += 1
        }
        return count
    }

    /// By keys, a byte at a time from the lowest. What follows the first half of the slots is free by now.
    private func sort(_ count: Int) {
        var from = slots, to = slots + DistinctValues.limit
        for shift in stride(from: UInt32(0), to: 32, by: 8) {
            var starts = InlineArray<257, Int>(repeating: 0)
            for index in 0..<count { starts[Int(from[index].key >> shift & 255) + 1] += 1 }
            for digit in 0..<256 { starts[digit + 1] += starts[digit] }
            for index in 0..<count {
                let digit = Int(from[index].key >> shift & 255)
                to[starts[digit]] = from[index]
                starts[digit] += 1
            }
            swap(&from, &to)
        }
    }
}
