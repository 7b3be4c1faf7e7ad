// SPDX-License-Identifier: Apache-2.0
// Runs the fuzzer's entry without a fuzzer: valid blobs, damaged in ways that a pseudo-random sequence chooses.
// Usage: fuzz_replay [number of inputs]; the default is 20000 times INT4Q_TEST_SCALE.
//        fuzz_replay --write-seeds FOLDER: a few dozen small inputs for a fuzzer to begin with, valid ones of every kind
//        and damaged ones.
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "support/blob_parts.hpp"
#include "support/random.hpp"
#include "support/reference_packer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern "C" uint64_t fuzz_blob_counts[3];

namespace {

using int4q_test::Random;

constexpr int32_t kGroupSizes[] = {16, 32, 64, 128, 256, INT4Q_GROUP_PER_ROW};

// More kinds than the header has: CODEBOOK with one for each row, and the first three with codes of 8 bits.
constexpr int32_t kRowCodebooks = INT4Q_KIND_TERNARY + 1, kWide = kRowCodebooks, kLastSort = kWide + INT4Q_KIND_OFFSET;

int32_t KindOf(int32_t sort) { return sort == kRowCodebooks ? INT4Q_KIND_CODEBOOK : sort > kWide ? sort - kWide : sort; }

std::vector<uint8_t> RandomBlob(Random &random, int32_t kind, int32_t group_size, int64_t n, int64_t k) {
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
    if (int4q_tensor_sizes(&tensor.scheme, tensor.n, tensor.k, &layout) != INT4Q_OK) std::abort();
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
    for (float &value : codebook) value = random.Uniform(-1, 1);
    if (tensor.scheme.kind == INT4Q_KIND_CODEBOOK) tensor.codebook = codebook.data();
    std::vector<float> source(static_cast<size_t>(tensor.n * tensor.k));
    for (float &value : source) value = random.Normal();
    if (int4q_quantize_rows(&tensor, source.data(), INT4Q_TYPE_F32, tensor.k, 0, tensor.n) != INT4Q_OK) std::abort();
    // The other packer: a blob from another implementation must be a blob. Every other one carries parts.
    std::vector<uint8_t> blob = int4q_test::PackReference(tensor);
    if (random.Chance(0.5)) return blob;
    return int4q_test::Parts(random, n, k, static_cast<uint32_t>(random.Integer(1, 15))).Attached(std::move(blob));
}

std::vector<uint8_t> RandomBlob(Random &random) {
    const auto kind = static_cast<int32_t>(random.Integer(INT4Q_KIND_SYMMETRIC, kLastSort));
    const int32_t group_size = kGroupSizes[random.Integer(0, 5)];
    const int64_t n = random.Integer(1, 40);
    return RandomBlob(random, kind, group_size, n, random.Integer(1, 200));
}

// The places where nonsense hurts most: numbers of the header.
void DamageHeader(Random &random, std::vector<uint8_t> &bytes) {
    if (bytes.size() < int4q_test::kHeaderBytes) return;
    if (random.Chance(0.3)) {
        const int32_t values[] = {-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 32, 64, 256, 512, INT32_MAX, INT32_MIN};
        const int64_t field = random.Integer(0, 7);
        size_t at = int4q_test::kSchemeAt + 4 * static_cast<size_t>(field);
        if (field >= 6) at = field == 6 ? int4q_test::kCodebookScopeAt : int4q_test::kCodeBitsAt;
        if (random.Chance(0.3)) at = int4q_test::kPartFlagsAt + 2 * static_cast<size_t>(random.Integer(0, 14));
        int4q_test::SetField<int32_t>(bytes.data(), at, values[random.Integer(0, 17)]);
        return;
    }
    size_t at = int4q_test::kTotalBytesAt + 8 * static_cast<size_t>(random.Integer(0, 13));
    if (random.Chance(0.2)) at = int4q_test::kPartFlagsAt + 8 * static_cast<size_t>(random.Integer(0, 3));
    const uint64_t old = int4q_test::GetField<uint64_t>(bytes.data(), at);
    const uint64_t one = 1;
    const uint64_t values[] = {0,         1,         one << 31, one << 32, one << 60, one << 62,
                               one << 63, ~0ull,     ~63ull,    old + 1,   old - 1,   old + 16,
                               old - 16,  old + 64,  old - 64,  old * 2,   old / 2,   random.Bits()};
    int4q_test::SetField<uint64_t>(bytes.data(), at, values[random.Integer(0, 17)]);
}

void DamageBytes(Random &random, std::vector<uint8_t> &bytes) {
    if (bytes.empty()) return;
    const int64_t last = static_cast<int64_t>(bytes.size()) - 1;
    const size_t at = static_cast<size_t>(random.Integer(0, last));
    switch (random.Integer(0, 4)) {
        case 0:
            bytes[at] ^= static_cast<uint8_t>(1u << random.Integer(0, 7));
            break;
        case 1:
            bytes[at] = static_cast<uint8_t>(random.Bits());
            break;
        case 2:  // runs of ones: NaN in every type, zero points of 255
            for (size_t i = at; i < std::min(bytes.size(), at + 8); i++) bytes[i] = 0xff;
            break;
        case 3:
            bytes.resize(at);
            break;
        default:
            bytes.insert(bytes.end(), static_cast<size_t>(random.Integer(1, 200)), static_cast<uint8_t>(random.Bits()));
    }
}

void Damage(Random &random, std::vector<uint8_t> &bytes) {
    random.Chance(0.5) ? DamageHeader(random, bytes) : DamageBytes(random, bytes);
}

int WriteSeeds(const std::filesystem::path &folder) {
    std::filesystem::create_directories(folder);
    Random random(7);
    uint64_t valid = 0, all = 0;
    for (int32_t kind = INT4Q_KIND_SYMMETRIC; kind <= kLastSort; kind++) {
        for (int32_t group_size : kGroupSizes) {
            const int64_t n = random.Integer(1, 20), k = random.Integer(1, 48);
            std::vector<uint8_t> bytes = RandomBlob(random, kind, group_size, n, k);
            for (bool damaged : {false, true}) {
                if (damaged) Damage(random, bytes);
                std::vector<uint8_t> input = bytes;
                input.insert(input.begin(), 7);  // all checksums are made right
                const std::string name = std::string(damaged ? "damaged" : "valid") + "-kind" + std::to_string(kind) +
                                         "-group" + std::to_string(group_size);
                std::ofstream file(folder / name, std::ios::binary);
                file.write(reinterpret_cast<const char *>(input.data()), static_cast<std::streamsize>(input.size()));
                file.close();
                if (!file) {
                    std::fprintf(stderr, "cannot write %s\n", (folder / name).c_str());
                    return 1;
                }
                LLVMFuzzerTestOneInput(input.data(), input.size());
                all++;
                valid += !damaged;
            }
        }
    }
    std::printf("%" PRIu64 " seeds in %s: %" PRIu64 " valid headers, %" PRIu64 " wholly valid\n", all, folder.c_str(),
                fuzz_blob_counts[0], fuzz_blob_counts[1]);
    return fuzz_blob_counts[1] >= valid ? 0 : 1;
}

}  // namespace

int main(int argc, char **argv) {
    if (argc == 3 && std::strcmp(argv[1], "--write-seeds") == 0) return WriteSeeds(argv[2]);
    if (argc > 2 || (argc == 2 && std::atoi(argv[1]) <= 0)) {
        std::fprintf(stderr, "usage: fuzz_replay [number of inputs] | --write-seeds FOLDER\n");
        return 2;
    }
    const int count = argc > 1 ? std::atoi(argv[1]) : int4q_test::Samples(20000);
    Random random(20240601);
    std::vector<uint8_t> blob;
    for (int i = 0; i < count; i++) {
        if (i % 20 == 0) blob = RandomBlob(random);
        std::vector<uint8_t> bytes = blob;
        for (int64_t damages = i % 20 == 0 ? 0 : random.Integer(1, 3); damages > 0; damages--) {
            Damage(random, bytes);
        }
        bytes.insert(bytes.begin(), static_cast<uint8_t>(random.Chance(0.85) ? 7 : random.Integer(0, 7)));
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    std::printf("%d inputs: %" PRIu64 " valid headers, %" PRIu64 " wholly valid, %" PRIu64 " products\n", count,
                fuzz_blob_counts[0], fuzz_blob_counts[1], fuzz_blob_counts[2]);
    const bool some_of_each = fuzz_blob_counts[1] > 0 && fuzz_blob_counts[0] > fuzz_blob_counts[1] &&
                              fuzz_blob_counts[0] < static_cast<uint64_t>(count);
    if (count >= 1000 && !some_of_each) {
        std::fprintf(stderr, "the inputs were all alike: nothing was tested\n");
        return 1;
    }
    return 0;
}
