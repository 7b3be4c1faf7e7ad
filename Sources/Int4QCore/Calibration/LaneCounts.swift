// SPDX-License-Identifier: Apache-2.0

/// Counts of a large batch on their way into a histogram: each of four neighbours has a table of its own, since adding to a count
/// that has just been written waits for the writing; and 16 bits each, so that all four fit into a first-level cache.
struct LaneCounts {
    private static var lanes: Int { 4 }
    static var mostBins: Int { 2048 }
    /// Fewer elements are not worth clearing and adding up the tables.
    static var leastElements: Int { 1 << 16 }

    /// Between two tables: not a multiple of 4096 bytes, by which processors tell first whether two addresses may be the same.
    private static func stride(bins: Int) -> Int { 2 &* bins &+ 224 }

    private var tables = InlineArray<17280, UInt16>(repeating: 0)
    /// The largest that a count can be: a quarter of a run's elements, and up to three more of it.
    private var largest = 0

    private static func share(of count: Int) -> Int { count / lanes &+ lanes }

    /// Runs of up to `count` elements, in parts of up to 256.
    func hasRoom(for count: Int) -> Bool { largest &+ LaneCounts.share(of: count) &+ LaneCounts.lanes &* (count / 256) <= 65535 }

    @inline(never)
    mutating func add(_ indices: UnsafeMutablePointer<Int32>, _ count: Int, bins: Int) {
        largest &+= LaneCounts.share(of: count)
        withUnsafeMutableBytes(of: &tables) { memory in
            let first = memory.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: UInt16.self)
            let stride = LaneCounts.stride(bins: bins)
            let second = first + stride, third = second + stride, fourth = third + stride
            var index = 0
            while index &+ 4 <= count {
                first[Int(indices[index])] &+= 1
                second[Int(indices[index &+ 1])] &+= 1
                third[Int(indices[index &+ 2])] &+= 1
                fourth[Int(indices[index &+ 3])] &+= 1
                index &+= 4
            }
            while index < count {
                first[Int(indices[index])] &+= 1
                index &+= 1
            }
        }
    }

    @inline(never)
    mutating func flush(to histogram: UnsafeMutablePointer<Int64>, bins: Int) {
        if largest == 0 { return }
        largest = 0
        withUnsafeMutableBytes(of: &tables) { memory in
            let table = memory.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: UInt16.self)
            let stride = LaneCounts.stride(bins: bins)
            for bin in 0..<(2 &* bins) {
                let first = Int64(table[bin]) &+ Int64(table[stride &+ bin])
                let second = Int64(table[2 &* stride &+ bin]) &+ Int64(table[3 &* stride &+ bin])
                histogram[bin] &+= first &+ second
            }
            for index in 0..<(LaneCounts.lanes &* stride) { table[index] = 0 }
        }
    }
}
