// SPDX-License-Identifier: Apache-2.0
// The pool as a process sees it (signals, sleep) and as many callers use it.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "int4q.h"
#include "support/problem.hpp"
#include "support/random.hpp"
#include "support/status.hpp"

namespace int4q_test {
namespace {

struct PoolOwner {
    explicit PoolOwner(uint32_t workers) { EXPECT_OK(int4q_pool_create(workers, &pool)); }
    ~PoolOwner() { EXPECT_OK(int4q_pool_destroy(pool)); }
    PoolOwner(const PoolOwner &) = delete;
    PoolOwner &operator=(const PoolOwner &) = delete;
    int4q_pool *pool = nullptr;
};

// How often each index ran, the highest worker, and whether two tasks were one worker at the same time.
struct Tally {
    static constexpr uint32_t kWorkers = 64;

    explicit Tally(int64_t count) : runs(static_cast<size_t>(count)) {}

    static void Task(void *context, int64_t index, uint32_t worker) {
        auto &tally = *static_cast<Tally *>(context);
        if (worker >= kWorkers || index < 0 || index >= static_cast<int64_t>(tally.runs.size())) {
            tally.wrong++;
            return;
        }
        if (tally.busy[worker].exchange(true)) tally.wrong++;
        tally.runs[static_cast<size_t>(index)]++;
        uint32_t highest = tally.highest;
        while (worker > highest && !tally.highest.compare_exchange_weak(highest, worker)) {
        }
        tally.busy[worker] = false;
    }

    ::testing::AssertionResult Each(int times) const {
        for (size_t i = 0; i < runs.size(); i++) {
            if (runs[i] != times) return ::testing::AssertionFailure() << "index " << i << " ran " << runs[i] << " times";
        }
        if (wrong) return ::testing::AssertionFailure() << wrong << " tasks with a worker of another or out of range";
        return ::testing::AssertionSuccess();
    }

    std::vector<std::atomic<int>> runs;
    std::atomic<bool> busy[kWorkers] = {};
    std::atomic<uint32_t> highest{0};
    std::atomic<int> wrong{0};
};

// The ids of this process's threads.
std::set<std::string> Threads() {
    // The thread sanitizer adds a thread of its own with a process's first one; it is not to be counted.
    static const bool has_had_one = (std::thread([] {}).join(), true);
    EXPECT_TRUE(has_had_one);
    std::set<std::string> ids;
    for (const auto &entry : std::filesystem::directory_iterator("/proc/self/task")) ids.insert(entry.path().filename());
    return ids;
}

std::vector<std::string> ThreadsSince(const std::set<std::string> &before) {
    std::vector<std::string> added;
    const std::set<std::string> now = Threads();
    std::set_difference(now.begin(), now.end(), before.begin(), before.end(), std::back_inserter(added));
    return added;
}

uint64_t BlockedSignals(const std::string &thread) {
    std::ifstream status("/proc/self/task/" + thread + "/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("SigBlk:", 0) == 0) return std::stoull(line.substr(7), nullptr, 16);
    }
    ADD_FAILURE() << "no SigBlk of thread " << thread;
    return 0;
}

// Clock ticks that a thread has run.
uint64_t TicksOf(const std::string &thread) {
    std::ifstream file("/proc/self/task/" + thread + "/stat");
    std::string line;
    std::getline(file, line);
    unsigned long user = 0, kernel = 0;
    const size_t name_end = line.rfind(')');
    const char *const format = " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu";
    if (name_end == std::string::npos || std::sscanf(line.c_str() + name_end + 1, format, &user, &kernel) != 2) {
        ADD_FAILURE() << "cannot read the times of thread " << thread;
    }
    return user + kernel;
}

TEST(PoolThreads, BlockAllSignals) {
    const std::set<std::string> before = Threads();
    const uint64_t own = BlockedSignals(std::to_string(syscall(SYS_gettid)));
    const PoolOwner owner(5);
    for (int i = 0; i < 2; i++) {  // as they start, and after they have worked
        const std::vector<std::string> added = ThreadsSince(before);
        EXPECT_EQ(added.size(), 4u);
        for (const std::string &thread : added) {
            const uint64_t blocked = BlockedSignals(thread);
            for (int signal = 1; signal <= 64; signal++) {
                // Not to be blocked: by the system's rules, or because the C library has two for itself.
                if (signal == SIGKILL || signal == SIGSTOP || (signal >= 32 && signal < SIGRTMIN)) continue;
                EXPECT_TRUE(blocked >> (signal - 1) & 1) << "thread " << thread << ", signal " << signal;
            }
        }
        Tally tally(100);
        int4q_pool_parallel_for(owner.pool, 100, 5, Tally::Task, &tally);
        EXPECT_TRUE(tally.Each(1));
    }
    EXPECT_EQ(BlockedSignals(std::to_string(syscall(SYS_gettid))), own) << "the caller's mask changed";
}

std::atomic<int> signals_elsewhere{0}, signals_here{0};
std::atomic<long> caller_thread{0};

void OnSignal(int) { (syscall(SYS_gettid) == caller_thread ? signals_here : signals_elsewhere)++; }

TEST(PoolThreads, SignalsOfTheProcessReachTheHostsThread) {
    caller_thread = syscall(SYS_gettid);
    signals_here = signals_elsewhere = 0;
    struct sigaction action = {}, old = {};
    action.sa_handler = OnSignal;
    sigemptyset(&action.sa_mask);
    ASSERT_EQ(sigaction(SIGUSR2, &action, &old), 0);
    {
        const PoolOwner owner(4);
        for (int i = 0; i < 50; i++) {
            Tally tally(50);
            int4q_pool_parallel_for(
                owner.pool, 50, 4,
                [](void *context, int64_t index, uint32_t worker) {
                    if (index == 25) kill(getpid(), SIGUSR2);
                    Tally::Task(context, index, worker);
                },
                &tally);
            ASSERT_TRUE(tally.Each(1));
        }
    }
    ASSERT_EQ(sigaction(SIGUSR2, &old, nullptr), 0);
    EXPECT_EQ(signals_elsewhere, 0);
    EXPECT_GT(signals_here, 0);
}

TEST(PoolThreads, EndWithThePool) {
    const std::set<std::string> before = Threads();
    for (uint32_t workers : {1u, 2u, 9u}) {
        int4q_pool *pool = nullptr;
        ASSERT_OK(int4q_pool_create(workers, &pool));
        EXPECT_EQ(ThreadsSince(before).size(), workers - 1);
        ASSERT_OK(int4q_pool_destroy(pool));
        // A joined thread may be listed for a moment longer.
        for (int i = 0; i < 1000 && !ThreadsSince(before).empty(); i++) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        EXPECT_EQ(ThreadsSince(before).size(), 0u) << workers;
    }
}

// A child's pool has no threads: its caller does the work. Would anybody wait for them, the alarm ends the child.
TEST(PoolThreads, AreNotWaitedForAfterAFork) {
    const PoolOwner owner(3);
    Tally before(50);
    int4q_pool_parallel_for(owner.pool, 50, 3, Tally::Task, &before);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        alarm(20);
        Tally tally(50);
        for (int i = 0; i < 3; i++) int4q_pool_parallel_for(owner.pool, 50, 3, Tally::Task, &tally);
        const bool right = tally.Each(3) && tally.highest == 0;
        _exit(right && int4q_pool_destroy(owner.pool) == INT4Q_OK ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    Tally after(50);
    int4q_pool_parallel_for(owner.pool, 50, 3, Tally::Task, &after);
    EXPECT_TRUE(after.Each(1));
}

TEST(PoolThreads, SleepWhenThereIsNothingToDo) {
    const std::set<std::string> before = Threads();
    const PoolOwner owner(3);
    Tally tally(300);
    int4q_pool_parallel_for(owner.pool, 300, 3, Tally::Task, &tally);
    EXPECT_TRUE(tally.Each(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    const std::vector<std::string> threads = ThreadsSince(before);
    ASSERT_EQ(threads.size(), 2u);
    const uint64_t ticks[] = {TicksOf(threads[0]), TicksOf(threads[1])};
    std::this_thread::sleep_for(std::chrono::milliseconds(400));
    const double all = 0.4 * static_cast<double>(sysconf(_SC_CLK_TCK));
    for (size_t i : {0, 1}) EXPECT_LE(TicksOf(threads[i]) - ticks[i], 2u) << "of " << all;
}

TEST(PoolMore, WakesAfterALongIdle) {
    const PoolOwner owner(4);
    for (int milliseconds : {0, 1, 700, 300, 50, 5, 2, 1, 0}) {
        std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
        Tally tally(64);
        int4q_pool_parallel_for(owner.pool, 64, 4, Tally::Task, &tally);
        ASSERT_TRUE(tally.Each(1)) << milliseconds << " ms";
    }
}

// All workers must be there at once for this to end, so each has been woken.
TEST(PoolMore, WakesAllOfItsWorkers) {
    const PoolOwner owner(4);
    for (int i = 0; i < 20; i++) {
        if (i % 5 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(60));
        std::atomic<int> present{0};
        int4q_pool_parallel_for(
            owner.pool, 4, 4,
            [](void *context, int64_t, uint32_t) {
                auto &count = *static_cast<std::atomic<int> *>(context);
                count++;
                while (count < 4) std::this_thread::yield();
            },
            &present);
        ASSERT_EQ(present, 4);
    }
}

TEST(PoolMore, TinyRunsOfTwoCallersInTurn) {
    const PoolOwner owner(3);
    const int rounds = Samples(10000);  // of each
    std::atomic<int> failures{0};
    const auto caller = [&](uint64_t seed) {
        Random random(seed);
        for (int i = 0; i < rounds && !failures; i++) {
            const int64_t count = random.Integer(1, 5);
            int runs[5] = {};  // no atomics: each index belongs to one task, and the run's end publishes what tasks wrote
            int4q_pool_parallel_for(
                owner.pool, count, static_cast<uint32_t>(random.Integer(1, 4)),
                [](void *context, int64_t index, uint32_t) { static_cast<int *>(context)[index]++; }, runs);
            for (int64_t r = 0; r < 5; r++) failures += runs[r] != (r < count ? 1 : 0);
        }
    };
    std::thread first(caller, 1), second(caller, 2);
    first.join();
    second.join();
    EXPECT_EQ(failures, 0);
}

TEST(PoolMore, DifferentProductsOfSeveralThreads) {
    Random random(3);
    const PoolOwner owner(3);
    std::vector<std::unique_ptr<Problem>> problems;
    std::vector<std::vector<unsigned char>> wanted;
    for (int4q_compute_mode mode : kModes) {
        for (int64_t m : {1, 5, 40}) {
            problems.push_back(std::make_unique<Problem>(
                RandomSpec(random, m, random.Integer(50, 300), random.Integer(20, 300), mode)));
            wanted.push_back(Product(*problems.back()).Multiply());
        }
    }
    const int rounds = Samples(60);
    std::atomic<int> wrong{0};
    const auto host = [&](size_t seed) {
        Random own(seed);
        for (int i = 0; i < rounds; i++) {
            const auto which = static_cast<size_t>(own.Integer(0, static_cast<int64_t>(problems.size()) - 1));
            Product product(*problems[which], static_cast<uint32_t>(own.Integer(1, 5)));
            const auto got = product.Multiply(int4q_pool_parallel_for, owner.pool);
            const Spec &spec = problems[which]->spec;
            const unsigned char *want = wanted[which].data();
            for (int64_t o = 0; o < spec.m * spec.n; o++) wrong += !SameFloat(spec.y_type, want, got.data(), o);
        }
    };
    std::vector<std::thread> threads;
    for (size_t t = 1; t <= 4; t++) threads.emplace_back(host, t);
    for (std::thread &thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
}

TEST(PoolMore, MoreWorkersAskedForThanItHas) {
    for (uint32_t size : {1u, 2u, 5u}) {
        const PoolOwner owner(size);
        for (uint32_t asked : {size + 1, 63u, 1024u, UINT32_MAX}) {
            for (int64_t count : {1, 2, 7, 500}) {
                Tally tally(count);
                int4q_pool_parallel_for(owner.pool, count, asked, Tally::Task, &tally);
                EXPECT_TRUE(tally.Each(1));
                EXPECT_LT(tally.highest, size) << "asked for " << asked;
            }
        }
    }
}

TEST(PoolMore, RunsOfNothing) {
    for (uint32_t size : {1u, 3u}) {
        const PoolOwner owner(size);
        Tally tally(3);
        const auto caller = [&] {
            for (int i = 0; i < 2000; i++) int4q_pool_parallel_for(owner.pool, 0, 3, Tally::Task, &tally);
        };
        std::thread other(caller);
        caller();
        other.join();
        EXPECT_TRUE(tally.Each(0));
        int4q_pool_parallel_for(owner.pool, 3, 3, Tally::Task, &tally);
        EXPECT_TRUE(tally.Each(1));
    }
}

// A task may use any pool but its own.
TEST(PoolMore, ATaskMayUseAnotherPool) {
    const PoolOwner outer(3), inner(2);
    struct Context {
        int4q_pool *pool;
        Tally tally{40};
    } context{inner.pool};
    for (int i = 0; i < 20; i++) {
        int4q_pool_parallel_for(
            outer.pool, 12, 3,
            [](void *shared, int64_t, uint32_t) {
                Tally own(40);
                int4q_pool_parallel_for(static_cast<Context *>(shared)->pool, 40, 2, Tally::Task, &own);
                for (size_t r = 0; r < own.runs.size(); r++) static_cast<Context *>(shared)->tally.runs[r] += own.runs[r];
                if (!own.Each(1)) static_cast<Context *>(shared)->tally.wrong++;
            },
            &context);
    }
    EXPECT_TRUE(context.tally.Each(240));
}

}  // namespace
}  // namespace int4q_test
