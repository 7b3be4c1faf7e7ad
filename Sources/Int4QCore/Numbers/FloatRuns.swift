// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Rows of a matrix of any type, read as runs of at most 256 floats through a buffer aligned to 64. Beyond a short run's
/// end the buffer holds zeros, to the next multiple of 16.
struct FloatRuns {
    static var length: Int { 256 }

    let source: Matrix
    let name: Text
    let convert: @convention(c) (UnsafeRawPointer?, Int64, Int64, UnsafeMutablePointer<Float>?) -> Void
    let findRange: @convention(c) (UnsafePointer<Float>?, Int64, UnsafeMutablePointer<i4q_group_range>?) -> Void
    let floats: UnsafeMutablePointer<Float>
    /// As many bytes again for what a body needs besides.
    let room: UnsafeMutableRawPointer

    /// `name` is the argument to blame for values that are not finite.
    static func with(_ source: Matrix, _ name: Text, _ kernels: i4q_kernels,
                     _ body: (FloatRuns) throws(Failure) -> Void) throws(Failure) {
        try StackMemory<32>.use { (memory) throws(Failure) in
            try body(FloatRuns(source: source, name: name, convert: kernels.load.unsafelyUnwrapped,
                               findRange: kernels.group_range.unsafelyUnwrapped,
                               floats: memory.assumingMemoryBound(to: Float.self), room: memory + length * 4))
        }
    }

    /// Loads the run of a row that starts at `column`; how long it is.
    func load(_ row: Int, _ column: Int) -> Int { load(row, column, count: min(FloatRuns.length, source.columns - column)) }

    @inline(never)
    func load(_ row: Int, _ column: Int, count: Int) -> Int {
        let pointer = source.row(row) + column * source.type.size
        convert(pointer, Int64(source.type.raw), Int64(count), floats)
        for index in count..<padded(count) { floats[index] = 0 }
        return count
    }

    func padded(_ count: Int) -> Int { (count + 15) & ~15 }

    /// The least and the largest of a part of the run that was loaded, all of it finite; `row` and `column` are the run's.
    @inline(never)
    func range(_ count: Int, _ row: Int, _ column: Int, from begin: Int = 0) throws(Failure) -> (min: Float, max: Float) {
        var range = i4q_group_range()
        findRange(floats + begin, Int64(count), &range)
        if range.first_not_finite >= 0 {
            let index = begin + Int(range.first_not_finite)
            throw notFinite(floats[index], row, column + index)
        }
        return (range.min, range.max)
    }

    @inline(never)
    func notFinite(_ value: Float, _ row: Int, _ column: Int) -> Failure {
        Failure(INT4Q_ERROR_NOT_FINITE, name, .element(row: Int64(row), column: Int64(column), value),
                expected: "finite values")
    }
}
