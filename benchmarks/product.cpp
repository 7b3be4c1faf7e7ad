// SPDX-License-Identifier: Apache-2.0
#include "product.hpp"

namespace int4q_bench {
namespace {

const char *NameOf(int4q_compute_mode mode) {
    switch (mode) {
        case INT4Q_MODE_F32: return "f32";
        case INT4Q_MODE_INT8: return "int8";
        case INT4Q_MODE_BF16: return "bf16";
        default: return "unknown";
    }
}

int4q_matmul_plan PlanOf(const int4q_matmul_desc &desc) {
    int4q_matmul_plan plan = {};
    plan.struct_size = sizeof plan;
    Check(int4q_matmul_plan_init(&desc, &plan));
    return plan;
}

}  // namespace

std::string NameOf(const char *kind, const Case &c) {
    return std::string(kind) + "/" + NameOf(c.mode) + "/g" + std::to_string(c.shape.group_size) + "/" +
           std::to_string(c.shape.n) + "x" + std::to_string(c.shape.k) + "/m" + std::to_string(c.m) + "/t" +
           std::to_string(c.threads);
}

int4q_matmul_desc DescriptionOf(const Case &c) {
    int4q_matmul_desc desc = {};
    desc.struct_size = sizeof desc;
    desc.mode = c.mode;
    desc.m = c.m;
    desc.n = c.shape.n;
    desc.k = c.shape.k;
    desc.scheme = SchemeOf(c.shape);
    desc.x_type = INT4Q_TYPE_F32;
    desc.y_type = INT4Q_TYPE_F32;
    desc.worker_count = static_cast<uint32_t>(c.threads);
    return desc;
}

Product::Product(const int4q_matmul_desc &desc, const std::vector<float> &x, const Pool &pool)
    : plan_(PlanOf(desc)), pool_(pool), y_(static_cast<size_t>(desc.m * desc.n)), scratch_(plan_.scratch_bytes) {
    args_.struct_size = sizeof args_;
    args_.x = x.data();
    args_.ldx = desc.k;
    args_.y = y_.data();
    args_.ldy = desc.n;
    args_.scratch = scratch_.data();
    args_.scratch_bytes = scratch_.size();
}

}  // namespace int4q_bench
