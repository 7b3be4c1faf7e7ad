// SPDX-License-Identifier: Apache-2.0
import CInt4QShims
import Foundation
import Int4Q
import XCTest

@testable import Int4QCore

final class ThreadPoolTests: XCTestCase {
    /// What a run's tasks leave behind; counters are atomic, so that a broken pool shows as wrong numbers.
    private final class Record {
        private let memory: AlignedMemory
        private var counts: UnsafeMutablePointer<UInt32> { memory.pointer(to: UInt32.self, at: 4096 + 64) }
        private var busy: UnsafeMutablePointer<UInt32> { memory.pointer(to: UInt32.self, at: 64) } // of each worker
        private var sumCounter: UnsafeMutablePointer<Int64> { memory.pointer(to: Int64.self) }
        private var collisionCounter: UnsafeMutablePointer<UInt32> { memory.pointer(to: UInt32.self, at: 8) }
        private var workerCounter: UnsafeMutablePointer<UInt32> { memory.pointer(to: UInt32.self, at: 12) }

        var sum: Int64 { sumCounter.pointee }
        /// Tasks that found another task of the same worker running.
        var collisions: UInt32 { collisionCounter.pointee }
        /// One more than the largest worker number seen.
        var highestWorkers: UInt32 { workerCounter.pointee }

        init(_ count: Int) { memory = AlignedMemory(64 + 4096 + count * 4) }

        func run(_ pool: OpaquePointer?, count: Int64, workers limit: UInt32) {
            int4q_pool_parallel_for(pool.map { UnsafeMutableRawPointer($0) }, count, limit, { context, index, worker in
                Unmanaged<Record>.fromOpaque(context!).takeUnretainedValue().note(index, worker)
            }, Unmanaged.passUnretained(self).toOpaque())
        }

        private func note(_ index: Int64, _ worker: UInt32) {
            if i4q_atomic_exchange_u32(busy + Int(worker), 0, 1) == 0 { _ = i4q_atomic_add_u32(collisionCounter, 1) }
            _ = i4q_atomic_add_u32(counts + Int(index), 1)
            _ = i4q_atomic_add_i64(sumCounter, index)
            while true {
                let highest = i4q_atomic_load_u32(workerCounter)
                if worker < highest || i4q_atomic_exchange_u32(workerCounter, highest, worker + 1) != 0 { break }
            }
            i4q_atomic_store_u32(busy + Int(worker), 0)
        }

        func ranEachOnce(_ count: Int) -> Bool { (0..<count).allSatisfy { counts[$0] == 1 } }
    }

    private func withPool(_ workers: UInt32, _ body: (OpaquePointer) throws -> Void) throws {
        var pool: OpaquePointer?
        XCTAssertEqual(int4q_pool_create(workers, &pool), int4q_status(INT4Q_OK))
        try body(XCTUnwrap(pool))
        XCTAssertEqual(int4q_pool_destroy(pool), int4q_status(INT4Q_OK))
    }

    func testEachIndexRunsOnceInManyRuns() throws {
        try withPool(4) { pool in
            for run in 0..<1000 {
                let count = [0, 1, 2, 3, 5, 16, 100][run % 7]
                let record = Record(count)
                record.run(pool, count: Int64(count), workers: 4)
                XCTAssertTrue(record.ranEachOnce(count), "run \(run)")
                XCTAssertEqual(record.sum, Int64(count * max(count - 1, 0) / 2))
                XCTAssertEqual(record.collisions, 0, "two tasks of one worker at once")
            }
        }
    }

    func testRunsAfterAPauseWakeSleepingThreads() throws {
        try withPool(3) { pool in
            for _ in 0..<5 {
                usleep(20_000)
                let record = Record(1000)
                record.run(pool, count: 1000, workers: 3)
                XCTAssertTrue(record.ranEachOnce(1000))
            }
        }
    }

    func testTheWorkerLimitIsRespected() throws {
        try withPool(4) { pool in
            for limit in UInt32(0)...6 {
                let record = Record(2000)
                record.run(pool, count: 2000, workers: limit)
                XCTAssertTrue(record.ranEachOnce(2000))
                XCTAssertLessThanOrEqual(record.highestWorkers, max(1, min(limit, 4)), "limit \(limit)")
            }
        }
    }

    func testThreadsTakePart() throws {
        try withPool(2) { pool in
            // Both must be inside at once: each waits for the other.
            var inside: UInt32 = 0
            int4q_pool_parallel_for(UnsafeMutableRawPointer(pool), 2, 2, { context, _, _ in
                let inside = context!.assumingMemoryBound(to: UInt32.self)
                _ = i4q_atomic_add_u32(inside, 1)
                let end = Date(timeIntervalSinceNow: 10)
                while i4q_atomic_load_u32(inside) < 2 && Date() < end { sched_yield() }
            }, &inside)
            XCTAssertEqual(inside, 2)
        }
    }

    func testWithoutAPoolTheCallerRunsAllInOrder() {
        final class Order { var indices: [Int64] = [] }
        let order = Order()
        int4q_pool_parallel_for(nil, 5, 8, { context, index, worker in
            XCTAssertEqual(worker, 0)
            Unmanaged<Order>.fromOpaque(context!).takeUnretainedValue().indices.append(index)
        }, Unmanaged.passUnretained(order).toOpaque())
        XCTAssertEqual(order.indices, [0, 1, 2, 3, 4])
    }

    func testTwoCallersTakeTurns() throws {
        try withPool(3) { pool in
            nonisolated(unsafe) let pool = pool
            DispatchQueue.concurrentPerform(iterations: 4) { _ in
                for _ in 0..<100 {
                    let record = Record(50)
                    record.run(pool, count: 50, workers: 3)
                    XCTAssertTrue(record.ranEachOnce(50))
                    XCTAssertEqual(record.collisions, 0)
                }
            }
        }
    }

    func testPoolsComeAndGo() throws {
        for cycle in 0..<200 {
            try withPool(UInt32(cycle % 5 + 1)) { pool in
                if cycle % 3 == 0 { return } // destroyed unused
                let record = Record(10)
                record.run(pool, count: 10, workers: 5)
                XCTAssertTrue(record.ranEachOnce(10))
            }
        }
    }

    func testDestroyingNoPoolIsAllowed() { XCTAssertEqual(int4q_pool_destroy(nil), int4q_status(INT4Q_OK)) }

    func testPoolsHave1To1024Workers() throws {
        for workers: UInt32 in [0, 1025, .max] {
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "worker_count") { try ThreadPool.create(workers: workers) }
        }
        XCTAssertEqual(int4q_pool_create(1, nil), int4q_status(INT4Q_ERROR_NULL_POINTER))
    }

    func testThreadsBlockSignals() throws {
        try withPool(2) { pool in
            var blocked: UInt32 = 0
            int4q_pool_parallel_for(UnsafeMutableRawPointer(pool), 2, 2, { context, _, worker in
                let results = context!.assumingMemoryBound(to: UInt32.self)
                if worker == 1 {
                    var mask = sigset_t()
                    pthread_sigmask(SIG_SETMASK, nil, &mask)
                    let isBlocked = [SIGINT, SIGTERM, SIGALRM, SIGCHLD].allSatisfy { sigismember(&mask, $0) == 1 }
                    i4q_atomic_store_u32(results, isBlocked ? 1 : 2)
                }
                // Worker 0 leaves the other index to worker 1.
                let end = Date(timeIntervalSinceNow: 10)
                while i4q_atomic_load_u32(results) == 0 && Date() < end { sched_yield() }
            }, &blocked)
            XCTAssertEqual(blocked, 1)
        }
    }
}
