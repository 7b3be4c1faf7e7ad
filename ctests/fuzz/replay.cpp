// SPDX-License-Identifier: Apache-2.0
// Runs the fuzzer's entry without a fuzzer: valid blobs, damaged in ways that a pseudo-random sequence chooses.
// Usage: fuzz_replay [number of inputs]; the default is 20000 times INT4Q_TEST_SCALE.
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "support/random.hpp"
#include "support/reference_packer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern "C" uint64_t fuzz_blob_counts[3];

namespace {

using int4q_test::Random;

std::vector<uint8_t> RandomBlob(Random &random) {
    const int32_t group_sizes[] = {16, 32, 64, 128, 256, INT4Q_GROUP_PER_ROW};
    int4q_tensor tensor;
    std::memset(&tensor, 0, sizeof tensor);
    tensor.struct_size = sizeof tensor;
    tensor.scheme.kind = static_cast<int32_t>(random.Integer(INT4Q_KIND_SYMMETRIC, INT4Q_KIND_CODEBOOK));
    tensor.scheme.group_size = group_sizes[random.Integer(0, 5)];
    tensor.scheme.scale_type = static_cast<int4q_type>(random.Integer(INT4Q_TYPE_F32, INT4Q_TYPE_BF16));
    if (tensor.scheme.kind == INT4Q_KIND_SYMMETRIC) {
        tensor.scheme.scale_rule = static_cast<int32_t>(random.Integer(INT4Q_SCALE_DEFAULT, INT4Q_SCALE_SIGNED_MAX_8));
    }
    tensor.n = random.Integer(1, 40);
    tensor.k = random.Integer(1, 200);
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
    float codebook[16];
    for (float &value : codebook) value = random.Uniform(-1, 1);
    if (tensor.scheme.kind == INT4Q_KIND_CODEBOOK) tensor.codebook = codebook;
    std::vector<float> source(static_cast<size_t>(tensor.n * tensor.k));
    for (float &value : source) value = random.Normal();
    if (int4q_quantize_rows(&tensor, source.data(), INT4Q_TYPE_F32, tensor.k, 0, tensor.n) != INT4Q_OK) std::abort();
    // The other packer: a blob from another implementation must be a blob.
    return int4q_test::PackReference(tensor);
}

// The places where nonsense hurts most: numbers of the header.
void DamageHeader(Random &random, std::vector<uint8_t> &bytes) {
    if (bytes.size() < int4q_test::kHeaderBytes) return;
    if (random.Chance(0.3)) {
        const int32_t values[] = {-1, 0, 1, 2, 3, 4, 5, 16, 17, 32, 64, 256, 512, INT32_MAX, INT32_MIN};
        const size_t at = int4q_test::kSchemeAt + 4 * static_cast<size_t>(random.Integer(0, 5));
        int4q_test::SetField<int32_t>(bytes.data(), at, values[random.Integer(0, 14)]);
        return;
    }
    const size_t at = int4q_test::kTotalBytesAt + 8 * static_cast<size_t>(random.Integer(0, 13));
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

}  // namespace

int main(int argc, char **argv) {
    const int count = argc > 1 ? std::atoi(argv[1]) : int4q_test::Samples(20000);
    Random random(20240601);
    std::vector<uint8_t> blob;
    for (int i = 0; i < count; i++) {
        if (i % 20 == 0) blob = RandomBlob(random);
        std::vector<uint8_t> bytes = blob;
        for (int64_t damages = i % 20 == 0 ? 0 : random.Integer(1, 3); damages > 0; damages--) {
            random.Chance(0.5) ? DamageHeader(random, bytes) : DamageBytes(random, bytes);
        }
        bytes.insert(bytes.begin(), static_cast<uint8_t>(random.Chance(0.85) ? 3 : random.Integer(0, 3)));
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
