// SPDX-License-Identifier: Apache-2.0
// Quantizes a random matrix to 4 bits, packs it, multiplies by it on all cores, and compares with the product in floats.
#include <algorithm>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

#include <int4q.hpp>

namespace {

constexpr int64_t kRows = 4, kOutputs = 256, kInputs = 1024;

std::vector<float> random_matrix(int64_t rows, int64_t columns, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<size_t>(rows * columns));
    for (float &value : values) value = normal(generator);
    return values;
}

std::vector<float> product_in_floats(const std::vector<float> &x, const std::vector<float> &w) {
    std::vector<float> y(kRows * kOutputs);
    for (int64_t i = 0; i < kRows; i++)
        for (int64_t j = 0; j < kOutputs; j++)
            for (int64_t k = 0; k < kInputs; k++)
                y[static_cast<size_t>(i * kOutputs + j)] +=
                    x[static_cast<size_t>(i * kInputs + k)] * w[static_cast<size_t>(j * kInputs + k)];
    return y;
}

}  // namespace

int main() try {
    const std::vector<float> w = random_matrix(kOutputs, kInputs, 1), x = random_matrix(kRows, kInputs, 2);
    std::vector<float> y(kRows * kOutputs);

    int4q::Pool pool(std::max(1u, std::thread::hardware_concurrency()));
    const int4q::Tensor tensor = int4q::quantize({w, kOutputs, kInputs}, int4q::Scheme::asymmetric(32), {}, &pool);
    const int4q::Blob blob = int4q::pack(tensor, &pool);
    int4q::matmul(INT4Q_MODE_INT8, {x, kRows, kInputs}, blob, {y, kRows, kOutputs}, &pool);

    const std::vector<float> reference = product_in_floats(x, w);
    const int4q_metrics metrics = int4q::compare({reference, kRows, kOutputs}, {y, kRows, kOutputs});
    std::printf("%zu bytes of floats, %zu of the blob; %s kernels on %u threads; product: SQNR %.1f dB, cosine %.5f\n",
                w.size() * sizeof(float), static_cast<size_t>(blob.bytes()), int4q_isa_name(int4q::active_isa()),
                pool.worker_count(), metrics.sqnr_db, metrics.cosine);
    return metrics.sqnr_db > 18 ? 0 : 1;
} catch (const int4q::Error &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
