// SPDX-License-Identifier: Apache-2.0
#include "comparison.hpp"

#include <cstdio>
#include <cstdlib>

#include "stopwatch.hpp"

namespace int4q_bench {
namespace {

double SecondsOf(const Contender &contender) {
    const Stopwatch stopwatch;
    contender.run();
    return stopwatch.Seconds();
}

// Also wakes the pool and takes the first page faults.
void CheckSameResults(const Contender &together, const Contender &apart) {
    together.run();
    apart.run();
    if (together.results == apart.results) return;
    std::fprintf(stderr, "the results of what is compared differ\n");
    std::exit(1);
}

}  // namespace

double CompareInTurn(benchmark::State &state, const Contender &together, const Contender &apart) {
    CheckSameResults(together, apart);
    double together_seconds = 0;
    double apart_seconds = 0;
    for (auto _ : state) {
        together_seconds += SecondsOf(together);
        state.PauseTiming();
        apart_seconds += SecondsOf(apart);
        state.ResumeTiming();
    }
    const double runs = static_cast<double>(state.iterations());
    state.counters["apart_us"] = apart_seconds / runs * 1e6;
    state.counters["speedup"] = apart_seconds / together_seconds;
    return together_seconds / runs;
}

}  // namespace int4q_bench
