// SPDX-License-Identifier: Apache-2.0
// Measures the machine's limits, then the library.
#include <benchmark/benchmark.h>

#include <cstring>

#include "benchmarks.hpp"
#include "limits/limits.hpp"

namespace {

// Listing names needs no measurement. To be asked before Google Benchmark takes its flags out of argv.
bool OnlyLists(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (!std::strcmp(argv[i], "--benchmark_list_tests") || !std::strcmp(argv[i], "--benchmark_list_tests=true")) {
            return true;
        }
    }
    return false;
}

}  // namespace

int main(int argc, char **argv) {
    const bool only_lists = OnlyLists(argc, argv);
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    if (!only_lists) {
        int4q_bench::ReportDispatch();
        int4q_bench::ReportLimits();
    }
    int4q_bench::RegisterCalibrationBenchmarks();
    int4q_bench::RegisterReconstructionBenchmarks();
    int4q_bench::RegisterConversionBenchmarks();
    int4q_bench::RegisterMatmulBenchmarks();
    int4q_bench::RegisterGatedBenchmarks();
    int4q_bench::RegisterExpertsBenchmarks();
    int4q_bench::RegisterPoolBenchmarks();
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
}
