// SPDX-License-Identifier: Apache-2.0
// Runs the fuzzer's entry without a fuzzer: valid blobs, damaged in ways that a pseudo-random sequence chooses.
// Usage: fuzz_blob_replay [number of inputs]; the default is 20000 times INT4Q_TEST_SCALE.
//        fuzz_blob_replay --write-seeds FOLDER: some hundred small inputs for a fuzzer to begin with, valid ones of every kind
//        and with any parts, and damaged ones.
#include <cmath>
#include <string>
#include <utility>

#include "fuzz/damage_blob.hpp"
#include "fuzz/replay_main.hpp"

extern "C" uint64_t fuzz_blob_counts[3];

namespace {

using int4q_fuzz::Input;
using int4q_fuzz::Must;
using int4q_test::Random;

constexpr int32_t kGroupSizes[] = {16, 32, 64, 128, 256, INT4Q_GROUP_PER_ROW};

// More kinds than the header has: CODEBOOK with one for each row, and the first three with codes of 8 bits.
constexpr int32_t kRowCodebooks = INT4Q_KIND_TERNARY + 1, kWide = kRowCodebooks, kLastSort = kWide + INT4Q_KIND_OFFSET;

int32_t KindOf(int32_t sort) { return sort == kRowCodebooks ? INT4Q_KIND_CODEBOOK : sort > kWide ? sort - kWide : sort; }

// With the parts that are asked for: INT4Q_PART_* added up.
std::vector<uint8_t> RandomBlob(Random &random, int32_t kind, int32_t group_size, int64_t n, int64_t k, uint32_t parts) {
    int4q_tensor tensor;
    std::memset(&tensor, 0, sizeof tensor);
    tensor.struct_size = sizeof tensor;
    tensor.scheme.kind = KindOf(kind);
    if (kind > kWide) tensor.scheme.code_bits = 8;
    if (kind == kRowCodebooks) tensor.scheme.codebook_scope = INT4Q_CODEBOOK_PER_ROW;
    tensor.scheme.group_size = int4q_test::IsFew(tensor.scheme) && group_size == 16 ? 32 : group_size;
    tensor.scheme.scale_type = static_cast<int4q_type>(random.Integer(INT4Q_TYPE_F32, INT4Q_TYPE_BF16));
    if (tensor.scheme.kind == INT4Q_KIND_SYMMETRIC) {
        tensor.scheme.scale_rule = static_cast<int32_t>(random.Integer(INT4Q_SCALE_DEFAULT, INT4Q_SCALE_SIGNED_MAX_8));
    }
    tensor.n = n;
    tensor.k = k;
    int4q_tensor_layout layout;
    std::memset(&layout, 0, sizeof layout);
    layout.struct_size = sizeof layout;
    Must(int4q_tensor_sizes(&tensor.scheme, tensor.n, tensor.k, &layout));
    std::vector<uint8_t> codes(layout.codes_bytes), scales(layout.scales_bytes), zero_points(layout.zero_points_bytes),
        offsets(layout.offsets_bytes);
    tensor.codes = codes.data();
    tensor.codes_bytes = layout.codes_bytes;
    tensor.scales = scales.data();
    tensor.scales_bytes = layout.scales_bytes;
    tensor.zero_points = zero_points.empty() ? nullptr : zero_points.data();
    tensor.zero_points_bytes = layout.zero_points_bytes;
    tensor.offsets = offsets.empty() ? nullptr : offsets.data();
    tensor.offsets_bytes = layout.offsets_bytes;
    std::vector<float> codebook(kind == kRowCodebooks ? 16 * static_cast<size_t>(n) : 16);
    // Some with values so small that INT8 mode makes one step of them, or nothing.
    const int64_t range = random.Chance(0.5) ? 0 : random.Integer(1, 40);
    for (float &value : codebook) value = std::ldexp(random.Uniform(-1, 1), -static_cast<int>(random.Integer(0, range)));
    if (tensor.scheme.kind == INT4Q_KIND_CODEBOOK) tensor.codebook = codebook.data();
    std::vector<float> source(static_cast<size_t>(tensor.n * tensor.k));
    for (float &value : source) value = random.Normal();
    Must(int4q_quantize_rows(&tensor, source.data(), INT4Q_TYPE_F32, tensor.k, 0, tensor.n));
    // The other packer: a blob from another implementation must be a blob.
    std::vector<uint8_t> blob = int4q_test::PackReference(tensor);
    return parts ? int4q_test::Parts(random, n, k, parts).Attached(std::move(blob)) : blob;
}

std::vector<uint8_t> RandomBlob(Random &random) {
    const auto kind = static_cast<int32_t>(random.Integer(INT4Q_KIND_SYMMETRIC, kLastSort));
    const int32_t group_size = kGroupSizes[random.Integer(0, 5)];
    const int64_t n = random.Integer(1, 40), k = random.Integer(1, 200);
    // Every other one carries parts.
    const int64_t parts = random.Chance(0.5) ? 0 : random.Integer(1, 15);
    return RandomBlob(random, kind, group_size, n, k, static_cast<uint32_t>(parts));
}

// All checksums are made right; products take 2 rows as a rule, and up to 33.
Input WithChoices(Random &random, std::vector<uint8_t> bytes, uint8_t signs = 7) {
    const int64_t rows = random.Chance(0.8) ? 0 : random.Integer(1, 3);
    bytes.insert(bytes.begin(), static_cast<uint8_t>(signs | rows << 3));
    return bytes;
}

std::vector<int4q_fuzz::Seed> Seeds() {
    Random random(7);
    std::vector<int4q_fuzz::Seed> seeds;
    const auto add = [&](const std::string &name, std::vector<uint8_t> bytes) {
        seeds.push_back({"valid-" + name, WithChoices(random, bytes), true});
        int4q_fuzz::DamageBlob(random, bytes);
        seeds.push_back({"damaged-" + name, WithChoices(random, bytes), false});
    };
    for (int32_t kind = INT4Q_KIND_SYMMETRIC; kind <= kLastSort; kind++) {
        for (int32_t group_size : kGroupSizes) {
            const int64_t n = random.Integer(1, 20), k = random.Integer(1, 48);
            add("kind" + std::to_string(kind) + "-group" + std::to_string(group_size),
                RandomBlob(random, kind, group_size, n, k, 0));
        }
    }
    for (int64_t parts = 1; parts < 16; parts++) {
        for (int32_t kind : {INT4Q_KIND_SYMMETRIC, INT4Q_KIND_OFFSET}) {
            const int64_t n = random.Integer(1, 20), k = 8 * random.Integer(1, 6);
            add("parts" + std::to_string(parts) + "-kind" + std::to_string(kind),
                RandomBlob(random, kind, 16, n, k, static_cast<uint32_t>(parts)));
        }
    }
    return seeds;
}

}  // namespace

int main(int argc, char **argv) {
    std::vector<uint8_t> blob;
    const auto next = [&](Random &random, int index) {
        if (index % 20 == 0) blob = RandomBlob(random);
        std::vector<uint8_t> bytes = blob;
        for (int64_t damages = index % 20 == 0 ? 0 : random.Integer(1, 3); damages > 0; damages--) {
            int4q_fuzz::DamageBlob(random, bytes);
        }
        return WithChoices(random, std::move(bytes), static_cast<uint8_t>(random.Chance(0.85) ? 7 : random.Integer(0, 7)));
    };
    const int4q_fuzz::Replay replay{"fuzz_blob_replay", "blob-", 20000, 20240601, fuzz_blob_counts, "products", next, Seeds};
    return replay.Main(argc, argv);
}
