// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "buffer.hpp"

namespace int4q_bench {

// Copies of one object, handed out in turn. Together they exceed any cache, so each comes from memory when its turn comes
// again, as a model's layers do.
class Rotation {
public:
    explicit Rotation(const Buffer &original);

    uint8_t *Next();

private:
    size_t stride_;
    size_t count_;
    size_t next_ = 0;
    Buffer copies_;
};

}  // namespace int4q_bench
