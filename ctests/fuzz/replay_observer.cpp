// SPDX-License-Identifier: Apache-2.0
// Runs the fuzzer's entry for observers without a fuzzer: valid ones, damaged in ways that a pseudo-random sequence chooses.
// Usage: fuzz_observer_replay [number of inputs]; the default is 10000 times INT4Q_TEST_SCALE.
//        fuzz_observer_replay --write-seeds FOLDER: small inputs for a fuzzer to begin with.
#include <algorithm>
#include <string>
#include <utility>

#include "fuzz/replay_main.hpp"

extern "C" uint64_t fuzz_observer_counts[3];

namespace {

using int4q_fuzz::Must;
using int4q_test::Random;

std::vector<uint8_t> RandomObserver(Random &random) {
    int4q_observer_desc desc;
    std::memset(&desc, 0, sizeof desc);
    desc.struct_size = sizeof desc;
    desc.observed = static_cast<uint32_t>(random.Integer(0, 7));
    desc.axis = static_cast<int32_t>(random.Integer(INT4Q_AXIS_TENSOR, INT4Q_AXIS_GROUP));
    const int64_t rows = random.Integer(1, 6), columns = random.Integer(1, 9);
    desc.group_size = desc.axis == INT4Q_AXIS_GROUP ? static_cast<int32_t>(random.Integer(1, 4)) : 0;
    desc.extent = desc.axis == INT4Q_AXIS_TENSOR ? 0 : desc.axis == INT4Q_AXIS_TOKEN ? rows : columns;
    desc.bins = desc.observed & INT4Q_OBSERVE_HISTOGRAM ? int64_t{16} << random.Integer(0, 1) : 0;
    desc.momentum = desc.observed & INT4Q_OBSERVE_AVERAGE ? 0.5f : 0;
    uint64_t size = 0;
    Must(int4q_observer_size(&desc, &size));
    struct alignas(64) Line {
        uint8_t bytes[64];
    };
    std::vector<Line> memory(static_cast<size_t>((size + 63) / 64));
    Must(int4q_observer_init(&desc, memory.data(), size));
    std::vector<float> x(static_cast<size_t>(rows * columns));
    for (int64_t batches = random.Integer(0, 3); batches > 0; batches--) {
        for (float &value : x) value = random.Chance(0.1) ? 0.0f : random.Normal();
        Must(int4q_observer_push(memory.data(), size, x.data(), INT4Q_TYPE_F32, rows, columns, columns));
    }
    const auto *first = memory.front().bytes;
    return std::vector<uint8_t>(first, first + size);
}

// Numbers of the header and the description in it, or any others.
void Damage(Random &random, std::vector<uint8_t> &bytes) {
    if (bytes.size() < 8) return;
    const bool in_header = random.Chance(0.4);
    const size_t end = in_header ? std::min<size_t>(bytes.size(), 88) : bytes.size();
    const size_t at = static_cast<size_t>(random.Integer(0, static_cast<int64_t>(end / 4) - 2)) * 4;
    const uint32_t words[] = {0, 1, 2, 3, 16, 32, 0x7fc00000, 0x7f800000, 0xff800000, 0x80000000, 0x7fffffff, 0xffffffff};
    uint32_t word;
    std::memcpy(&word, bytes.data() + at, sizeof word);
    switch (random.Integer(0, 4)) {
        case 0: word = words[random.Integer(0, 11)]; break;
        case 1: word += static_cast<uint32_t>(random.Integer(-2, 2)); break;
        case 2: word ^= 1u << random.Integer(0, 31); break;
        case 3:
            if (random.Chance(0.3)) bytes.resize(at);
            return;
        default:  // a count moves to a neighbour
            if (at + 16 <= bytes.size() && at % 8 == 0) {
                for (size_t i = 0; i < 8; i++) std::swap(bytes[at + i], bytes[at + 8 + i]);
            }
            return;
    }
    std::memcpy(bytes.data() + at, &word, sizeof word);
}

std::vector<int4q_fuzz::Seed> Seeds() {
    Random random(7);
    std::vector<int4q_fuzz::Seed> seeds;
    for (int i = 0; i < 64; i++) {
        std::vector<uint8_t> bytes = RandomObserver(random);
        if (i % 2) Damage(random, bytes);
        seeds.push_back({"observer-" + std::to_string(i), std::move(bytes), i % 2 == 0});
    }
    return seeds;
}

}  // namespace

int main(int argc, char **argv) {
    std::vector<uint8_t> observer;
    const auto next = [&](Random &random, int index) {
        if (index % 10 == 0) observer = RandomObserver(random);
        std::vector<uint8_t> bytes = observer;
        for (int64_t damages = index % 10 == 0 ? 0 : random.Integer(1, 3); damages > 0; damages--) Damage(random, bytes);
        return bytes;
    };
    const int4q_fuzz::Replay replay{"fuzz_observer_replay", "observer-", 10000, 20241101, fuzz_observer_counts,
                                    "merged",               next,        Seeds};
    return replay.Main(argc, argv);
}
