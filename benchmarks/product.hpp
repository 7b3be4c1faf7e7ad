// SPDX-License-Identifier: Apache-2.0
// Products with f32 activations and results.
#pragma once

#include <string>
#include <vector>

#include "buffer.hpp"
#include "int4q.h"
#include "pool.hpp"
#include "weights.hpp"

namespace int4q_bench {

constexpr int4q_compute_mode kModes[] = {INT4Q_MODE_F32, INT4Q_MODE_INT8, INT4Q_MODE_BF16};

struct Case {
    int4q_compute_mode mode;
    MatrixShape shape;
    int64_t m;
    int threads;
};

// "KIND/MODE/gG/NxK/mM/tT".
std::string NameOf(const char *kind, const Case &c);

// Of the plain product: one matrix, no epilogue.
int4q_matmul_desc DescriptionOf(const Case &c);

// One product, ready to run, with its results and scratch. The x given here stays the caller's; weights, and what else
// the description calls for, the caller puts into args().
class Product {
public:
    Product(const int4q_matmul_desc &desc, const std::vector<float> &x, const Pool &pool);

    int4q_matmul_args &args() { return args_; }
    const std::vector<float> &y() const { return y_; }

    void Run() { Check(int4q_matmul(&plan_, &args_, pool_.parallel_for(), pool_.host())); }

private:
    const int4q_matmul_plan plan_;
    const Pool &pool_;
    std::vector<float> y_;
    const Buffer scratch_;
    int4q_matmul_args args_ = {};
};

}  // namespace int4q_bench
