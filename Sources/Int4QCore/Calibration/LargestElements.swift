// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// The elements of largest magnitude so far, as a heap in the caller's memory whose root is the one to go next.
public struct LargestElements {
    private let heap: UnsafeMutablePointer<int4q_element>
    private let capacity: Int
    public private(set) var count = 0

    public init(_ elements: UnsafeMutablePointer<int4q_element>, capacity: Int64) {
        heap = elements
        self.capacity = Int(capacity)
    }

    @inline(never)
    public mutating func find(in source: Matrix, rows: Int64, _ kernels: i4q_kernels) throws(Failure) {
        try findAll(source, rows, kernels)
        sort()
    }

    private mutating func findAll(_ source: Matrix, _ rows: Int64, _ kernels: i4q_kernels) throws(Failure) {
        var found = self
        try FloatRuns.with(source, "source", kernels) { (runs) throws(Failure) in
            for row in 0..<Int(rows) {
                var column = 0
                while column < source.columns {
                    let length = runs.load(row, column)
                    let range = try runs.range(length, row, column)
                    found.take(runs.floats, length, row, column, largest: max(-range.min, range.max))
                    column += length
                }
            }
        }
        self = found
    }

    private var isFull: Bool { count == capacity }

    private mutating func take(_ floats: UnsafePointer<Float>, _ length: Int, _ row: Int, _ column: Int, largest: Float) {
        var index = 0
        while index < length && !isFull {
            append(element(floats[index], row, column + index))
            index += 1
        }
        if index == length || !(largest > heap[0].value.magnitude) { return }
        while true {
            let limit = heap[0].value.magnitude
            index = Int(i4q_next_outside(floats, Int64(index), Int64(length), -limit, limit))
            if index == length { return }
            heap[0] = element(floats[index], row, column + index)
            sink(0, count)
            index += 1
        }
    }

    private func element(_ value: Float, _ row: Int, _ column: Int) -> int4q_element {
        int4q_element(row: Int64(row), column: Int64(column), value: value, reserved: 0)
    }

    /// Whether `a` goes before `b`: smaller, or as large and later.
    private func goes(_ a: int4q_element, before b: int4q_element) -> Bool {
        if a.value.magnitude != b.value.magnitude { return a.value.magnitude < b.value.magnitude }
        return a.row != b.row ? a.row > b.row : a.column > b.column
    }

    private mutating func append(_ element: int4q_element) {
        var place = count
        count += 1
        while place > 0 && goes(element, before: heap[(place - 1) / 2]) {
            heap[place] = heap[(place - 1) / 2]
            place = (place - 1) / 2
        }
        heap[place] = element
    }

    private func sink(_ start: Int, _ count: Int) {
        let element = heap[start]
        var place = start
        while 2 * place + 1 < count {
            var child = 2 * place + 1
            if child + 1 < count && goes(heap[child + 1], before: heap[child]) { child += 1 }
            if !goes(heap[child], before: element) { break }
            heap[place] = heap[child]
            place = child
        }
        heap[place] = element
    }

    /// The smallest to the end, again and again.
    private func sort() {
        var left = count
        while left > 1 {
            left -= 1
            let smallest = heap[0]
            heap[0] = heap[left]
            heap[left] = smallest
            sink(0, left)
        }
    }
}
