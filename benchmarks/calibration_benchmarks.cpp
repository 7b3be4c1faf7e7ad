// SPDX-License-Identifier: Apache-2.0
// Observers of a 16384 x 4096 batch, on one thread: as a share of what only reading it reaches.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "benchmarks.hpp"
#include "buffer.hpp"
#include "int4q.h"
#include "limits/limits.hpp"
#include "random_floats.hpp"
#include "stopwatch.hpp"

namespace int4q_bench {
namespace {

constexpr int64_t kRows = 16384, kColumns = 4096;

void Require(int4q_status status) {
    if (status != INT4Q_OK) throw std::runtime_error(int4q_status_string(status));
}

enum class Values { kEven, kHalfZeros, kZeros };

// The upper halves of floats: bfloat16, and as float16 finite values too (of -1 to 1 magnitudes below 2).
std::vector<uint16_t> UpperHalves(const std::vector<float> &batch) {
    std::vector<uint16_t> halves(batch.size());
    for (size_t i = 0; i < batch.size(); i++) {
        uint32_t bits;
        std::memcpy(&bits, &batch[i], sizeof bits);
        halves[i] = static_cast<uint16_t>(bits >> 16);
    }
    return halves;
}

std::vector<float> MakeBatch(Values values) {
    std::vector<float> batch = RandomFloats(kRows * kColumns);
    for (float &value : batch) {
        if (values == Values::kZeros) value = 0;
        if (values == Values::kHalfZeros) value = std::max(value, 0.0f);
    }
    return batch;
}

void BM_Push(benchmark::State &state, uint32_t observed, int32_t axis, Values values, int4q_type type) {
    int4q_observer_desc desc{};
    desc.struct_size = sizeof desc;
    desc.observed = observed;
    desc.axis = axis;
    desc.group_size = axis == INT4Q_AXIS_GROUP ? 128 : 0;
    desc.extent = axis == INT4Q_AXIS_TENSOR ? 0 : axis == INT4Q_AXIS_TOKEN ? kRows : kColumns;
    desc.bins = observed & INT4Q_OBSERVE_HISTOGRAM ? 2048 : 0;
    uint64_t bytes = 0;
    Require(int4q_observer_size(&desc, &bytes));
    const Buffer observer(static_cast<size_t>(bytes));
    Require(int4q_observer_init(&desc, observer.data(), bytes));
    const std::vector<float> batch = MakeBatch(values);
    const std::vector<uint16_t> halves = type == INT4Q_TYPE_F32 ? std::vector<uint16_t>() : UpperHalves(batch);
    const void *x = type == INT4Q_TYPE_F32 ? static_cast<const void *>(batch.data()) : halves.data();
    const Stopwatch stopwatch;
    for (auto _ : state) {
        Require(int4q_observer_push(observer.data(), bytes, x, type, kRows, kColumns, kColumns));
    }
    const double read = static_cast<double>(batch.size() * (type == INT4Q_TYPE_F32 ? 4 : 2)) * static_cast<double>(state.iterations());
    state.counters["GB/s"] = read / stopwatch.Seconds() / 1e9;
    state.counters["share"] = read / stopwatch.Seconds() / LimitsOf(1).dram_read;
}

void Register(const std::string &name, uint32_t observed, int32_t axis, Values values = Values::kEven,
              int4q_type type = INT4Q_TYPE_F32) {
    benchmark::RegisterBenchmark(("observe/" + name).c_str(), BM_Push, observed, axis, values, type)->Unit(benchmark::kMillisecond);
}

}  // namespace

void RegisterCalibrationBenchmarks() {
    Register("extremes/tensor", 0, INT4Q_AXIS_TENSOR);
    Register("extremes/channel", 0, INT4Q_AXIS_CHANNEL);
    Register("extremes/token", 0, INT4Q_AXIS_TOKEN);
    Register("extremes/group", 0, INT4Q_AXIS_GROUP);
    Register("moments/tensor", INT4Q_OBSERVE_MOMENTS, INT4Q_AXIS_TENSOR);
    Register("histogram/tensor", INT4Q_OBSERVE_HISTOGRAM, INT4Q_AXIS_TENSOR);
    Register("histogram/tensor/half_zeros", INT4Q_OBSERVE_HISTOGRAM, INT4Q_AXIS_TENSOR, Values::kHalfZeros);
    Register("histogram/tensor/zeros", INT4Q_OBSERVE_HISTOGRAM, INT4Q_AXIS_TENSOR, Values::kZeros);
    Register("histogram/channel", INT4Q_OBSERVE_HISTOGRAM, INT4Q_AXIS_CHANNEL);
    Register("histogram/token", INT4Q_OBSERVE_HISTOGRAM, INT4Q_AXIS_TOKEN);
    Register("histogram/group", INT4Q_OBSERVE_HISTOGRAM, INT4Q_AXIS_GROUP);
    Register("moments/channel", INT4Q_OBSERVE_MOMENTS, INT4Q_AXIS_CHANNEL);
    for (const int4q_type type : {INT4Q_TYPE_BF16, INT4Q_TYPE_F16}) {
        const std::string suffix = type == INT4Q_TYPE_BF16 ? "/bf16" : "/f16";
        Register("extremes/tensor" + suffix, 0, INT4Q_AXIS_TENSOR, Values::kEven, type);
        Register("histogram/tensor" + suffix, INT4Q_OBSERVE_HISTOGRAM, INT4Q_AXIS_TENSOR, Values::kEven, type);
        Register("histogram/channel" + suffix, INT4Q_OBSERVE_HISTOGRAM, INT4Q_AXIS_CHANNEL, Values::kEven, type);
    }
}

}  // namespace int4q_bench
