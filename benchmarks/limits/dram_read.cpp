// SPDX-License-Identifier: Apache-2.0
// How fast memory is read by code that does nothing else.
#include <benchmark/benchmark.h>

#include "buffer.hpp"
#include "limits/best_time.hpp"
#include "limits/limits.hpp"

namespace int4q_bench {
namespace {

// No cache of a present machine keeps much of this from one pass to the next.
constexpr size_t kTotalBytes = size_t{512} << 20;
constexpr size_t kLineBytes = 64;

// Streams a power of two apart would fall into the same sets of a cache and push one another out.
constexpr size_t kStaggerLines = 9;

// Neighbouring parts of equal length, one for each stream.
size_t LinesPerStream(size_t bytes, int streams) {
    return bytes / kLineBytes / static_cast<size_t>(streams) - kStaggerLines;
}

// Reads a cache line of each stream in turn. Prefetchers follow each stream on its own, so more streams may keep more reads
// in flight. One word brings the whole line in; the fewer instructions a line takes, the more lines the processor can
// wait for at once.
template <int streams>
void ReadStreams(const uint8_t *begin, size_t bytes) {
    const size_t lines = LinesPerStream(bytes, streams);
    uint64_t sum = 0;
    for (size_t i = 0; i < lines; i++) {
        for (size_t stream = 0; stream < streams; stream++) {
            uint64_t word;
            std::memcpy(&word, begin + (stream * lines + i) * kLineBytes, sizeof word);
            sum ^= word;
        }
    }
    benchmark::DoNotOptimize(sum);
}

void Read(const uint8_t *begin, size_t bytes, int streams) {
    switch (streams) {
        case 1: return ReadStreams<1>(begin, bytes);
        case 4: return ReadStreams<4>(begin, bytes);
        case 8: return ReadStreams<8>(begin, bytes);
        case 16: return ReadStreams<16>(begin, bytes);
        default: std::abort();
    }
}

}  // namespace

double MeasureDramRead(int threads, int streams) {
    static const Buffer buffer(kTotalBytes);
    const size_t part = kTotalBytes / static_cast<size_t>(threads);
    const double seconds = BestTime(threads, [&](int thread) {
        Read(buffer.data() + static_cast<size_t>(thread) * part, part, streams);
    });
    const size_t lines = LinesPerStream(part, streams) * static_cast<size_t>(streams * threads);
    return static_cast<double>(lines * kLineBytes) / seconds;
}

}  // namespace int4q_bench
