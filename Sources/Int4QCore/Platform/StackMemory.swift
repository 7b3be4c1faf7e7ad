// SPDX-License-Identifier: Apache-2.0

/// Memory on the stack: `lines` times 64 bytes, zeroed, aligned to 64.
///
/// `withUnsafeTemporaryAllocation` takes what is longer than 1024 bytes from the heap, and the library promises its host to
/// allocate nothing. Zeroing costs: to be taken once in a call, not in its loops.
enum StackMemory<let lines: Int> {
    private typealias Line = SIMD16<UInt32>

    /// One line more than is asked for: the compiler aligns such a variable to 16 only.
    private struct Lines {
        var spare = Line(repeating: 0)
        var asked = InlineArray<lines, Line>(repeating: Line(repeating: 0))
    }

    @inline(__always)
    static func use<Result, Failure: Error>(_ body: (UnsafeMutableRawPointer) throws(Failure) -> Result) throws(Failure) -> Result {
        var memory = Lines()
        return try withUnsafeMutablePointer(to: &memory) { (pointer) throws(Failure) in
            let address = UInt(bitPattern: pointer)
            return try body(UnsafeMutableRawPointer(pointer) + Int((address &+ 63) & ~63 &- address))
        }
    }
}
