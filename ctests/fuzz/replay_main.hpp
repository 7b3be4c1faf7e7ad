// SPDX-License-Identifier: Apache-2.0
// What replays share: a main() that gives a fuzzer's entry inputs without a fuzzer, or writes seeds for one.
#pragma once

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "int4q.h"
#include "support/random.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

namespace int4q_fuzz {

using int4q_test::Random;
using Input = std::vector<uint8_t>;

struct Seed {
    std::string name;
    Input input;
    bool is_valid;
};

inline void Must(int4q_status status) {
    if (status != INT4Q_OK) std::abort();
}

struct Replay {
    const char *name;
    const char *fuzzed;  // how names of files in the folder regressions begin
    int count;  // of inputs, times INT4Q_TEST_SCALE
    uint64_t seed;
    // What the entry counts: inputs with a valid header, wholly valid ones, and what was done with them.
    const uint64_t *counts;
    const char *done;
    std::function<Input(Random &, int)> next;
    std::function<std::vector<Seed>()> seeds;

    // Also what a fuzzer has once found, as it was found.
    std::vector<Seed> AllSeeds() const {
        std::vector<Seed> all = seeds();
        for (const auto &entry : std::filesystem::directory_iterator(INT4Q_FUZZ_REGRESSIONS)) {
            const std::string file = entry.path().filename().string();
            if (file.rfind(fuzzed, 0) != 0) continue;
            std::ifstream stream(entry.path(), std::ios::binary);
            all.push_back({file, Input(std::istreambuf_iterator<char>(stream), {}), false});
        }
        return all;
    }

    void Run(const Input &input) const { LLVMFuzzerTestOneInput(input.data(), input.size()); }

    void Print(size_t inputs) const {
        std::printf("%zu inputs: %" PRIu64 " valid headers, %" PRIu64 " wholly valid, %" PRIu64 " %s\n", inputs, counts[0],
                    counts[1], counts[2], done);
    }

    int WriteSeeds(const std::filesystem::path &folder) const {
        std::filesystem::create_directories(folder);
        const std::vector<Seed> all = AllSeeds();
        uint64_t valid = 0;
        for (const Seed &seed : all) {
            std::ofstream file(folder / seed.name, std::ios::binary);
            file.write(reinterpret_cast<const char *>(seed.input.data()), static_cast<std::streamsize>(seed.input.size()));
            file.close();
            if (!file) {
                std::fprintf(stderr, "cannot write %s\n", (folder / seed.name).c_str());
                return 1;
            }
            Run(seed.input);
            valid += seed.is_valid;
        }
        Print(all.size());
        return counts[1] >= valid ? 0 : 1;
    }

    int Main(int argc, char **argv) const {
        if (argc == 3 && std::strcmp(argv[1], "--write-seeds") == 0) return WriteSeeds(argv[2]);
        if (argc > 2 || (argc == 2 && std::atoi(argv[1]) <= 0)) {
            std::fprintf(stderr, "usage: %s [number of inputs] | --write-seeds FOLDER\n", name);
            return 2;
        }
        const int inputs = argc > 1 ? std::atoi(argv[1]) : int4q_test::Samples(count);
        Random random(seed);
        for (int i = 0; i < inputs; i++) Run(next(random, i));
        Print(static_cast<size_t>(inputs));
        const bool some_of_each =
            counts[2] > 0 && counts[1] > 0 && counts[0] > counts[1] && counts[0] < static_cast<uint64_t>(inputs);
        if (inputs >= 1000 && !some_of_each) {
            std::fprintf(stderr, "the inputs were all alike: nothing was tested\n");
            return 1;
        }
        for (const Seed &one : AllSeeds()) {
            const uint64_t valid = counts[1];
            Run(one.input);
            if (one.is_valid && counts[1] == valid) {
                std::fprintf(stderr, "%s should be valid\n", one.name.c_str());
                return 1;
            }
        }
        return 0;
    }
};

}  // namespace int4q_fuzz
