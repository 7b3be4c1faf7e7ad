// SPDX-License-Identifier: Apache-2.0
#if arch(x86_64)
import CInt4Q
import CInt4QShims
import Foundation
import Int4Q
import XCTest

@testable import Int4QCore

/// A host's floating-point settings (MXCSR) change no result, and every call and task gives them back. The data is full of
/// denormals and of values half-way between two codes, so that the settings would show.
final class FloatModeTests: XCTestCase {
    private let size: (m: Int64, n: Int64, k: Int64) = (5, 33, 100)
    private let f32 = int4q_type(INT4Q_TYPE_F32), f16 = int4q_type(INT4Q_TYPE_F16)
    private static let codebook: [Float] = (0..<16).map { Float($0 * $0) * 0x1p-8 - 0.4 }

    // MARK: Data

    /// Halves, denormals, and sums that are rounded.
    private func peculiar(_ count: Int64, _ type: Int, seed: UInt64) -> AlignedMemory {
        var random = SplitMix64(state: seed)
        return elements((0..<count).map { index in
            switch (index / 16 + index % 3) % 5 {
            case 0: Float(Int(random.next() % 31) - 15) / 2
            case 1: random.sign() * Float(bitPattern: UInt32(truncatingIfNeeded: random.next()) & 0x7f_ffff)
            case 2: random.float(exponents: -24...(-14))
            case 3: random.float(exponents: -127...(-120))
            default: random.float(exponents: -2...2)
            }
        }, type)
    }

    private let schemes = [
        rawScheme(INT4Q_KIND_SYMMETRIC),
        rawScheme(INT4Q_KIND_SYMMETRIC, group: 16, scale: INT4Q_TYPE_F16, rule: INT4Q_SCALE_AMAX_7),
        rawScheme(INT4Q_KIND_ASYMMETRIC, scale: INT4Q_TYPE_BF16),
        rawScheme(INT4Q_KIND_OFFSET, group: 64),
        rawScheme(INT4Q_KIND_CODEBOOK, group: 16),
        rawScheme(INT4Q_KIND_OFFSET, scale: INT4Q_TYPE_F16, rounding: INT4Q_ROUNDING_GGML),
    ]

    private func tensor(_ scheme: int4q_scheme) -> TestTensor {
        TestTensor(scheme, n: size.n, k: size.k, codebook: scheme.kind == INT4Q_KIND_CODEBOOK ? Self.codebook : nil)
    }

    private func quantized(_ scheme: int4q_scheme) -> TestTensor {
        let tensor = tensor(scheme)
        XCTAssertEqual(tensor.quantize(peculiar(size.n * size.k, INT4Q_TYPE_F32, seed: 71), INT4Q_TYPE_F32, stride: size.k), 0)
        return tensor
    }

    // MARK: Calls

    /// Compares what `results` returns under each of the host's settings with what it returns by default. `results` calls one
    /// function through the closure that it gets.
    private func assertUnaffected(_ name: String, file: StaticString = #filePath, line: UInt = #line,
                                  _ results: ((() -> int4q_status) -> Void) -> [UInt8]) {
        let expected = results { XCTAssertEqual($0(), 0, name, file: file, line: line) }
        for mode in HostMode.all {
            let actual = results { call in
                let (status, after) = mode.during(call)
                XCTAssertEqual(status, 0, "\(name), \(mode)", file: file, line: line)
                XCTAssertEqual(after, mode, name, file: file, line: line)
            }
            XCTAssertTrue(actual == expected, "\(name), \(mode): another result", file: file, line: line)
        }
    }

    private func forEachSetAndScheme(_ body: (String, int4q_scheme) -> Void) {
        for set in machineSets {
            for scheme in schemes {
                limited(to: set) { body("\(set.name), kind \(scheme.kind), group \(scheme.group_size)", scheme) }
            }
        }
    }

    func testQuantizing() {
        for type in elementTypes {
            let source = peculiar(size.n * size.k, type, seed: 72)
            forEachSetAndScheme { name, scheme in
                assertUnaffected("quantize, type \(type), \(name)") { call in
                    let tensor = tensor(scheme)
                    call { tensor.quantize(source, type, stride: self.size.k) }
                    return tensor.bytes
                }
            }
        }
    }

    func testQuantizingAndPacking() {
        let source = peculiar(size.n * size.k, INT4Q_TYPE_F32, seed: 73)
        forEachSetAndScheme { name, scheme in
            var scheme = scheme
            assertUnaffected("quantize and pack, \(name)") { call in
                let blob = emptyBlob(scheme, n: size.n, k: size.k)
                call {
                    int4q_quantize_pack_rows(
                        &scheme, self.size.n, self.size.k, scheme.kind == INT4Q_KIND_CODEBOOK ? Self.codebook : nil, source.base,
                        self.f32, self.size.k, blob.base, UInt64(blob.byteCount), 0, self.size.n)
                }
                return blob.bytes
            }
        }
    }

    func testDequantizing() {
        for type in elementTypes {
            forEachSetAndScheme { name, scheme in
                let tensor = quantized(scheme)
                assertUnaffected("dequantize, type \(type), \(name)") { call in
                    let destination = AlignedMemory(Int(size.n * size.k) * elementSize(type))
                    call { tensor.dequantize(into: destination, type) }
                    return destination.bytes
                }
            }
        }
    }

    func testGathering() {
        forEachSetAndScheme { name, scheme in
            let blob = quantized(scheme).packed(), rows: [Int64] = [3, 32, 0]
            assertUnaffected("gather, \(name)") { call in
                let destination = AlignedMemory(3 * Int(self.size.k) * 2)
                call { int4q_gather_rows(blob.base, UInt64(blob.byteCount), rows, 3, destination.base, self.f16, self.size.k) }
                return destination.bytes
            }
        }
    }

    private func product(_ mode: Int, _ scheme: int4q_scheme, xType: Int, yType: Int) -> MatmulCall {
        var desc = description(mode: mode, m: size.m, n: size.n, k: size.k, scheme: scheme, workers: 3)
        (desc.x_type, desc.y_type) = (int4q_type(xType), int4q_type(yType))
        desc.activation = Int32(INT4Q_ACTIVATION_SILU)
        return MatmulCall(desc, blob: quantized(scheme).packed(), x: peculiar(size.m * size.k, xType, seed: 74))
    }

    private func forEachProduct(_ body: (String, MatmulCall) -> Void) {
        for mode in [INT4Q_MODE_F32, INT4Q_MODE_INT8, INT4Q_MODE_BF16] {
            for type in elementTypes {
                forEachSetAndScheme { name, scheme in
                    body("mode \(mode), type \(type), \(name)", product(mode, scheme, xType: type, yType: type))
                }
            }
        }
    }

    func testMultiplying() {
        forEachProduct { name, product in
            assertUnaffected(name) { call in
                call { product.run() }
                return product.y.bytes
            }
        }
    }

    /// Comparing a NaN raises a flag, too: with unmasked exceptions the host would have died of it.
    func testScalesThatAreNoNumbers() {
        var desc = description(mode: INT4Q_MODE_INT8, m: size.m, n: size.n, k: size.k, scheme: schemes[0], workers: 3)
        desc.flags = UInt32(INT4Q_MATMUL_STATIC_SCALES)
        let call = MatmulCall(desc, blob: quantized(schemes[0]).packed(), x: peculiar(size.m * size.k, INT4Q_TYPE_F32, seed: 74))
        let scales = [Float](repeating: .nan, count: Int(size.k))
        scales.withUnsafeBufferPointer { pointer in
            call.args.x_scales = pointer.baseAddress
            for mode in HostMode.all {
                let (status, after) = mode.during { call.run() }
                XCTAssertEqual(status, int4q_status(INT4Q_ERROR_INVALID_ARGUMENT), "\(mode)")
                XCTAssertEqual(after, mode)
            }
        }
    }

    func testMultiplyingInSteps() {
        forEachProduct { name, product in
            assertUnaffected(name) { call in
                call { int4q_matmul_prepare(&product.plan, &product.args, 0, product.plan.prepare_count) }
                call { int4q_matmul_tiles(&product.plan, &product.args, 0, 0, product.plan.tile_count) }
                return product.y.bytes
            }
        }
    }

    func testBoundsAndMetrics() {
        let x = peculiar(size.m * size.k, INT4Q_TYPE_F32, seed: 75)
        let desc = description(mode: INT4Q_MODE_INT8, m: size.m, n: size.n, k: size.k, scheme: schemes[0])
        let product = MatmulCall(desc, blob: quantized(schemes[0]).packed(), x: x)
        assertUnaffected("error bound") { call in
            let bounds = AlignedMemory(Int(size.m * size.n) * 8)
            call { int4q_error_bound(&product.plan, &product.args, 0, bounds.pointer(to: Double.self), self.size.n) }
            return bounds.bytes
        }
        let other = peculiar(size.m * size.k, INT4Q_TYPE_F16, seed: 75)
        assertUnaffected("compare") { call in
            var metrics = int4q_metrics()
            metrics.struct_size = UInt32(MemoryLayout<int4q_metrics>.stride)
            call {
                int4q_compare(x.base, self.f32, self.size.k, other.base, self.f16, self.size.k, self.size.m, self.size.k, &metrics)
            }
            return withUnsafeBytes(of: metrics) { [UInt8]($0) }
        }
    }

    /// Without this the tests above would show nothing.
    func testTheSettingsWouldShow() {
        let source = peculiar(64, INT4Q_TYPE_F32, seed: 76).pointer(to: Float.self)
        for set in machineSets {
            var encoding = i4q_encoding(scale: 1, offset: 0, gain: 1, zero: 8, low: 0, high: 15, reciprocal: 0, ggml_bias: 0,
                                        table: nil, makes_bytes: 0)
            var usual = [UInt8](repeating: 0, count: 32), odd = usual
            set.kernels.encode(&encoding, source, 64, &usual)
            _ = HostMode.odd.during { () -> int4q_status in
                set.kernels.encode(&encoding, source, 64, &odd)
                return 0
            }
            XCTAssertNotEqual(usual, odd, "\(set.name)")
        }
    }

    // MARK: Failures

    func testFailingCallsGiveTheSettingsBack() {
        let product = product(INT4Q_MODE_F32, schemes[0], xType: INT4Q_TYPE_F32, yType: INT4Q_TYPE_F32)
        let notFinite = elements([Float](repeating: .nan, count: Int(size.n * size.k)), INT4Q_TYPE_F32)
        let tensor = tensor(schemes[0])
        let calls: [(String, () -> int4q_status)] = [
            ("a plan that is NULL", { int4q_matmul(nil, &product.args, nil, nil) }),
            ("too little scratch", {
                var args = product.args
                args.scratch_bytes -= 1
                return int4q_matmul(&product.plan, &args, nil, nil)
            }),
            ("NaN to quantize", { tensor.quantize(notFinite, INT4Q_TYPE_F32, stride: self.size.k) }),
            ("a stride too short", { tensor.quantize(notFinite, INT4Q_TYPE_F32, stride: 1) }),
            ("no destination", { int4q_dequantize_rows(&tensor.raw, nil, self.f32, self.size.k, 0, 1) }),
            ("rows that are not there", { int4q_dequantize_rows(&tensor.raw, notFinite.base, self.f32, self.size.k, 0, 99) }),
            ("no pool", { int4q_pool_create(0, nil) }),
        ]
        for (name, call) in calls {
            for mode in HostMode.all {
                let (status, after) = mode.during(call)
                XCTAssertNotEqual(status, 0, name)
                XCTAssertEqual(after, mode, name)
            }
        }
    }

    // MARK: Threads

    /// A host whose threads all have odd settings of their own while they run the library's tasks.
    func testTasksOnThreadsWithOtherSettings() throws {
        try withPool(3) { pool in
            forEachProduct { name, product in
                XCTAssertEqual(product.run(), 0)
                let expected = product.y.bytes
                product.y.base.initializeMemory(as: UInt8.self, repeating: 0, count: product.y.byteCount)
                let host = OddHost(pool: pool)
                let status = product.run({ host, count, workers, task, context in
                    Unmanaged<OddHost>.fromOpaque(host!).takeUnretainedValue().run(count, workers, task!, context)
                }, host: Unmanaged.passUnretained(host).toOpaque())
                XCTAssertEqual(status, 0, name)
                XCTAssertTrue(product.y.bytes == expected, "\(name): another result")
                XCTAssertEqual(host.changed, 0, "\(name): a task changed its thread's settings")
                XCTAssertGreaterThan(host.tasks, 1, name)
            }
        }
    }

    func testThePoolItselfKeepsTheCallersSettings() throws {
        try withPool(3) { pool in
            forEachProduct { name, product in
                assertUnaffected("\(name), with a pool") { call in
                    call { product.run(int4q_pool_parallel_for, host: UnsafeMutableRawPointer(pool)) }
                    return product.y.bytes
                }
            }
        }
    }

    /// A host's own tasks on the pool's threads may call the library.
    func testCallsFromTasksKeepEachThreadsSettings() throws {
        try withPool(3) { pool in
            let products = (0..<12).map { _ in product(INT4Q_MODE_INT8, schemes[0], xType: INT4Q_TYPE_F32, yType: INT4Q_TYPE_F32) }
            let calls = ConcurrentCalls(products)
            int4q_pool_parallel_for(UnsafeMutableRawPointer(pool), 12, 3, { context, index, _ in
                Unmanaged<ConcurrentCalls>.fromOpaque(context!).takeUnretainedValue().run(Int(index))
            }, Unmanaged.passUnretained(calls).toOpaque())
            XCTAssertEqual(calls.kept, [UInt8](repeating: 1, count: 12))
            XCTAssertEqual(products[0].run(), 0)
            let expected = products[0].y.bytes
            XCTAssertTrue(products.allSatisfy { $0.y.bytes == expected })
        }
    }

    private func withPool(_ workers: UInt32, _ body: (OpaquePointer) throws -> Void) throws {
        var pool: OpaquePointer?
        XCTAssertEqual(int4q_pool_create(workers, &pool), 0)
        try body(XCTUnwrap(pool))
        XCTAssertEqual(int4q_pool_destroy(pool), 0)
    }
}

/// A thread's MXCSR.
private struct HostMode: Equatable, CustomStringConvertible {
    let word: UInt32
    var description: String { "MXCSR \(hex(word))" }

    /// Denormals flushed to zero and read as zero, rounding down, all traps off.
    static let odd = HostMode(word: 0x1f80 | 0x8000 | 0x0040 | 0x2000)
    /// Also towards infinity and zero; with flags that were raised before; with all traps on.
    static let all = [
        odd, HostMode(word: 0x1f80 | 0x4000), HostMode(word: 0x1f80 | 0x6000 | 0x8000), HostMode(word: 0x1f80 | 0x0040 | 0x003f),
        HostMode(word: 0),
    ]

    static var current: HostMode {
        var environment = fenv_t()
        fegetenv(&environment)
        return HostMode(word: environment.__mxcsr)
    }

    static func set(_ mode: HostMode) {
        var environment = fenv_t()
        fegetenv(&environment)
        environment.__mxcsr = mode.word
        fesetenv(&environment)
    }

    /// What `body` returns under these settings, and the settings after it.
    func during<T>(_ body: () -> T) -> (T, HostMode) {
        let before = HostMode.current
        HostMode.set(self)
        let result = body()
        let after = HostMode.current
        HostMode.set(before)
        return (result, after)
    }
}

/// Runs tasks on a pool, each with odd settings.
private final class OddHost {
    private let pool: OpaquePointer
    private let counters = AlignedMemory(64)
    private var task: int4q_task?
    private var context: UnsafeMutableRawPointer?

    init(pool: OpaquePointer) { self.pool = pool }

    var tasks: UInt32 { counters.pointer(to: UInt32.self)[0] }
    var changed: UInt32 { counters.pointer(to: UInt32.self)[1] }

    func run(_ count: Int64, _ workers: UInt32, _ task: @escaping int4q_task, _ context: UnsafeMutableRawPointer?) {
        (self.task, self.context) = (task, context)
        int4q_pool_parallel_for(UnsafeMutableRawPointer(pool), count, workers, { host, index, worker in
            Unmanaged<OddHost>.fromOpaque(host!).takeUnretainedValue().runTask(index, worker)
        }, Unmanaged.passUnretained(self).toOpaque())
    }

    private func runTask(_ index: Int64, _ worker: UInt32) {
        let (_, after) = HostMode.odd.during { task!(context, index, worker) }
        _ = i4q_atomic_add_u32(counters.pointer(to: UInt32.self), 1)
        if after != .odd { _ = i4q_atomic_add_u32(counters.pointer(to: UInt32.self) + 1, 1) }
    }
}

/// Each task is a whole product on one thread.
private final class ConcurrentCalls {
    private let products: [MatmulCall]
    private let results: AlignedMemory
    var kept: [UInt8] { results.bytes }

    init(_ products: [MatmulCall]) {
        self.products = products
        results = AlignedMemory(products.count)
    }

    func run(_ index: Int) {
        let (status, after) = HostMode.odd.during { products[index].run() }
        results.pointer(to: UInt8.self)[index] = status == 0 && after == .odd ? 1 : 0
    }
}
#endif
