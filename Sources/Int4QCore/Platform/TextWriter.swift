// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// Builds a zero-terminated text in memory of a fixed size, without allocating. What does not fit is counted, not written.
public struct TextWriter {
    private let start: UnsafeMutablePointer<UInt8>?
    private let capacity: Int
    /// Length of the whole text, without its zero.
    public private(set) var length = 0

    public init(_ memory: UnsafeMutableRawPointer?, _ offset: Int, _ capacity: Int) {
        start = memory.map { ($0 + offset).assumingMemoryBound(to: UInt8.self) }
        self.capacity = capacity
        terminate()
    }

    public mutating func write(_ text: Text) {
        write(text.characters)
    }

    public mutating func write(_ characters: UnsafePointer<CChar>) {
        var index = 0
        while characters[index] != 0 {
            write(byte: UInt8(bitPattern: characters[index]))
            index &+= 1
        }
    }

    public mutating func write(_ number: UInt64) {
        var divisor: UInt64 = 1
        while number / divisor >= 10 { divisor &*= 10 }
        while divisor > 0 {
            write(byte: 48 &+ UInt8(truncatingIfNeeded: number / divisor % 10))
            divisor /= 10
        }
    }

    public mutating func write(_ number: Int64) {
        if number < 0 { write(byte: 45) }
        write(number.magnitude)
    }

    public mutating func write(_ value: FailureValue) {
        switch value {
        case .text(let text): write(text)
        case .characters(let characters):
            write(byte: 34)
            write(characters)
            write(byte: 34)
        case .integer(let number): write(number)
        case .unsigned(let number): write(number)
        case .pointer(let address): write(hexadecimal: UInt64(address))
        case .number(let number): write(number)
        case .block(let row):
            write("the block at row ")
            write(row)
        case .element(let row, let column, let number):
            write(number)
            write(" at row ")
            write(row)
            write(", column ")
            write(column)
        case .entry(let index, let number):
            write(number)
            write(" at index ")
            write(index)
        case .listed(let index, let number):
            write(number)
            write(" at index ")
            write(index)
        }
    }

    private mutating func write(_ number: Float) {
        withUnsafeTemporaryAllocation(byteCount: 32, alignment: 1) { buffer in
            let digits = buffer.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: CChar.self)
            i4q_format_float(Double(number), digits, 32)
            write(UnsafePointer(digits))
        }
    }

    private mutating func write(hexadecimal number: UInt64) {
        write("0x")
        var shift: UInt64 = 60
        while shift > 0 && number >> shift == 0 { shift -= 4 }
        while true {
            let digit = UInt8(truncatingIfNeeded: (number >> shift) & 15)
            write(byte: digit < 10 ? 48 &+ digit : 87 &+ digit)
            if shift == 0 { break }
            shift -= 4
        }
    }

    private mutating func write(byte: UInt8) {
        if let start, length + 1 < capacity {
            start[length] = byte
            start[length + 1] = 0
        }
        length += 1
    }

    private func terminate() {
        if let start, capacity > 0 { start[0] = 0 }
    }
}
