// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

namespace int4q_bench {

// Runs from its construction. Rates are computed with this rather than by Google Benchmark, whose rates are per second of
// the calling thread's processor time unless every name is to end in "/real_time".
class Stopwatch {
public:
    double Seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

private:
    using Clock = std::chrono::steady_clock;
    Clock::time_point start_ = Clock::now();
};

}  // namespace int4q_bench
