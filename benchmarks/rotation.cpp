// SPDX-License-Identifier: Apache-2.0
#include "rotation.hpp"

namespace int4q_bench {
namespace {

constexpr size_t kAtLeastBytes = 320'000'000;
constexpr size_t kAlignment = 64;

}  // namespace

Rotation::Rotation(const Buffer &original)
    : stride_((original.size() + kAlignment - 1) / kAlignment * kAlignment),
      count_(kAtLeastBytes / stride_ + 1),
      copies_(count_ * stride_) {
    for (size_t i = 0; i < count_; i++) std::memcpy(copies_.data() + i * stride_, original.data(), original.size());
}

uint8_t *Rotation::Next() {
    uint8_t *const copy = copies_.data() + next_ * stride_;
    next_ = (next_ + 1) % count_;
    return copy;
}

}  // namespace int4q_bench
