// SPDX-License-Identifier: Apache-2.0
import CInt4QShims
import Int4Q
import XCTest

@testable import Int4QCore

final class MatmulPlanTests: XCTestCase {
    private let symmetric = rawScheme(INT4Q_KIND_SYMMETRIC, scale: INT4Q_TYPE_F16)
    private let panelBytes = Int64(I4Q_PANEL_BYTES)

    private func plan(_ desc: int4q_matmul_desc, bfloatBytes: Int64 = 4) throws -> MatmulPlan {
        try MatmulPlan(MatmulShape(desc), bfloatBytes: bfloatBytes)
    }

    private func plan(_ desc: int4q_matmul_desc, _ limit: MatmulPlan.TileLimit) throws -> MatmulPlan {
        try MatmulPlan(MatmulShape(desc), bfloatBytes: 2, limit)
    }

    private func publicPlan(_ desc: int4q_matmul_desc) -> int4q_matmul_plan {
        var desc = desc, plan = int4q_matmul_plan()
        XCTAssertEqual(int4q_matmul_plan_init(&desc, &plan), int4q_status(INT4Q_OK))
        return plan
    }

    // MARK: Cutting

    func testTilesOfManyShapesCoverTheResultExactly() throws {
        for m: Int64 in [1, 2, 8, 9, 127, 128, 129, 1000, 100_000] {
            for n: Int64 in [1, 15, 16, 17, 64, 65, 1000, 1024, 65536, 1 << 40] {
                for workers: UInt32 in [1, 2, 7, 64, 1024] {
                    let p = try plan(description(m: m, n: n, k: 64, scheme: symmetric, workers: workers))
                    let name = "m \(m), n \(n), \(workers) workers"
                    assertCut(m, into: p.rowTiles, of: p.rowsInTile, name)
                    assertCut(n, into: p.blockTiles, of: p.columnsInTile, name)
                    assertCut(m, into: p.prepareCount, of: p.rowsPerPrepare, name)
                    XCTAssertEqual(p.columnsInTile % 16, 0, name)
                    XCTAssertEqual(p.tileCount, p.rowTiles * p.blockTiles, name)
                }
            }
        }
    }

    /// `count` pieces of `size` reach the end, and one less does not.
    private func assertCut(_ total: Int64, into count: Int64, of size: Int64, _ name: String) {
        XCTAssertGreaterThanOrEqual(count * size, total, name)
        XCTAssertLessThan((count - 1) * size, total, name)
    }

    /// Runs one tile after the other and looks which outputs each one wrote.
    func testEachOutputIsWrittenByExactlyOneTile() throws {
        let shapes: [(m: Int64, n: Int64, workers: UInt32)] = [
            (1, 1, 1), (1, 17, 1), (3, 600, 1), (8, 64, 2), (9, 65, 1), (128, 16, 1), (129, 130, 3), (300, 200, 2),
        ]
        for (m, n, workers) in shapes {
            for mode in [INT4Q_MODE_F32, INT4Q_MODE_INT8, INT4Q_MODE_BF16] {
                let product = TestProduct(description(mode: mode, m: m, n: n, k: 16, scheme: symmetric, workers: workers))
                let written = product.countWrites()
                XCTAssertEqual(written.tiles, product.plan.tile_count)
                XCTAssertTrue(written.counts.allSatisfy { $0 == 1 }, "m \(m), n \(n), mode \(mode): \(Set(written.counts))")
            }
        }
    }

    func testFewRowsMakeWideTilesThatAllWorkersShare() throws {
        for m: Int64 in [1, 2, 8] {
            for workers: UInt32 in [1, 2, 4, 16, 64] {
                for n: Int64 in [20, 100, 1024, 4096, 65536] {
                    let p = try plan(description(m: m, n: n, k: 64, scheme: symmetric, workers: workers))
                    let name = "m \(m), n \(n), \(workers) workers"
                    XCTAssertEqual(p.rowsInTile, m, name)
                    // Four blocks and more, if there are so many; a first-level cache holds 64.
                    let sensible = min(64, p.blockCount * 16)...1024
                    XCTAssertTrue(sensible.contains(p.columnsInTile), "\(name): \(p.columnsInTile) columns")
                    let fourEach = Int64(4 * workers)
                    if workers > 1 && p.blockCount >= 4 * fourEach { XCTAssertGreaterThanOrEqual(p.tileCount, fourEach, name) }
                }
            }
        }
    }

    func testKernelsMayWantLargerTilesOfEqualHeight() throws {
        let limit = MatmulPlan.TileLimit(rows: 512, blocks: 16, interleavesRows: true)
        for (m, rows): (Int64, Int64) in [(9, 9), (100, 100), (512, 512), (513, 288), (1000, 512), (1025, 352)] {
            let p = try plan(description(m: m, n: 4096, k: 64, scheme: symmetric, workers: 1), limit)
            XCTAssertEqual([p.rowsInTile, p.columnsInTile], [rows, 256], "m \(m)")
            assertCut(m, into: p.rowTiles, of: p.rowsInTile, "m \(m)")
        }
        // Narrower ones where several workers would have less than four each.
        let shared = try plan(description(m: 512, n: 4096, k: 64, scheme: symmetric, workers: 8), limit)
        XCTAssertEqual([shared.columnsInTile, shared.tileCount], [128, 32])
        let few = try plan(description(m: 8, n: 4096, k: 64, scheme: symmetric, workers: 1), limit)
        XCTAssertEqual(few.columnsInTile, 1024)
    }

    func testInterleavedRowsStandInLines() throws {
        let limit = MatmulPlan.TileLimit(rows: 512, blocks: 16, interleavesRows: true)
        for m: Int64 in [16, 33, 100] {
            let p = try plan(description(mode: INT4Q_MODE_INT8, m: m, n: 64, k: 300, scheme: symmetric), limit)
            XCTAssertEqual(p.preparedLineStride, 2048)
            let row = Int(p.preparedRowBytes)
            // Each line of 64 bytes of each row has a place of its own, below what follows.
            var places = Set<Int>()
            for r in 0..<Int(m) { for line in 0..<row / 64 { places.insert(p.preparedOffset(r) + line * 2048) } }
            XCTAssertEqual(places.count, Int(m) * (row / 64), "m \(m)")
            XCTAssertTrue(places.allSatisfy { $0 % 64 == 0 && $0 >= 0 && $0 + 64 <= Int(p.workersOffset) }, "m \(m)")
        }
        for m: Int64 in [1, 15] {
            let p = try plan(description(mode: INT4Q_MODE_INT8, m: m, n: 64, k: 300, scheme: symmetric), limit)
            XCTAssertEqual(p.preparedLineStride, 64)
            XCTAssertEqual(p.preparedOffset(3), 3 * Int(p.preparedRowBytes))
        }
    }

    func testManyRowsAreAnOddNumberOfLinesApart() throws {
        for k: Int64 in [1, 64, 300, 4096] {
            let p = try plan(description(mode: INT4Q_MODE_INT8, m: 20, n: 512, k: k, scheme: symmetric))
            XCTAssertEqual([p.preparedRowBytes / 64 % 2, p.totalsStride * 4 / 64 % 2], [1, 1], "k \(k)")
        }
    }

    func testManyRowsMakeTallTiles() throws {
        let p = try plan(description(m: 1000, n: 4096, k: 64, scheme: symmetric, workers: 4))
        XCTAssertEqual([p.rowsInTile, p.columnsInTile, p.tileCount], [128, 64, 8 * 64])
        let narrow = try plan(description(m: 9, n: 20, k: 64, scheme: symmetric))
        XCTAssertEqual([narrow.rowsInTile, narrow.columnsInTile, narrow.tileCount], [9, 32, 1])
    }

    // MARK: Scratch

    func testPreparedFloatsAreFollowedByTheSumsOfTheirGroups() throws {
        let p = try plan(description(m: 3, n: 100, k: 100, scheme: symmetric, workers: 2))
        // 128 floats and 4 sums: 528 bytes, padded to 576.
        XCTAssertEqual([p.preparedRowBytes, p.preparedSumsOffset], [576, 512])
        XCTAssertEqual(p.rowsPerPrepare, 128)
        // A worker's panel and tile: 3 rows of 4 blocks of 64 bytes.
        XCTAssertEqual([p.workersOffset, p.workerBytes], [3 * 576, panelBytes + 768])
        XCTAssertEqual(p.scratchBytes(workers: 2), UInt64(1728 + 2 * (panelBytes + 768)))
    }

    func testPreparedBytesAreFollowedByPairsOfStepAndShare() throws {
        let p = try plan(description(mode: INT4Q_MODE_INT8, m: 3, n: 100, k: 100, scheme: symmetric, workers: 2))
        // 128 bytes and 4 pairs: 160 bytes, padded to 192.
        XCTAssertEqual([p.preparedRowBytes, p.preparedScalesOffset], [192, 128])
        XCTAssertEqual(p.scratchBytes(workers: 2), UInt64(3 * 192 + 2 * (panelBytes + 768)))
    }

    func testPreparedBFloatsTakeWhatTheInstructionSetSays() throws {
        let desc = description(mode: INT4Q_MODE_BF16, m: 3, n: 100, k: 100, scheme: symmetric)
        let narrow = try plan(desc, bfloatBytes: 2), wide = try plan(desc, bfloatBytes: 4)
        // 128 bfloats and 4 sums: 272 bytes, padded to 320; or as floats.
        XCTAssertEqual([narrow.preparedRowBytes, narrow.preparedSumsOffset], [320, 256])
        XCTAssertEqual([wide.preparedRowBytes, wide.preparedSumsOffset], [576, 512])
    }

    func testGatedPairsHaveTilesForBoth() throws {
        var desc = description(m: 3, n: 100, k: 100, scheme: symmetric, workers: 2)
        desc.flags = UInt32(INT4Q_MATMUL_GATED)
        XCTAssertEqual(try plan(desc).workerBytes, panelBytes + 2 * 768)
    }

    func testExpertsStandBetweenRowsAndWorkers() throws {
        var desc = description(m: 3, n: 100, k: 100, scheme: symmetric, workers: 2)
        desc.expert_count = 5
        let p = try plan(desc)
        // 3 rows of slots, 5 counts, 3 + 1 segments of 12 bytes: 80 bytes, padded to 128.
        XCTAssertEqual([p.expertsOffset, p.workersOffset], [3 * 576, 3 * 576 + 128])
        // 7 blocks in tiles of 4.
        XCTAssertEqual([p.rowTiles, p.blockTiles, p.tileCount], [4, 2, 8])
    }

    func testLongRowsArePreparedOneByOne() throws {
        XCTAssertEqual(try plan(description(m: 7, n: 16, k: 16384, scheme: symmetric)).prepareCount, 7)
        XCTAssertEqual(try plan(description(m: 7, n: 16, k: 16385, scheme: symmetric)).prepareCount, 7)
        XCTAssertEqual(try plan(description(m: 7, n: 16, k: 8192, scheme: symmetric)).prepareCount, 4)
    }

    func testScratchBeyond63BitsIsRefused() {
        for m: Int64 in [1 << 58, .max] {
            assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "desc.m") { try plan(description(m: m, n: 16, k: 1024, scheme: symmetric)) }
        }
    }

    func testMoreTilesThan63BitsAreRefused() {
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "desc.m") {
            try plan(description(m: 1 << 50, n: 1 << 50, k: 16, scheme: symmetric))
        }
    }

    // MARK: As the caller holds it

    func testAPlanIsReadAsItWasWritten() throws {
        let desc = description(mode: INT4Q_MODE_INT8, m: 77, n: 333, k: 555, scheme: symmetric, workers: 5)
        let made = try MatmulPlan(MatmulShape(desc), InstructionSetLimit.active().kernels)
        var held = publicPlan(desc)
        XCTAssertEqual(held.scratch_bytes, made.scratchBytes(workers: 5))
        XCTAssertEqual(held.prepare_count, made.prepareCount)
        XCTAssertEqual(held.tile_count, made.tileCount)
        XCTAssertEqual(held.worker_count, 5)
        XCTAssertEqual(held.reserved, 0)
        let read = try MatmulPlan(&held)
        XCTAssertEqual([read.mode, read.m, read.n, read.k], [Int64(INT4Q_MODE_INT8), 77, 333, 555])
        XCTAssertEqual([read.kind, read.groupSizeField, read.scaleType],
                       [Int64(INT4Q_KIND_SYMMETRIC), 32, Int64(INT4Q_TYPE_F16)])
        XCTAssertEqual(withUnsafeBytes(of: read) { Array($0) }, withUnsafeBytes(of: made) { Array($0) })
    }

    func testThePlanOfADescriptionHasAlwaysTheSameBytes() {
        let desc = description(m: 5, n: 40, k: 70, scheme: symmetric)
        let first = publicPlan(desc), second = publicPlan(desc)
        XCTAssertEqual(withUnsafeBytes(of: first) { Array($0) }, withUnsafeBytes(of: second) { Array($0) })
    }

    func testEveryFlippedBitIsDetected() {
        var plan = publicPlan(description(m: 5, n: 40, k: 70, scheme: symmetric))
        var args = int4q_matmul_args()
        args.struct_size = UInt32(MemoryLayout<int4q_matmul_args>.stride)
        let bits = MemoryLayout<int4q_matmul_plan>.stride * 8
        XCTAssertEqual(bits, 360 * 8)
        var all = Comparisons()
        for bit in 0..<bits {
            withUnsafeMutableBytes(of: &plan) { $0[bit / 8] ^= 1 << (bit % 8) }
            let expected = bit < 32 ? INT4Q_ERROR_STRUCT_SIZE : INT4Q_ERROR_CORRUPT
            all.expectEqual(Int(int4q_matmul_prepare(&plan, &args, 0, 1)), expected, "bit \(bit)")
            withUnsafeMutableBytes(of: &plan) { $0[bit / 8] ^= 1 << (bit % 8) }
        }
        all.assertAllHeld(atLeast: bits)
        XCTAssertNoThrow(try MatmulPlan(&plan))
    }

    // MARK: Descriptions

    func testEachWrongFieldOfADescriptionIsNamed() {
        let good = description(m: 1, n: 1, k: 1, scheme: symmetric)
        let wrong: [(String, Int, (inout int4q_matmul_desc) -> Void)] = [
            ("desc.struct_size", INT4Q_ERROR_STRUCT_SIZE, { $0.struct_size -= 1 }),
            ("desc.mode", INT4Q_ERROR_INVALID_ARGUMENT, { $0.mode = 0 }),
            ("desc.mode", INT4Q_ERROR_INVALID_ARGUMENT, { $0.mode = 5 }),
            ("desc.mode", INT4Q_ERROR_UNSUPPORTED, { $0.mode = int4q_compute_mode(INT4Q_MODE_BINARY) }),
            ("desc.m", INT4Q_ERROR_INVALID_ARGUMENT, { $0.m = 0 }),
            ("desc.n", INT4Q_ERROR_INVALID_ARGUMENT, { $0.n = -1 }),
            ("desc.k", INT4Q_ERROR_INVALID_ARGUMENT, { $0.k = 0 }),
            ("scheme.kind", INT4Q_ERROR_INVALID_ARGUMENT, { $0.scheme.kind = 9 }),
            ("desc.x_type", INT4Q_ERROR_INVALID_ARGUMENT, { $0.x_type = 0 }),
            ("desc.y_type", INT4Q_ERROR_INVALID_ARGUMENT, { $0.y_type = 4 }),
            ("desc.worker_count", INT4Q_ERROR_INVALID_ARGUMENT, { $0.worker_count = 0 }),
            ("desc.worker_count", INT4Q_ERROR_INVALID_ARGUMENT, { $0.worker_count = 1025 }),
            ("desc.flags", INT4Q_ERROR_INVALID_ARGUMENT, { $0.flags = 4 }),
            ("desc.flags", INT4Q_ERROR_INVALID_ARGUMENT, { $0.flags = UInt32(INT4Q_MATMUL_STATIC_SCALES) }),
            ("desc.activation", INT4Q_ERROR_INVALID_ARGUMENT, { $0.activation = -1 }),
            ("desc.activation", INT4Q_ERROR_INVALID_ARGUMENT, { $0.activation = 5 }),
            ("desc.bias_type", INT4Q_ERROR_INVALID_ARGUMENT, { $0.bias_type = 4 }),
            ("desc.residual_type", INT4Q_ERROR_INVALID_ARGUMENT, { $0.residual_type = -1 }),
            ("desc.expert_count", INT4Q_ERROR_INVALID_ARGUMENT, { $0.expert_count = 65537 }),
            ("desc.m", INT4Q_ERROR_INVALID_ARGUMENT, { ($0.m, $0.expert_count) = (1 << 31, 1) }),
        ]
        for (argument, status, spoil) in wrong {
            var desc = good
            spoil(&desc)
            assertFails(status, argument) { try MatmulShape(desc) }
        }
    }
}

/// A product on zero weights, whose outputs are all zero once they are written.
private final class TestProduct {
    private let outputs: Int
    private let call: MatmulCall
    var plan: int4q_matmul_plan { call.plan }

    init(_ desc: int4q_matmul_desc) {
        outputs = Int(desc.m * desc.n)
        let zeros = TestTensor(desc.scheme, n: desc.n, k: desc.k).packed()
        call = MatmulCall(desc, blob: zeros, x: AlignedMemory(Int(desc.m * desc.k) * 4))
    }

    func countWrites() -> (tiles: Int64, counts: [UInt8]) {
        let untouched: UInt32 = 0x7fff_1234
        let words = call.y.pointer(to: UInt32.self)
        var counts = [UInt8](repeating: 0, count: outputs)
        XCTAssertEqual(int4q_matmul_prepare(&call.plan, &call.args, 0, plan.prepare_count), 0)
        for tile in 0..<plan.tile_count {
            words.update(repeating: untouched, count: outputs)
            XCTAssertEqual(int4q_matmul_tiles(&call.plan, &call.args, plan.worker_count - 1, tile, tile + 1), 0)
            for index in 0..<outputs where words[index] != untouched { counts[index] += 1 }
        }
        return (plan.tile_count, counts)
    }
}
