// SPDX-License-Identifier: Apache-2.0
// Runs the fuzzer's entry for saved statistics without a fuzzer: valid ones, damaged in ways that a pseudo-random sequence chooses.
// Usage: fuzz_statistics_replay [number of inputs]; the default is 4000 times INT4Q_TEST_SCALE.
//        fuzz_statistics_replay --write-seeds FOLDER: small inputs for a fuzzer to begin with.
#include <string>
#include <utility>

#include "fuzz/damage_statistics.hpp"
#include "fuzz/replay_main.hpp"

extern "C" uint64_t fuzz_statistics_counts[3];

namespace {

using int4q_fuzz::Input;
using int4q_fuzz::Must;
using int4q_fuzz::Statistics;
using int4q_test::Random;

struct alignas(64) Line {
    uint8_t bytes[64];
};

struct Memory {
    std::vector<Line> lines;
    uint64_t bytes;

    explicit Memory(uint64_t bytes_) : lines(static_cast<size_t>(bytes_ / 64 + 1)), bytes(bytes_) {}
    uint8_t *data() { return lines.front().bytes; }
};

// Statistics of a few batches of the rows y; for a cross matrix x are the float model's.
Input Pushed(const Statistics &of, int64_t k, int64_t batches, const std::vector<float> &y, const std::vector<float> &x) {
    Memory memory(of.Bytes(k));
    Must(of.init(k, memory.data(), memory.bytes));
    uint64_t bytes = 0;
    Must(of.is_gram ? int4q_gram_push_scratch(k, &bytes) : int4q_cross_push_scratch(k, &bytes));
    Memory scratch(bytes);
    const int64_t rows = static_cast<int64_t>(y.size()) / k;
    for (; batches > 0; batches--) {
        Must(of.is_gram ? int4q_gram_push(memory.data(), memory.bytes, y.data(), INT4Q_TYPE_F32, rows, k, k, scratch.data(),
                                          bytes, 1, nullptr, nullptr)
                        : int4q_cross_push(memory.data(), memory.bytes, x.data(), INT4Q_TYPE_F32, k, y.data(), INT4Q_TYPE_F32, k,
                                           rows, k, scratch.data(), bytes, 1, nullptr, nullptr));
    }
    return Input(memory.data(), memory.data() + memory.bytes);
}

// A Gram matrix, with a cross matrix behind it or not, or a cross matrix.
Input RandomStatistics(Random &random, int64_t k, int64_t sort) {
    const int64_t rows = random.Chance(0.3) ? random.Integer(1, k) : 2 * k, batches = random.Integer(0, 3);
    std::vector<float> x(static_cast<size_t>(rows * k)), y;
    for (float &value : x) value = random.Normal();
    for (int64_t column = 0; column < k; column++) {
        const float factor = random.Chance(0.1) ? 0.0f : random.Chance(0.1) ? 50.0f : 1.0f;
        for (int64_t row = 0; row < rows; row++) x[static_cast<size_t>(row * k + column)] *= factor;
    }
    for (float value : x) y.push_back(value + 0.05f * random.Normal() * (value == 0 ? 0.0f : 1.0f));
    if (sort == 2) return Pushed(int4q_fuzz::kCross, k, batches, y, x);
    Input bytes = Pushed(int4q_fuzz::kGram, k, batches, y, {});
    if (sort == 0) return bytes;
    const Input cross = Pushed(int4q_fuzz::kCross, k, batches, y, x);
    bytes.insert(bytes.end(), cross.begin(), cross.end());
    return bytes;
}

Input WithChoices(Random &random, Input bytes) {
    const uint8_t choices[] = {static_cast<uint8_t>(random.Bits()), static_cast<uint8_t>(random.Bits())};
    bytes.insert(bytes.begin(), choices, choices + 2);
    return bytes;
}

std::vector<int4q_fuzz::Seed> Seeds() {
    Random random(7);
    std::vector<int4q_fuzz::Seed> seeds;
    const char *const names[] = {"gram", "pair", "cross"};
    for (int64_t k : {1, 2, 5, 12, 16, 17, 20, 32}) {
        for (int64_t sort : {0, 1, 2}) {
            Input bytes = RandomStatistics(random, k, sort);
            const std::string name = std::string(names[sort]) + "-k" + std::to_string(k);
            seeds.push_back({"valid-" + name, WithChoices(random, bytes), true});
            int4q_fuzz::DamageStatistics(random, bytes);
            seeds.push_back({"damaged-" + name, WithChoices(random, bytes), false});
        }
    }
    return seeds;
}

}  // namespace

int main(int argc, char **argv) {
    Input statistics;
    const auto next = [&](Random &random, int index) {
        if (index % 10 == 0) statistics = RandomStatistics(random, random.Integer(1, 40), random.Integer(0, 2));
        Input bytes = statistics;
        for (int64_t damages = index % 10 == 0 ? 0 : random.Integer(1, 3); damages > 0; damages--) {
            int4q_fuzz::DamageStatistics(random, bytes);
        }
        return WithChoices(random, std::move(bytes));
    };
    const int4q_fuzz::Replay replay{"fuzz_statistics_replay", "statistics-", 4000, 20241122, fuzz_statistics_counts,
                                    "quantized by GPTQ",      next,          Seeds};
    return replay.Main(argc, argv);
}
