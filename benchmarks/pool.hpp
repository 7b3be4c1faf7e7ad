// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "check.hpp"

namespace int4q_bench {

// The library's own threads; none for one worker.
class Pool {
public:
    explicit Pool(int threads) {
        if (threads > 1) Check(int4q_pool_create(static_cast<uint32_t>(threads), &pool_));
    }
    ~Pool() { int4q_pool_destroy(pool_); }
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;

    int4q_parallel_for parallel_for() const { return pool_ ? int4q_pool_parallel_for : nullptr; }
    void *host() const { return pool_; }

private:
    int4q_pool *pool_ = nullptr;
};

}  // namespace int4q_bench
