// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims
import XCTest

@testable import Int4QCore

/// Counts comparisons in loops that are too long for one XCTAssert each, and keeps the first that failed.
struct Comparisons {
    private var count = 0
    private var failures = 0
    private var first = ""

    mutating func expect(_ holds: Bool, _ description: @autoclosure () -> String) {
        count += 1
        if holds { return }
        if failures == 0 { first = description() }
        failures += 1
    }

    mutating func expectEqual<T: FixedWidthInteger>(_ actual: T, _ expected: T, _ description: @autoclosure () -> String) {
        expect(actual == expected, "\(description()): \(hex(actual)), expected \(hex(expected))")
    }

    /// Bit for bit, except that one NaN is as good as another.
    mutating func expectSame(_ actual: Float, _ expected: Float, _ description: @autoclosure () -> String) {
        expect(actual.bitPattern == expected.bitPattern || (actual.isNaN && expected.isNaN),
               "\(description()): \(show(actual)), expected \(show(expected))")
    }

    /// `atLeast` keeps a loop that never ran from passing.
    func assertAllHeld(atLeast: Int, file: StaticString = #filePath, line: UInt = #line) {
        XCTAssertEqual(failures, 0, "first of \(count): \(first)", file: file, line: line)
        XCTAssertGreaterThanOrEqual(count, atLeast, "too few comparisons", file: file, line: line)
    }
}

func hex<T: FixedWidthInteger>(_ value: T) -> String { "0x" + String(T.Magnitude(truncatingIfNeeded: value), radix: 16) }
func show(_ value: Float) -> String { "\(value) (\(hex(value.bitPattern)))" }

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers in every run.
struct SplitMix64: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    mutating func anyFloat() -> Float { Float(bitPattern: UInt32(truncatingIfNeeded: next())) }
    mutating func sign() -> Float { next() & 1 == 0 ? 1 : -1 }
    /// ±1.f × 2^exponent, with a random fraction.
    mutating func float(exponents: ClosedRange<Int>) -> Float {
        let significand = 1 + Float(next() & 0x7f_ffff) * 0x1p-23
        return sign() * Float(sign: .plus, exponent: Int.random(in: exponents, using: &self), significand: significand)
    }
}

/// Zeroed memory at a multiple of 64.
final class AlignedMemory {
    let base: UnsafeMutableRawPointer
    let byteCount: Int

    init(_ byteCount: Int) {
        base = .allocate(byteCount: max(byteCount, 1), alignment: 64)
        base.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
        self.byteCount = byteCount
    }

    deinit { base.deallocate() }

    var bytes: [UInt8] { [UInt8](UnsafeRawBufferPointer(start: base, count: byteCount)) }

    func pointer<T>(to type: T.Type, at byteOffset: Int = 0) -> UnsafeMutablePointer<T> {
        (base + byteOffset).assumingMemoryBound(to: type)
    }
}

/// Floats as elements of a type, rounded by the scalar conversions, which have tests of their own.
func elements(_ floats: [Float], _ type: Int) -> AlignedMemory {
    let memory = AlignedMemory(floats.count * elementSize(type))
    for (index, float) in floats.enumerated() {
        switch type {
        case INT4Q_TYPE_F32: memory.pointer(to: Float.self)[index] = float
        case INT4Q_TYPE_F16: memory.pointer(to: UInt16.self)[index] = Float16Bits.bits(float)
        default: memory.pointer(to: UInt16.self)[index] = BFloat16Bits.bits(float)
        }
    }
    return memory
}

func element(_ memory: AlignedMemory, _ type: Int, _ index: Int) -> Float {
    switch type {
    case INT4Q_TYPE_F32: memory.pointer(to: Float.self)[index]
    case INT4Q_TYPE_F16: Float16Bits.float(memory.pointer(to: UInt16.self)[index])
    default: BFloat16Bits.float(memory.pointer(to: UInt16.self)[index])
    }
}

func elementSize(_ type: Int) -> Int { type == INT4Q_TYPE_F32 ? 4 : 2 }

let elementTypes = [INT4Q_TYPE_F32, INT4Q_TYPE_F16, INT4Q_TYPE_BF16]

/// What this machine has, `portable` first.
var machineSets: [InstructionSet] {
    [.portable, .avx2, .avxvnni, .avx512vnni, .avx512bf16, .amx].filter(\.isDetected)
}

/// Runs `body` with the public functions limited to an instruction set.
func limited<T>(to set: InstructionSet, _ body: () throws -> T) rethrows -> T {
    XCTAssertEqual(int4q_isa_set_limit(set.rawValue), 0)
    defer { XCTAssertEqual(int4q_isa_set_limit(int4q_isa(INT4Q_ISA_NO_LIMIT)), 0) }
    return try body()
}

/// Asserts that `body` throws a Failure with this status that blames this argument.
func assertFails<T>(_ status: Int, _ argument: String, file: StaticString = #filePath, line: UInt = #line,
                    _ body: () throws -> T) {
    XCTAssertThrowsError(try body(), "expected a failure of \(argument)", file: file, line: line) { error in
        guard let failure = error as? Failure else { return XCTFail("\(error)", file: file, line: line) }
        XCTAssertEqual(Int(failure.status), status, file: file, line: line)
        XCTAssertEqual(String(cString: failure.argument.characters), argument, file: file, line: line)
    }
}

func rawScheme(_ kind: Int, group: Int = 32, scale: Int = INT4Q_TYPE_F32, rule: Int = INT4Q_SCALE_DEFAULT,
               range: Int = INT4Q_RANGE_FULL, rounding: Int = INT4Q_ROUNDING_NEAREST_EVEN,
               scope: Int = INT4Q_CODEBOOK_PER_TENSOR, bits: Int = 0) -> int4q_scheme {
    int4q_scheme(kind: Int32(kind), group_size: Int32(group), scale_type: int4q_type(scale), scale_rule: Int32(rule),
                 code_range: Int32(range), rounding: Int32(rounding), codebook_scope: Int32(scope), code_bits: Int32(bits),
                 reserved: (0, 0, 0, 0))
}

func description(mode: Int = INT4Q_MODE_F32, m: Int64, n: Int64, k: Int64, scheme: int4q_scheme,
                 workers: UInt32 = 1) -> int4q_matmul_desc {
    var desc = int4q_matmul_desc()
    desc.struct_size = UInt32(MemoryLayout<int4q_matmul_desc>.stride)
    desc.mode = int4q_compute_mode(mode)
    (desc.m, desc.n, desc.k, desc.scheme) = (m, n, k, scheme)
    (desc.x_type, desc.y_type) = (int4q_type(INT4Q_TYPE_F32), int4q_type(INT4Q_TYPE_F32))
    desc.worker_count = workers
    return desc
}

/// Tests that are run once for each instruction set: subclasses name another one, and are skipped where it is missing.
/// (Each subclass needs a test of its own: SwiftPM on Linux does not see a class that only inherits.)
class KernelTestCase: XCTestCase {
    var instructionSet: InstructionSet { .portable }
    var kernels: i4q_kernels { instructionSet.kernels }

    override func setUpWithError() throws {
        if !instructionSet.isDetected { throw XCTSkip("no \(instructionSet.name) on this machine") }
    }

    /// Guards against a subclass that tests another instruction set's table than it says.
    func assertKernels(named prefix: String, file: StaticString = #filePath, line: UInt = #line) {
        for name in [kernels.tile_f32_name, kernels.tile_int8_name] {
            let text = String(cString: name!)
            XCTAssertTrue(text.hasPrefix(prefix), text, file: file, line: line)
        }
    }
}
