// Instruction sets: which ones this machine has, and a limit that ends with its scope.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "int4q.h"
#include "support/status.hpp"

namespace int4q_test {

constexpr int4q_isa kIsas[] = {INT4Q_ISA_PORTABLE, INT4Q_ISA_AVX2, INT4Q_ISA_AVX512VNNI};

inline int4q_isa DetectedIsa() {
    int4q_isa isa = -1;
    EXPECT_OK(int4q_isa_detected(&isa));
    return isa;
}

// Those that the library may run here, the portable one first.
inline std::vector<int4q_isa> UsableIsas() {
    std::vector<int4q_isa> usable;
    const int4q_isa detected = DetectedIsa();
    for (int4q_isa isa : kIsas) {
        if (isa <= detected) usable.push_back(isa);
    }
    return usable;
}

class IsaLimit {
public:
    explicit IsaLimit(int4q_isa limit) { EXPECT_OK(int4q_isa_set_limit(limit)); }
    ~IsaLimit() { int4q_isa_set_limit(INT4Q_ISA_NO_LIMIT); }
    IsaLimit(const IsaLimit &) = delete;
    IsaLimit &operator=(const IsaLimit &) = delete;
};

}  // namespace int4q_test
