// SPDX-License-Identifier: Apache-2.0
// libFuzzer's entry: bytes from anywhere as an observer, through every function that takes one. Free of GoogleTest; what must
// hold is checked by abort(). How to configure: fuzz_blob.cpp.
//
//     ninja -C build/fuzz fuzz_observer fuzz_observer_replay
//     build/fuzz/ctests/fuzz_observer_replay --write-seeds build/fuzz/observer-seeds
//     build/fuzz/ctests/fuzz_observer -max_len=8192 -max_total_time=600 build/fuzz/observer-corpus build/fuzz/observer-seeds
//
// (The corpus' folder must exist.) replay_observer.cpp runs this entry without a fuzzer, with every test run.
#include <cmath>
#include <vector>

#include "fuzz/guarded_memory.hpp"

// How many inputs had a valid header, were wholly valid, were merged. Read by replay_observer.cpp.
extern "C" uint64_t fuzz_observer_counts[3];
uint64_t fuzz_observer_counts[3];

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

namespace {

using int4q_fuzz::GuardedMemory;

int4q_observer_info InfoOf(const void *observer, uint64_t bytes, int4q_status expected) {
    int4q_observer_info info;
    std::memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    REQUIRE(int4q_observer_get_info(observer, bytes, &info) == expected);
    return info;
}

std::vector<int4q_statistics> StatisticsOf(const void *observer, uint64_t bytes, int64_t slots) {
    std::vector<int4q_statistics> all(static_cast<size_t>(slots));
    REQUIRE(int4q_observer_statistics(observer, bytes, 0, slots, all.data()) == INT4Q_OK);
    return all;
}

std::vector<int64_t> CountsOf(const void *observer, uint64_t bytes, const int4q_observer_info &info, int64_t slot,
                              int4q_histogram *histogram) {
    std::vector<int64_t> counts(static_cast<size_t>(2 * info.desc.bins));
    std::memset(histogram, 0, sizeof *histogram);
    histogram->struct_size = sizeof *histogram;
    REQUIRE(int4q_observer_histogram(observer, bytes, slot, INT4Q_HISTOGRAM_SIGNED, counts.data(), 2 * info.desc.bins, histogram) ==
            INT4Q_OK);
    return counts;
}

// Of bytes with a valid header: whatever the rest says, nothing but the observer is touched.
void Push(const void *observer, const int4q_observer_info &info) {
    GuardedMemory copy(static_cast<size_t>(info.total_bytes));
    std::memcpy(copy.data(), observer, static_cast<size_t>(info.total_bytes));
    const int64_t rows = info.desc.axis == INT4Q_AXIS_TOKEN ? info.desc.extent : 3;
    const bool has_columns = info.desc.axis == INT4Q_AXIS_CHANNEL || info.desc.axis == INT4Q_AXIS_GROUP;
    const int64_t columns = has_columns ? info.desc.extent : 5;
    std::vector<float> x(static_cast<size_t>(rows * columns));
    for (size_t i = 0; i < x.size(); i++) x[i] = std::ldexp(static_cast<float>(i % 7) - 3.0f, static_cast<int>(i * 37 % 250) - 125);
    x[x.size() / 2] = NAN;
    REQUIRE(int4q_observer_push(copy.data(), info.total_bytes, x.data(), INT4Q_TYPE_F32, rows, columns, columns) == INT4Q_OK);
}

// A valid observer's histograms lead to ranges, and merged into an empty one it says the same, into itself twice as much.
void CheckValid(const void *observer, uint64_t bytes, const int4q_observer_info &info) {
    const bool has_histogram = info.desc.observed & INT4Q_OBSERVE_HISTOGRAM;
    const auto before = StatisticsOf(observer, bytes, info.slots);
    for (const int64_t slot : {int64_t{0}, info.slots - 1}) {
        const int4q_statistics &row = before[static_cast<size_t>(slot)];
        if (!has_histogram || row.count == 0) continue;
        int4q_histogram histogram;
        const auto counts = CountsOf(observer, bytes, info, slot, &histogram);
        int4q_range range;
        REQUIRE(int4q_range_percentile(&histogram, INT4Q_HISTOGRAM_SIGNED, 99.0, &range) == INT4Q_OK);
        REQUIRE(range.low >= row.low && range.high <= row.high);  // (of one bin the left edge counts as its high end)
        if (histogram.bins <= 256) {
            GuardedMemory scratch(16 * (static_cast<size_t>(histogram.bins) + 1));
            REQUIRE(int4q_range_entropy(&histogram, 15, scratch.data(), 16 * (static_cast<uint64_t>(histogram.bins) + 1), &range) ==
                    INT4Q_OK);
            REQUIRE(range.low >= row.low && range.high <= row.high);
        }
    }
    GuardedMemory merged(static_cast<size_t>(info.total_bytes));
    REQUIRE(int4q_observer_init(&info.desc, merged.data(), info.total_bytes) == INT4Q_OK);
    const int4q_status status = int4q_observer_merge(merged.data(), info.total_bytes, observer, bytes);
    if (info.desc.observed & INT4Q_OBSERVE_AVERAGE) {
        REQUIRE(status == INT4Q_ERROR_UNSUPPORTED);
        return;
    }
    REQUIRE(status == INT4Q_OK);
    fuzz_observer_counts[2]++;
    REQUIRE(int4q_observer_validate(merged.data(), info.total_bytes) == INT4Q_OK);
    const auto once = StatisticsOf(merged.data(), info.total_bytes, info.slots);
    const int4q_status again = int4q_observer_merge(merged.data(), info.total_bytes, observer, bytes);
    REQUIRE(again == INT4Q_OK || again == INT4Q_ERROR_SIZE_OVERFLOW);
    const auto twice = StatisticsOf(merged.data(), info.total_bytes, info.slots);
    const int64_t times = again == INT4Q_OK ? 2 : 1;
    for (size_t slot = 0; slot < before.size(); slot++) {
        const int4q_statistics &a = before[slot], &b = once[slot], &c = twice[slot];
        REQUIRE(a.count == b.count && c.count == times * a.count && a.low == b.low && a.high == c.high);
        REQUIRE(a.bin_width == b.bin_width && a.sum == b.sum && a.sum_squares == b.sum_squares);
    }
    if (!has_histogram) return;
    int4q_histogram histogram;
    const auto counts = CountsOf(observer, bytes, info, info.slots - 1, &histogram);
    const auto sums = CountsOf(merged.data(), info.total_bytes, info, info.slots - 1, &histogram);
    for (size_t bin = 0; bin < counts.size(); bin++) REQUIRE(sums[bin] == times * counts[bin]);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    GuardedMemory observer(size);
    if (size) std::memcpy(observer.data(), data, size);
    observer.Freeze();
    const int4q_status header = [&] {
        int4q_observer_info info;
        std::memset(&info, 0, sizeof info);
        info.struct_size = sizeof info;
        return int4q_observer_get_info(observer.data(), size, &info);
    }();
    const bool valid = int4q_observer_validate(observer.data(), size) == INT4Q_OK;
    REQUIRE(header == INT4Q_OK || !valid);
    if (header != INT4Q_OK) {
        int4q_statistics statistics;
        REQUIRE(int4q_observer_statistics(observer.data(), size, 0, 1, &statistics) != INT4Q_OK);
        return 0;
    }
    fuzz_observer_counts[0]++;
    // A valid header cannot promise more than what is there, so these sizes are bounded by the input's.
    const int4q_observer_info info = InfoOf(observer.data(), size, INT4Q_OK);
    REQUIRE(info.total_bytes <= size && info.slots > 0 && static_cast<uint64_t>(info.slots) <= size);
    StatisticsOf(observer.data(), size, info.slots);
    int4q_histogram histogram;
    if (info.desc.observed & INT4Q_OBSERVE_HISTOGRAM) CountsOf(observer.data(), size, info, info.slots - 1, &histogram);
    // (A group may be wider than memory: columns are then few, but not known to be.)
    if (info.desc.extent <= 100000) Push(observer.data(), info);
    if (!valid) return 0;
    fuzz_observer_counts[1]++;
    CheckValid(observer.data(), size, info);
    return 0;
}
