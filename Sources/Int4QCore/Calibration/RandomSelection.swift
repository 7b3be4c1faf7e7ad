// SPDX-License-Identifier: Apache-2.0

/// Writes `wanted` of 0..<count in ascending order: each number is taken with the probability with which it is among those wanted
/// still, of those left (Knuth, 3.4.2, algorithm S).
@inline(never)
public func selectRandom(count: Int64, wanted: Int64, seed: UInt64, _ indices: UnsafeMutablePointer<Int64>) {
    var random = RandomNumbers(seed: seed)
    var taken: Int64 = 0, index: Int64 = 0
    while taken < wanted {
        if random.next(below: UInt64(count - index)) < UInt64(wanted - taken) {
            indices[Int(taken)] = index
            taken += 1
        }
        index += 1
    }
}
