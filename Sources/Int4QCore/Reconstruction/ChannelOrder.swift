// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// The order in which GPTQ takes columns: `columns[position]`, and its inverse `positions[column]`.
struct ChannelOrder {
    let columns: UnsafeMutablePointer<Int32>
    let positions: UnsafeMutablePointer<Int32>

    /// Fills both arrays.
    @inline(never)
    func fill(_ gram: Gram, order: Int32, groupSize: Int) {
        let k = Int(gram.layout.k)
        for column in 0..<k { columns[column] = Int32(truncatingIfNeeded: column) }
        if order == int32(INT4Q_GPTQ_ORDER_ACTIVATIONS) { sort(columns, count: k, gram) }
        if order == int32(INT4Q_GPTQ_ORDER_WITHIN_GROUPS) { sortGroups(gram, k, groupSize) }
        for position in 0..<k { positions[Int(columns[position])] = Int32(truncatingIfNeeded: position) }
    }

    /// A shorter last group stays last. Until it is filled, `positions` holds the groups' order.
    private func sortGroups(_ gram: Gram, _ k: Int, _ groupSize: Int) {
        let whole = k / groupSize
        for group in 0..<whole {
            sort(columns + group &* groupSize, count: groupSize, gram)
            positions[group] = columns[group &* groupSize]
        }
        sort(columns + whole &* groupSize, count: k &- whole &* groupSize, gram)
        // A group is named by its first column.
        sort(positions, count: whole, gram)
        for group in 0..<whole {
            let begin = Int(positions[group]) / groupSize &* groupSize
            for index in 0..<groupSize { columns[group &* groupSize &+ index] = Int32(truncatingIfNeeded: begin &+ index) }
            sort(columns + group &* groupSize, count: groupSize, gram)
        }
    }
}

/// Sorts columns by descending diagonal, of equal elements the lower column first: heapsort, in place.
@inline(never)
private func sort(_ columns: UnsafeMutablePointer<Int32>, count: Int, _ gram: Gram) {
    // Whether a belongs before b.
    func precedes(_ a: Int32, _ b: Int32) -> Bool {
        let first = gram.diagonal(Int(a)), second = gram.diagonal(Int(b))
        return first > second || (!(second > first) && a < b)
    }
    func sink(_ start: Int, _ end: Int) {
        var root = start
        while 2 &* root &+ 1 < end {
            var child = 2 &* root &+ 1
            if child &+ 1 < end && precedes(columns[child], columns[child &+ 1]) { child &+= 1 }
            if !precedes(columns[root], columns[child]) { return }
            let moved = columns[root]
            columns[root] = columns[child]
            columns[child] = moved
            root = child
        }
    }
    var start = count / 2
    while start > 0 {
        start &-= 1
        sink(start, count)
    }
    var end = count
    while end > 1 {
        end &-= 1
        let moved = columns[0]
        columns[0] = columns[end]
        columns[end] = moved
        sink(0, end)
    }
}
