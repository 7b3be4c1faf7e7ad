// SPDX-License-Identifier: Apache-2.0
#include "support/isa.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <string>
#include <vector>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace int4q_test {
namespace {

// What isa_probe prints with INT4Q_ISA set to `value`, or unset.
std::string Probe(const char *value) {
    const std::string setting = value ? std::string("INT4Q_ISA='") + value + "'" : std::string("-u INT4Q_ISA");
    FILE *pipe = popen(("env " + setting + " " + INT4Q_ISA_PROBE).c_str(), "r");
    if (!pipe) return "";
    std::string output;
    std::array<char, 256> part{};
    while (std::fgets(part.data(), part.size(), pipe)) output += part.data();
    EXPECT_EQ(pclose(pipe), 0) << output;
    return output;
}

int4q_matmul_desc Description(int4q_compute_mode mode) {
    int4q_matmul_desc desc{};
    desc.struct_size = sizeof desc;
    desc.mode = mode;
    desc.m = 4;
    desc.n = 100;
    desc.k = 200;
    desc.scheme.kind = INT4Q_KIND_SYMMETRIC;
    desc.scheme.group_size = 32;
    desc.scheme.scale_type = INT4Q_TYPE_F16;
    desc.x_type = desc.y_type = INT4Q_TYPE_F32;
    desc.worker_count = 2;
    return desc;
}

std::string DescribeDispatch(const int4q_matmul_desc &desc) {
    std::array<char, 2000> text{};
    EXPECT_OK(int4q_describe_dispatch(&desc, text.data(), text.size(), nullptr));
    return text.data();
}

std::string Name(int4q_isa isa) { return int4q_isa_name(isa); }

TEST(Isa, NamesAreDistinctAndUnknownOnesSaySo) {
    EXPECT_EQ(Name(INT4Q_ISA_PORTABLE), "portable");
    EXPECT_EQ(Name(INT4Q_ISA_AVX2), "avx2");
    EXPECT_EQ(Name(INT4Q_ISA_AVXVNNI), "avxvnni");
    EXPECT_EQ(Name(INT4Q_ISA_AVX512VNNI), "avx512vnni");
    EXPECT_EQ(Name(INT4Q_ISA_AVX512BF16), "avx512bf16");
    EXPECT_EQ(Name(INT4Q_ISA_AMX), "amx");
    for (int4q_isa isa : {-1, 1, 99, 101, 149, 151, 201, 249, 251, 299, 301, INT32_MAX, INT32_MIN}) {
        EXPECT_EQ(Name(isa), "unknown") << isa;
    }
}

// Programs compiled against an older header keep these numbers.
TEST(Isa, EnumeratorsKeepTheirValues) {
    EXPECT_EQ(INT4Q_ISA_PORTABLE, 0);
    EXPECT_EQ(INT4Q_ISA_AVX2, 100);
    EXPECT_EQ(INT4Q_ISA_AVXVNNI, 150);
    EXPECT_EQ(INT4Q_ISA_AVX512VNNI, 200);
    EXPECT_EQ(INT4Q_ISA_AVX512BF16, 250);
    EXPECT_EQ(INT4Q_ISA_AMX, 300);
}

#if defined(__x86_64__)
// The system keeps AMX's registers from processes that have not asked for them.
bool SystemGrantsTiles() {
#if defined(__linux__)
    const long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}
#endif

// What the compiler's own detection finds, the portable one first.
std::vector<int4q_isa> IsasOfThisMachine() {
    std::vector<int4q_isa> isas = {INT4Q_ISA_PORTABLE};
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vnni");
    const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
    const bool tiles = bf16 && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") &&
                       __builtin_cpu_supports("amx-bf16");
    if (avx2) isas.push_back(INT4Q_ISA_AVX2);
    if (avx2 && __builtin_cpu_supports("avxvnni")) isas.push_back(INT4Q_ISA_AVXVNNI);
    if (avx512) isas.push_back(INT4Q_ISA_AVX512VNNI);
    if (bf16) isas.push_back(INT4Q_ISA_AVX512BF16);
    if (tiles && SystemGrantsTiles()) isas.push_back(INT4Q_ISA_AMX);
#endif
    return isas;
}

// The best that this machine has and a limit allows.
int4q_isa BestUnder(int4q_isa limit) {
    int4q_isa best = INT4Q_ISA_PORTABLE;
    for (int4q_isa isa : IsasOfThisMachine()) {
        if (isa <= limit) best = isa;
    }
    return best;
}

TEST(Isa, DetectionAgreesWithTheCompilersOwn) {
    EXPECT_EQ(DetectedIsa(), IsasOfThisMachine().back());
    EXPECT_EQ(UsableIsas(), IsasOfThisMachine());
}

TEST(Isa, ALimitLowersTheChoiceAndNeverRaisesIt) {
    const int4q_isa detected = DetectedIsa();
    for (int4q_isa limit : kIsas) {
        IsaLimit scope(limit);
        EXPECT_EQ(ActiveIsa(), BestUnder(limit)) << Name(limit);
        EXPECT_LE(ActiveIsa(), limit);
        EXPECT_EQ(DetectedIsa(), detected);
    }
}

TEST(Isa, PlansKeepTheInstructionSetTheyWereMadeWith) {
    for (int4q_compute_mode mode : {INT4Q_MODE_F32, INT4Q_MODE_INT8, INT4Q_MODE_BF16}) {
        const int4q_matmul_desc desc = Description(mode);
        int4q_matmul_plan plan{};
        plan.struct_size = sizeof plan;
        for (int4q_isa isa : UsableIsas()) {
            {
                IsaLimit scope(isa);
                ASSERT_OK(int4q_matmul_plan_init(&desc, &plan));
            }
            EXPECT_EQ(plan.isa, isa);
        }
        ASSERT_OK(int4q_matmul_plan_init(&desc, &plan));
        EXPECT_EQ(plan.isa, DetectedIsa());
    }
}

TEST(IsaEnvironment, EachKnownNameLimits) {
    for (int4q_isa isa : kIsas) {
        const std::string output = Probe(int4q_isa_name(isa));
        EXPECT_NE(output.find("active " + Name(BestUnder(isa)) + " "), std::string::npos) << output;
    }
}

TEST(IsaEnvironment, EmptyCountsAsUnset) {
    const std::string unset = Probe(nullptr);
    EXPECT_NE(unset.find("active " + Name(DetectedIsa()) + " "), std::string::npos) << unset;
    EXPECT_EQ(Probe(""), unset);
}

TEST(IsaEnvironment, AnUnknownNameIsAnErrorThatNamesIt) {
    for (const char *name : {"avx", "AVX2", "avx2 ", "avx512", "amx2", "portable,avx2", "0",
                             "a name that is longer than that of any instruction set"}) {
        const std::string output = Probe(name);
        EXPECT_NE(output.find("status 3"), std::string::npos) << output;
        EXPECT_NE(output.find(std::string("INT4Q_ISA (environment) is \"") + name), std::string::npos) << output;
        EXPECT_NE(output.find("; expected "), std::string::npos) << output;
        EXPECT_NE(output.find("limited by call: status 0 active portable"), std::string::npos) << output;
    }
}

TEST(DescribeDispatch, NamesTheKernelAndTheReason) {
    for (int4q_isa isa : UsableIsas()) {
        IsaLimit scope(isa);
        for (int4q_compute_mode mode : {INT4Q_MODE_F32, INT4Q_MODE_INT8, INT4Q_MODE_BF16}) {
            const std::string text = DescribeDispatch(Description(mode));
            EXPECT_NE(text.find("instruction set " + Name(isa)), std::string::npos) << text;
            EXPECT_EQ(text.find("int8") != std::string::npos, mode == INT4Q_MODE_INT8) << text;
            EXPECT_EQ(text.find("int4q_isa_set_limit() allows at most") != std::string::npos, isa != DetectedIsa()) << text;
        }
    }
}

// With AMX, BF16 mode dequantizes short groups and OFFSET: what that takes pays off over some rows only.
TEST(DescribeDispatch, SaysWhereF32IsFasterThanBF16) {
    for (int4q_isa isa : UsableIsas()) {
        IsaLimit scope(isa);
        for (int64_t m : {1, 4, 5}) {
            for (int32_t group_size : {32, 128}) {
                for (int32_t kind : {INT4Q_KIND_SYMMETRIC, INT4Q_KIND_OFFSET}) {
                    int4q_matmul_desc desc = Description(INT4Q_MODE_BF16);
                    desc.m = m;
                    desc.scheme.group_size = group_size;
                    desc.scheme.kind = kind;
                    const std::string text = DescribeDispatch(desc);
                    const bool dequantizes = isa == INT4Q_ISA_AMX && (group_size == 32 || kind == INT4Q_KIND_OFFSET);
                    EXPECT_EQ(text.find("F32 mode is faster") != std::string::npos, dequantizes && m <= 4) << text;
                }
            }
        }
    }
}

TEST(DescribeDispatch, CutsTheTextAndTellsTheWholeSize) {
    const int4q_matmul_desc desc = Description(INT4Q_MODE_INT8);
    const std::string whole = DescribeDispatch(desc);
    uint64_t needed = 0;
    EXPECT_EQ(int4q_describe_dispatch(&desc, nullptr, 0, &needed), INT4Q_ERROR_BUFFER_TOO_SMALL);
    EXPECT_EQ(needed, whole.size() + 1);
    for (uint64_t size : {uint64_t{1}, uint64_t{2}, uint64_t{20}, needed - 1, needed}) {
        std::string text(size + 8, '#');
        EXPECT_EQ(int4q_describe_dispatch(&desc, text.data(), size, nullptr),
                  size < needed ? INT4Q_ERROR_BUFFER_TOO_SMALL : INT4Q_OK);
        EXPECT_EQ(std::string(text.c_str()), whole.substr(0, size - 1));
        EXPECT_EQ(text.substr(size), "########");
    }
}

}  // namespace
}  // namespace int4q_test
