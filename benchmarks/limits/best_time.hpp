// SPDX-License-Identifier: Apache-2.0
// The shortest time in which some threads did a piece of work each.
#pragma once

#include <algorithm>
#include <limits>
#include <thread>
#include <vector>

#include "stopwatch.hpp"

namespace int4q_bench {

// Calls work(index) for each index in 0..threads-1 on a thread of its own, index 0 on the caller's.
template <typename Work>
void RunOnThreads(int threads, const Work &work) {
    std::vector<std::thread> others;
    for (int index = 1; index < threads; index++) others.emplace_back(work, index);
    work(0);
    for (std::thread &other : others) other.join();
}

// In seconds. A limit is what the machine can do when nobody disturbs it, so the best of several tries counts. Work
// should take some 10 ms: starting threads is in the measured time.
template <typename Work>
double BestTime(int threads, const Work &work) {
    constexpr int kTries = 20;
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i < kTries; i++) {
        const Stopwatch stopwatch;
        RunOnThreads(threads, work);
        best = std::min(best, stopwatch.Seconds());
    }
    return best;
}

}  // namespace int4q_bench
