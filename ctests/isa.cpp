// SPDX-License-Identifier: Apache-2.0
#include "support/isa.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <string>

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
    EXPECT_EQ(Name(INT4Q_ISA_AVX512VNNI), "avx512vnni");
    for (int4q_isa isa : {-1, 1, 99, 101, 201, INT32_MAX, INT32_MIN}) EXPECT_EQ(Name(isa), "unknown") << isa;
}

TEST(Isa, DetectionAgreesWithTheCompilersOwn) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    int4q_isa expected = INT4Q_ISA_PORTABLE;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) expected = INT4Q_ISA_AVX2;
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        expected = INT4Q_ISA_AVX512VNNI;
    }
    EXPECT_EQ(DetectedIsa(), expected);
#else
    EXPECT_EQ(DetectedIsa(), INT4Q_ISA_PORTABLE);
#endif
}

TEST(Isa, ALimitLowersTheChoiceAndNeverRaisesIt) {
    const int4q_isa detected = DetectedIsa();
    for (int4q_isa limit : kIsas) {
        IsaLimit scope(limit);
        int4q_isa active = -1, still = -1;
        ASSERT_OK(int4q_isa_active(&active));
        EXPECT_EQ(active, std::min(limit, detected));
        ASSERT_OK(int4q_isa_detected(&still));
        EXPECT_EQ(still, detected);
    }
}

TEST(Isa, PlansKeepTheInstructionSetTheyWereMadeWith) {
    const int4q_matmul_desc desc = Description(INT4Q_MODE_F32);
    int4q_matmul_plan plan{};
    {
        IsaLimit scope(INT4Q_ISA_PORTABLE);
        ASSERT_OK(int4q_matmul_plan_init(&desc, &plan));
    }
    EXPECT_EQ(plan.isa, INT4Q_ISA_PORTABLE);
    ASSERT_OK(int4q_matmul_plan_init(&desc, &plan));
    EXPECT_EQ(plan.isa, DetectedIsa());
}

TEST(IsaEnvironment, EachKnownNameLimits) {
    const int4q_isa detected = DetectedIsa();
    for (int4q_isa isa : kIsas) {
        EXPECT_NE(Probe(int4q_isa_name(isa)).find("active " + Name(std::min(isa, detected)) + " "), std::string::npos);
    }
}

TEST(IsaEnvironment, EmptyCountsAsUnset) {
    const std::string unset = Probe(nullptr);
    EXPECT_NE(unset.find("active " + Name(DetectedIsa()) + " "), std::string::npos) << unset;
    EXPECT_EQ(Probe(""), unset);
}

TEST(IsaEnvironment, AnUnknownNameIsAnErrorThatNamesIt) {
    for (const char *name : {"avx", "AVX2", "avx2 ", "portable,avx2", "0", "a name that is longer than that of any instruction set"}) {
        const std::string output = Probe(name);
        EXPECT_NE(output.find("status 3"), std::string::npos) << output;
        EXPECT_NE(output.find(std::string("INT4Q_ISA (environment) is \"") + name), std::string::npos) << output;
        EXPECT_NE(output.find("portable, avx2 or avx512vnni"), std::string::npos) << output;
        EXPECT_NE(output.find("limited by call: status 0 active portable"), std::string::npos) << output;
    }
}

TEST(DescribeDispatch, NamesTheKernelAndTheReason) {
    for (int4q_isa isa : UsableIsas()) {
        IsaLimit scope(isa);
        for (int4q_compute_mode mode : {INT4Q_MODE_F32, INT4Q_MODE_INT8}) {
            const std::string text = DescribeDispatch(Description(mode));
            EXPECT_NE(text.find("instruction set " + Name(isa)), std::string::npos) << text;
            EXPECT_EQ(text.find("int8") != std::string::npos, mode == INT4Q_MODE_INT8) << text;
            EXPECT_EQ(text.find("int4q_isa_set_limit() allows at most") != std::string::npos, isa != DetectedIsa()) << text;
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
