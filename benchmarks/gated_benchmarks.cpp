// SPDX-License-Identifier: Apache-2.0
// A pair of matrices, y = SILU(x Wg^T) * (x Wu^T), in one product against two.
#include <benchmark/benchmark.h>

#include "benchmarks.hpp"
#include "comparison.hpp"
#include "limits/limits.hpp"
#include "product.hpp"
#include "random_floats.hpp"
#include "rates.hpp"
#include "shared_weights.hpp"

namespace int4q_bench {
namespace {

// The two matrices come from memory for few rows, as in the benchmarks of matmul.
class Pairs {
public:
    explicit Pairs(const Case &c) : weights_(WeightsOf(c.shape)), rotates_(c.m <= 4) { Advance(); }

    void Next() {
        if (rotates_) Advance();
    }

    bool rotates() const { return rotates_; }
    const uint8_t *gate() const { return gate_; }
    const uint8_t *up() const { return up_; }
    size_t blob_bytes() const { return weights_.blob.size(); }

private:
    void Advance() {
        gate_ = weights_.copies.Next();
        up_ = weights_.copies.Next();
    }

    SharedWeights &weights_;
    const bool rotates_;
    const uint8_t *gate_;
    const uint8_t *up_;
};

int4q_matmul_desc WithSilu(int4q_matmul_desc desc) {
    desc.activation = INT4Q_ACTIVATION_SILU;
    return desc;
}

int4q_matmul_desc GatedDescriptionOf(const Case &c) {
    int4q_matmul_desc desc = WithSilu(DescriptionOf(c));
    desc.flags = INT4Q_MATMUL_GATED;
    return desc;
}

class GatedProduct {
public:
    GatedProduct(const Case &c, const std::vector<float> &x, const Pool &pool)
        : product_(GatedDescriptionOf(c), x, pool) {}

    void Run(const Pairs &pairs) {
        product_.args().blob = pairs.gate();
        product_.args().blob_bytes = pairs.blob_bytes();
        product_.args().up_blob = pairs.up();
        product_.args().up_blob_bytes = pairs.blob_bytes();
        product_.Run();
    }

    const std::vector<float> &y() const { return product_.y(); }

private:
    Product product_;
};

// What a caller would do without: two products, then their results multiplied on the calling thread.
class TwoProducts {
public:
    TwoProducts(const Case &c, const std::vector<float> &x, const Pool &pool)
        : gate_(WithSilu(DescriptionOf(c)), x, pool), up_(DescriptionOf(c), x, pool), y_(gate_.y().size()) {}

    void Run(const Pairs &pairs) {
        RunOne(gate_, pairs.gate(), pairs);
        RunOne(up_, pairs.up(), pairs);
        for (size_t i = 0; i < y_.size(); i++) y_[i] = gate_.y()[i] * up_.y()[i];
    }

    const std::vector<float> &y() const { return y_; }

private:
    static void RunOne(Product &product, const uint8_t *blob, const Pairs &pairs) {
        product.args().blob = blob;
        product.args().blob_bytes = pairs.blob_bytes();
        product.Run();
    }

    Product gate_;
    Product up_;
    std::vector<float> y_;
};

Work WorkOf(const Case &c, const Pairs &pairs) {
    const double operations = 2 * 2.0 * static_cast<double>(c.m * c.shape.n * c.shape.k);
    return {c.mode, c.threads, operations, pairs.rotates() ? 2.0 * static_cast<double>(pairs.blob_bytes()) : 0};
}

void BM_Gated(benchmark::State &state, const Case &c) {
    Pairs pairs(c);
    const std::vector<float> x = RandomFloats(c.m * c.shape.k);
    const Pool pool(c.threads);
    GatedProduct gated(c, x, pool);
    TwoProducts apart(c, x, pool);
    const auto run_next = [&pairs](auto &contender) {
        return [&] {
            pairs.Next();
            contender.Run(pairs);
        };
    };
    const double seconds = CompareInTurn(state, {run_next(gated), gated.y()}, {run_next(apart), apart.y()});
    SetRates(state, WorkOf(c, pairs), seconds);
}

}  // namespace

void RegisterGatedBenchmarks() {
    for (int4q_compute_mode mode : kModes) {
        for (int64_t m : {1, 128}) {
            for (int threads = 1; threads <= kMostThreads; threads++) {
                const Case c = {mode, {4096, 4096, 32}, m, threads};
                benchmark::RegisterBenchmark(NameOf("gated", c).c_str(), BM_Gated, c)->Unit(benchmark::kMicrosecond);
            }
        }
    }
}

}  // namespace int4q_bench
