// SPDX-License-Identifier: Apache-2.0
// Rows of x that each have their expert: one product over all of them against one for each expert.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <memory>
#include <random>
#include <utility>

#include "benchmarks.hpp"
#include "comparison.hpp"
#include "limits/limits.hpp"
#include "product.hpp"
#include "random_floats.hpp"
#include "rates.hpp"
#include "shared_weights.hpp"

namespace int4q_bench {
namespace {

constexpr int kExpertCount = 8;
using Experts = std::array<int4q_expert, kExpertCount>;

// The same in every run.
std::vector<int32_t> RandomExperts(int64_t m) {
    std::minstd_rand generator(1);
    std::uniform_int_distribution<int32_t> distribution(0, kExpertCount - 1);
    std::vector<int32_t> row_experts(static_cast<size_t>(m));
    for (int32_t &expert : row_experts) expert = distribution(generator);
    return row_experts;
}

// Few rows fall to an expert, so weights come from memory.
void TakeNext(Experts &experts, SharedWeights &weights) {
    for (int4q_expert &expert : experts) {
        expert.blob = weights.copies.Next();
        expert.blob_bytes = weights.blob.size();
    }
}

class ExpertsProduct {
public:
    ExpertsProduct(const Case &c, const std::vector<float> &x, const std::vector<int32_t> &row_experts,
                   const Pool &pool)
        : product_(WithExperts(DescriptionOf(c)), x, pool) {
        product_.args().row_experts = row_experts.data();
    }

    void Run(const Experts &experts) {
        product_.args().experts = experts.data();
        product_.Run();
    }

    const std::vector<float> &y() const { return product_.y(); }

private:
    static int4q_matmul_desc WithExperts(int4q_matmul_desc desc) {
        desc.expert_count = kExpertCount;
        return desc;
    }

    Product product_;
};

// One expert's rows, brought together, multiplied, and put back.
class OneExpert {
public:
    OneExpert(const Case &c, std::vector<size_t> rows, const Pool &pool)
        : n_(static_cast<size_t>(c.shape.n)),
          k_(static_cast<size_t>(c.shape.k)),
          rows_(std::move(rows)),
          x_(rows_.size() * k_),
          product_(DescriptionOf({c.mode, c.shape, static_cast<int64_t>(rows_.size()), c.threads}), x_, pool) {}

    void Run(const int4q_expert &expert, const std::vector<float> &x, std::vector<float> &y) {
        for (size_t i = 0; i < rows_.size(); i++) std::copy_n(&x[rows_[i] * k_], k_, &x_[i * k_]);
        product_.args().blob = expert.blob;
        product_.args().blob_bytes = expert.blob_bytes;
        product_.Run();
        for (size_t i = 0; i < rows_.size(); i++) std::copy_n(&product_.y()[i * n_], n_, &y[rows_[i] * n_]);
    }

private:
    const size_t n_;
    const size_t k_;
    const std::vector<size_t> rows_;
    std::vector<float> x_;
    Product product_;
};

// What a caller would do without. Rows are sorted and products planned ahead.
class ProductPerExpert {
public:
    ProductPerExpert(const Case &c, const std::vector<float> &x, const std::vector<int32_t> &row_experts,
                     const Pool &pool)
        : x_(x), y_(static_cast<size_t>(c.m * c.shape.n)) {
        for (int32_t expert = 0; expert < kExpertCount; expert++) {
            std::vector<size_t> rows;
            for (size_t row = 0; row < row_experts.size(); row++) {
                if (row_experts[row] == expert) rows.push_back(row);
            }
            if (!rows.empty()) parts_[expert] = std::make_unique<OneExpert>(c, std::move(rows), pool);
        }
    }

    void Run(const Experts &experts) {
        for (size_t i = 0; i < parts_.size(); i++) {
            if (parts_[i]) parts_[i]->Run(experts[i], x_, y_);
        }
    }

    const std::vector<float> &y() const { return y_; }

private:
    const std::vector<float> &x_;
    std::vector<float> y_;
    std::array<std::unique_ptr<OneExpert>, kExpertCount> parts_;
};

Work WorkOf(const Case &c, std::vector<int32_t> row_experts) {
    std::sort(row_experts.begin(), row_experts.end());
    const auto used = std::unique(row_experts.begin(), row_experts.end()) - row_experts.begin();
    const double operations = 2.0 * static_cast<double>(c.m * c.shape.n * c.shape.k);
    return {c.mode, c.threads, operations, static_cast<double>(used) * static_cast<double>(BlobBytes(c.shape))};
}

void BM_Experts(benchmark::State &state, const Case &c) {
    SharedWeights &weights = WeightsOf(c.shape);
    const std::vector<float> x = RandomFloats(c.m * c.shape.k);
    const std::vector<int32_t> row_experts = RandomExperts(c.m);
    const Pool pool(c.threads);
    ExpertsProduct together(c, x, row_experts, pool);
    ProductPerExpert apart(c, x, row_experts, pool);
    Experts experts = {};
    const auto run_next = [&](auto &contender) {
        return [&] {
            TakeNext(experts, weights);
            contender.Run(experts);
        };
    };
    const double seconds = CompareInTurn(state, {run_next(together), together.y()}, {run_next(apart), apart.y()});
    SetRates(state, WorkOf(c, row_experts), seconds);
}

}  // namespace

void RegisterExpertsBenchmarks() {
    for (int4q_compute_mode mode : kModes) {
        for (int threads = 1; threads <= kMostThreads; threads++) {
            const Case c = {mode, {1024, 1024, 32}, 64, threads};
            benchmark::RegisterBenchmark(NameOf("experts", c).c_str(), BM_Experts, c)->Unit(benchmark::kMicrosecond);
        }
    }
}

}  // namespace int4q_bench
