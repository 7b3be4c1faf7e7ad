// SPDX-License-Identifier: Apache-2.0
// Quantizes a random matrix to 4 bits, packs it, multiplies by it, and compares with the product in floats.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <int4q.hpp>
#include <random>
#include <vector>

namespace {

constexpr int64_t kM = 4, kN = 256, kK = 1024;

std::vector<float> RandomMatrix(int64_t rows, int64_t columns, std::mt19937 &random) {
    std::vector<float> values(static_cast<size_t>(rows * columns));
    for (float &value : values) value = static_cast<float>(random()) * 0x1p-32f - 0.5f;
    return values;
}

std::vector<float> Product(const std::vector<float> &x, const std::vector<float> &w) {
    std::vector<float> y(static_cast<size_t>(kM * kN));
    for (int64_t i = 0; i < kM; i++) {
        for (int64_t j = 0; j < kN; j++) {
            for (int64_t k = 0; k < kK; k++) {
                y[static_cast<size_t>(i * kN + j)] += x[static_cast<size_t>(i * kK + k)] * w[static_cast<size_t>(j * kK + k)];
            }
        }
    }
    return y;
}

int Run() {
    std::mt19937 random(1);
    const std::vector<float> w = RandomMatrix(kN, kK, random), x = RandomMatrix(kM, kK, random);
    std::vector<float> y(static_cast<size_t>(kM * kN));
    int4q::Pool pool(2);

    // Quantize and pack: from here on the blob is all that is needed, in memory or in a file.
    const int4q_scheme scheme = int4q::Scheme::asymmetric(32, INT4Q_TYPE_F16);
    const int4q::Blob blob = int4q::pack(int4q::quantize({w, kN, kK}, scheme, {}, &pool), &pool);

    // Multiply: y = x W^T. A plan and scratch memory serve any number of products.
    const int4q::Plan plan(INT4Q_MODE_INT8, kM, blob.info(), pool.worker_count());
    int4q::Scratch scratch;
    int4q::matmul(plan, {x, kM, kK}, blob, {y, kM, kN}, scratch, &pool);

    const std::vector<float> reference = Product(x, w);
    const int4q_metrics metrics = int4q::compare({reference, kM, kN}, {y, kM, kN});
    std::printf("%d x %d floats: %d bytes; blob: %d bytes; product: SQNR %.1f dB, cosine %.5f\n", static_cast<int>(kN),
                static_cast<int>(kK), static_cast<int>(kN * kK * 4), static_cast<int>(blob.bytes()), metrics.sqnr_db,
                metrics.cosine);
    return metrics.sqnr_db > 18 ? 0 : 1;
}

}  // namespace

int main() try { return Run(); } catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
