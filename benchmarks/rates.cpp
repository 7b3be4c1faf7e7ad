// SPDX-License-Identifier: Apache-2.0
#include "rates.hpp"

#include <algorithm>

#include "check.hpp"
#include "limits/limits.hpp"

namespace int4q_bench {
namespace {

bool UsesAmx() {
    int4q_isa isa = INT4Q_ISA_PORTABLE;
    Check(int4q_isa_active(&isa));
    return isa == INT4Q_ISA_AMX;
}

// The best there is for the mode's arithmetic. AMX counts only where the library may use it: else its peak, several times
// the others, would say nothing about the kernels that run.
std::optional<double> PeakOf(int4q_compute_mode mode, int threads) {
    const Limits &limits = LimitsOf(threads);
    switch (mode) {
        case INT4Q_MODE_INT8: return limits.amx_int8 && UsesAmx() ? limits.amx_int8 : limits.vnni_int8;
        case INT4Q_MODE_BF16:
            if (limits.amx_bf16 && UsesAmx()) return limits.amx_bf16;
            return limits.bf16_dot ? limits.bf16_dot : limits.fma_f32;
        default: return limits.fma_f32;
    }
}

}  // namespace

// "share" is of the limit that binds: the one that comes nearest to being reached.
void SetRates(benchmark::State &state, const Work &work, double seconds) {
    const double flops = work.operations / seconds;
    state.counters["GFLOP/s"] = flops / 1e9;
    double share = 0;
    if (work.bytes_from_memory > 0) {
        const double bytes = work.bytes_from_memory / seconds;
        state.counters["GB/s"] = bytes / 1e9;
        state.counters["of_dram"] = share = bytes / LimitsOf(work.threads).dram_read;
    }
    if (const std::optional<double> peak = PeakOf(work.mode, work.threads)) {
        state.counters["of_peak"] = flops / *peak;
        share = std::max(share, flops / *peak);
    }
    if (share > 0) state.counters["share"] = share;
}

}  // namespace int4q_bench
