// SPDX-License-Identifier: Apache-2.0
// One call against several that give the same result.
#pragma once

#include <benchmark/benchmark.h>

#include <functional>
#include <vector>

namespace int4q_bench {

struct Contender {
    std::function<void()> run;
    const std::vector<float> &results;
};

// Google Benchmark's time is that of `together`. Counters: "apart_us", a run of `apart`, and "speedup", the ratio of the
// times. The two take turns, so that what else the machine does meets both. Returns the seconds of one run of
// `together`. Stops the program if their results differ.
double CompareInTurn(benchmark::State &state, const Contender &together, const Contender &apart);

}  // namespace int4q_bench
