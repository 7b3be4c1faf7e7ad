// SPDX-License-Identifier: Apache-2.0
// Counters that set a product beside the machine's limits.
#pragma once

#include <benchmark/benchmark.h>

#include "int4q.h"

namespace int4q_bench {

struct Work {
    int4q_compute_mode mode;
    int threads;
    double operations;
    double bytes_from_memory;  // 0: weights come from a cache
};

// "GFLOP/s", and what share of the limits that is. seconds: for the work once.
void SetRates(benchmark::State &state, const Work &work, double seconds);

}  // namespace int4q_bench
