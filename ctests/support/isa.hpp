// Instruction sets: which ones this machine has, and a limit that ends with its scope.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "int4q.h"
#include "support/status.hpp"

namespace int4q_test {

constexpr int4q_isa kIsas[] = {INT4Q_ISA_PORTABLE,   INT4Q_ISA_AVX2,       INT4Q_ISA_AVXVNNI,
                               INT4Q_ISA_AVX512VNNI, INT4Q_ISA_AVX512BF16, INT4Q_ISA_AMX};

inline int4q_isa DetectedIsa() {
    int4q_isa isa = -1;
    EXPECT_OK(int4q_isa_detected(&isa));
    return isa;
}

// What plans made now will use.
inline int4q_isa ActiveIsa() {
    int4q_isa isa = -1;
    EXPECT_OK(int4q_isa_active(&isa));
    return isa;
}

// At the end of its scope the limit before it counts again.
class IsaLimit {
public:
    explicit IsaLimit(int4q_isa limit) : before_(Current()) { Set(limit); }
    ~IsaLimit() { Set(before_); }
    IsaLimit(const IsaLimit &) = delete;
    IsaLimit &operator=(const IsaLimit &) = delete;

private:
    static int4q_isa &Current() {
        static int4q_isa limit = INT4Q_ISA_NO_LIMIT;
        return limit;
    }

    static void Set(int4q_isa limit) {
        EXPECT_OK(int4q_isa_set_limit(limit));
        Current() = limit;
    }

    const int4q_isa before_;
};

// Those that the library may run here, the portable one first. They are no ladder: a processor with AVX-512 VNNI may
// lack AVX-VNNI, and what it lacks is not chosen however high the limit.
inline const std::vector<int4q_isa> &UsableIsas() {
    static const std::vector<int4q_isa> usable = [] {
        std::vector<int4q_isa> isas;
        for (int4q_isa isa : kIsas) {
            const IsaLimit limit(isa);
            if (ActiveIsa() == isa) isas.push_back(isa);
        }
        return isas;
    }();
    return usable;
}

inline bool IsUsable(int4q_isa isa) {
    for (int4q_isa usable : UsableIsas()) {
        if (usable == isa) return true;
    }
    return false;
}

// Whether docs/numerics.md defines a mode's results to the bit. BF16 mode's are where no instruction for bfloat16 adds
// in an order of its own.
inline bool IsDefinedToTheBit(int4q_compute_mode mode, int4q_isa isa) {
    return mode != INT4Q_MODE_BF16 || isa <= INT4Q_ISA_AVX512VNNI;
}

// The usable ones whose results of a mode have the same bits.
inline std::vector<int4q_isa> ExactIsas(int4q_compute_mode mode) {
    std::vector<int4q_isa> exact;
    for (int4q_isa isa : UsableIsas()) {
        if (IsDefinedToTheBit(mode, isa)) exact.push_back(isa);
    }
    return exact;
}

}  // namespace int4q_test
