// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <thread>

#include "int4q.h"
#include "support/status.hpp"

namespace int4q_test {
namespace {

constexpr int kStatuses = INT4Q_ERROR_CANCELLED + 1;

TEST(Version, TheLibraryIsTheHeadersOwn) {
    EXPECT_EQ(int4q_version(), INT4Q_VERSION_MAJOR * 1000000 + INT4Q_VERSION_MINOR * 1000 + INT4Q_VERSION_PATCH);
    EXPECT_EQ(int4q_abi_version(), INT4Q_ABI_VERSION);
}

TEST(Status, EveryCodeHasItsOwnName) {
    std::set<std::string> names;
    for (int status = 0; status < kStatuses; status++) names.insert(int4q_status_string(status));
    EXPECT_EQ(names.size(), static_cast<size_t>(kStatuses));
    EXPECT_STREQ(int4q_status_string(INT4Q_OK), "INT4Q_OK");
    EXPECT_STREQ(int4q_status_string(INT4Q_ERROR_NOT_FINITE), "INT4Q_ERROR_NOT_FINITE");
    for (int status : {-1, kStatuses, INT32_MAX, INT32_MIN}) EXPECT_STREQ(int4q_status_string(status), "unknown int4q status");
}

TEST(LastError, TellsFunctionArgumentValueAndExpectation) {
    uint64_t bytes = 0;
    int4q_scheme scheme{};
    scheme.kind = INT4Q_KIND_SYMMETRIC;
    scheme.group_size = 32;
    scheme.scale_type = INT4Q_TYPE_F16;
    ASSERT_EQ(int4q_blob_size(&scheme, 5, -3, &bytes), INT4Q_ERROR_INVALID_ARGUMENT);
    const int4q_error error = LastError();
    EXPECT_EQ(error.status, INT4Q_ERROR_INVALID_ARGUMENT);
    EXPECT_STREQ(error.function, "int4q_blob_size");
    EXPECT_STREQ(error.argument, "k");
    EXPECT_STREQ(error.value, "-3");
    EXPECT_STREQ(error.expected, "at least 1");
    EXPECT_STREQ(error.message, "int4q_blob_size: k is -3; expected at least 1");
}

TEST(LastError, ASuccessLeavesItAsItWas) {
    PoisonLastError();
    const std::string before = LastError().message;
    int4q_isa isa;
    ASSERT_OK(int4q_isa_detected(&isa));
    EXPECT_EQ(LastError().message, before);
}

TEST(LastError, IsEmptyInAThreadThatHadNone) {
    PoisonLastError();
    std::thread([] {
        const int4q_error error = LastError();
        EXPECT_EQ(error.status, INT4Q_OK);
        for (const char *text : {error.function, error.argument, error.value, error.expected, error.message}) EXPECT_STREQ(text, "");
    }).join();
    EXPECT_EQ(LastError().status, INT4Q_ERROR_NULL_POINTER);
}

TEST(LastError, BelongsToItsThread) {
    PoisonLastError();
    std::thread([] { EXPECT_EQ(int4q_isa_set_limit(12345), INT4Q_ERROR_INVALID_ARGUMENT); }).join();
    EXPECT_STREQ(LastError().function, "int4q_isa_detected");
}

TEST(LastError, RefusesNullAndOtherSizesWithoutChangingAnything) {
    PoisonLastError();
    EXPECT_EQ(int4q_last_error(nullptr), INT4Q_ERROR_NULL_POINTER);
    for (uint32_t size : {0u, 1u, static_cast<uint32_t>(sizeof(int4q_error)) - 1, 0xffffffffu}) {
        int4q_error error{};
        error.struct_size = size;
        error.status = 77;
        EXPECT_EQ(int4q_last_error(&error), INT4Q_ERROR_STRUCT_SIZE);
        EXPECT_EQ(error.status, 77);
        EXPECT_EQ(error.message, nullptr);
    }
    EXPECT_STREQ(LastError().function, "int4q_isa_detected");
}

}  // namespace
}  // namespace int4q_test
