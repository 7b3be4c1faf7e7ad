// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "int4q.h"
#include "support/random.hpp"
#include "support/status.hpp"

namespace int4q_test {
namespace {

struct PoolOwner {
    explicit PoolOwner(uint32_t workers) { EXPECT_OK(int4q_pool_create(workers, &pool)); }
    ~PoolOwner() { EXPECT_OK(int4q_pool_destroy(pool)); }
    int4q_pool *pool = nullptr;
};

// Counts how often each index ran and whether two tasks held one worker number at the same time.
struct Ledger {
    explicit Ledger(int64_t count) : runs(static_cast<size_t>(count)) {}

    static void Task(void *context, int64_t index, uint32_t worker) {
        auto &ledger = *static_cast<Ledger *>(context);
        if (worker >= kWorkers) {
            ledger.bad_workers++;
            return;
        }
        if (ledger.busy[worker].exchange(true)) ledger.shared_workers++;
        ledger.runs[static_cast<size_t>(index)]++;
        if (worker > ledger.highest) ledger.highest = worker;
        ledger.busy[worker] = false;
    }

    void ExpectEachOnce() const {
        for (size_t i = 0; i < runs.size(); i++) ASSERT_EQ(runs[i], 1) << "index " << i;
        EXPECT_EQ(shared_workers, 0);
        EXPECT_EQ(bad_workers, 0);
    }

    static constexpr uint32_t kWorkers = 16;
    std::vector<std::atomic<int>> runs;
    std::atomic<bool> busy[kWorkers] = {};
    std::atomic<uint32_t> highest{0};
    std::atomic<int> shared_workers{0}, bad_workers{0};
};

TEST(Pool, RunsEachIndexOnceForAnyCountAndWorkers) {
    for (uint32_t workers : {1u, 2u, 3u, 5u, 16u}) {
        PoolOwner owner(workers);
        for (int64_t count : {0, 1, 2, 3, 15, 16, 17, 1000}) {
            Ledger ledger(count);
            int4q_pool_parallel_for(owner.pool, count, workers, Ledger::Task, &ledger);
            ledger.ExpectEachOnce();
            EXPECT_LT(ledger.highest, workers);
        }
    }
}

TEST(Pool, KeepsToFewerWorkersThanItHas) {
    PoolOwner owner(8);
    for (uint32_t limit = 1; limit <= 9; limit++) {
        Ledger ledger(2000);
        int4q_pool_parallel_for(owner.pool, 2000, limit, Ledger::Task, &ledger);
        ledger.ExpectEachOnce();
        EXPECT_LT(ledger.highest, std::min(limit, 8u));
    }
}

TEST(Pool, ThousandsOfTinyRuns) {
    PoolOwner owner(4);
    Ledger ledger(6);
    const int rounds = Samples(5000);
    for (int i = 0; i < rounds; i++) int4q_pool_parallel_for(owner.pool, 6, 4, Ledger::Task, &ledger);
    for (const auto &runs : ledger.runs) EXPECT_EQ(runs, rounds);
    EXPECT_EQ(ledger.shared_workers, 0);
}

TEST(Pool, WakesThreadsThatHaveGoneToSleep) {
    PoolOwner owner(3);
    for (int i = 0; i < 5; i++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        Ledger ledger(100);
        int4q_pool_parallel_for(owner.pool, 100, 3, Ledger::Task, &ledger);
        ledger.ExpectEachOnce();
    }
}

TEST(Pool, TwoCallersTakeTurns) {
    PoolOwner owner(3);
    const int rounds = Samples(500);
    auto caller = [&] {
        for (int i = 0; i < rounds; i++) {
            Ledger ledger(20);
            int4q_pool_parallel_for(owner.pool, 20, 3, Ledger::Task, &ledger);
            ledger.ExpectEachOnce();
        }
    };
    std::thread first(caller), second(caller), third(caller);
    first.join();
    second.join();
    third.join();
}

TEST(Pool, ManyPoolsComeAndGo) {
    for (int i = 0; i < Samples(200); i++) {
        PoolOwner owner(1 + static_cast<uint32_t>(i) % 5);
        if (i % 3 == 0) continue;
        Ledger ledger(10);
        int4q_pool_parallel_for(owner.pool, 10, 5, Ledger::Task, &ledger);
        ledger.ExpectEachOnce();
    }
}

TEST(Pool, WithoutAPoolTheCallerDoesItAll) {
    Ledger ledger(50);
    int4q_pool_parallel_for(nullptr, 50, 4, Ledger::Task, &ledger);
    ledger.ExpectEachOnce();
    EXPECT_EQ(ledger.highest, 0u);
    EXPECT_OK(int4q_pool_destroy(nullptr));
}

TEST(Pool, WhatTasksWroteIsSeenAfterTheRun) {
    PoolOwner owner(4);
    for (int round = 0; round < Samples(200); round++) {
        std::vector<int64_t> squares(97);
        int4q_pool_parallel_for(
            owner.pool, 97, 4, [](void *c, int64_t i, uint32_t) { static_cast<int64_t *>(c)[i] = i * i; }, squares.data());
        for (int64_t i = 0; i < 97; i++) ASSERT_EQ(squares[static_cast<size_t>(i)], i * i);
    }
}

}  // namespace
}  // namespace int4q_test
