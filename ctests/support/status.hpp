// Status codes and the thread's last error in GoogleTest's terms.
#pragma once

#include <gtest/gtest.h>

#include <cctype>
#include <cstring>
#include <initializer_list>
#include <string>

#include "int4q.h"

namespace int4q_test {

inline int4q_error LastError() {
    int4q_error error;
    std::memset(&error, 0, sizeof error);
    error.struct_size = sizeof error;
    EXPECT_EQ(int4q_last_error(&error), INT4Q_OK);
    return error;
}

inline std::string Describe(int4q_status status) {
    std::string text = int4q_status_string(status);
    if (status != INT4Q_OK) text += std::string(" (last error: ") + LastError().message + ")";
    return text;
}

inline ::testing::AssertionResult IsOk(int4q_status status) {
    if (status == INT4Q_OK) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << Describe(status);
}

#define EXPECT_OK(expression) EXPECT_TRUE(::int4q_test::IsOk(expression)) << #expression
#define ASSERT_OK(expression) ASSERT_TRUE(::int4q_test::IsOk(expression)) << #expression

// The last identifier in the name of an argument: "args->x" and "desc.scheme.kind" are about x and kind.
inline std::string LastIdentifier(const std::string &text) {
    size_t end = text.size();
    while (end > 0 && !(std::isalnum(static_cast<unsigned char>(text[end - 1])) || text[end - 1] == '_')) end--;
    // An index in brackets belongs to the name before it.
    if (end < text.size() && text[end] == ']') {
        const size_t bracket = text.rfind('[', end);
        if (bracket != std::string::npos) return LastIdentifier(text.substr(0, bracket));
    }
    size_t begin = end;
    while (begin > 0 && (std::isalnum(static_cast<unsigned char>(text[begin - 1])) || text[begin - 1] == '_')) begin--;
    return text.substr(begin, end - begin);
}

// Leaves an error of another function behind, so that a call that fails without setting one is seen.
inline void PoisonLastError() { int4q_isa_detected(nullptr); }

// Checks the status of a call that must fail and everything that int4q_last_error() says about it.
inline ::testing::AssertionResult FailsLike(int4q_status got, std::initializer_list<int4q_status> wanted,
                                            const char *function, std::initializer_list<const char *> arguments) {
    bool right = false;
    std::string names;
    for (int4q_status status : wanted) {
        right = right || got == status;
        names += std::string(names.empty() ? "" : " or ") + int4q_status_string(status);
    }
    if (!right) return ::testing::AssertionFailure() << "expected " << names << ", got " << Describe(got);
    const int4q_error error = LastError();
    if (error.status != got) {
        return ::testing::AssertionFailure() << "returned " << int4q_status_string(got) << " but last error has "
                                             << int4q_status_string(error.status);
    }
    for (const char *text : {error.function, error.argument, error.value, error.expected, error.message}) {
        if (!text) return ::testing::AssertionFailure() << "a NULL string in int4q_error";
    }
    if (std::strcmp(error.function, function) != 0) {
        return ::testing::AssertionFailure() << "error names function \"" << error.function << "\", expected \""
                                             << function << "\" (" << error.message << ")";
    }
    bool named = false;
    std::string candidates;
    for (const char *argument : arguments) {
        named = named || LastIdentifier(error.argument) == argument;
        candidates += std::string(candidates.empty() ? "" : " or ") + argument;
    }
    if (!named) {
        return ::testing::AssertionFailure() << "error names argument \"" << error.argument << "\", expected "
                                             << candidates << " (" << error.message << ")";
    }
    if (!*error.value) return ::testing::AssertionFailure() << "empty value (" << error.message << ")";
    if (!*error.expected) return ::testing::AssertionFailure() << "empty expected (" << error.message << ")";
    for (const char *part : {error.function, error.argument, error.value, error.expected}) {
        if (!std::strstr(error.message, part)) {
            return ::testing::AssertionFailure() << "message \"" << error.message << "\" lacks \"" << part << "\"";
        }
    }
    return ::testing::AssertionSuccess();
}

// EXPECT_FAILS(call, status, "function", "argument"...)
#define EXPECT_FAILS(expression, status, function, ...) \
    EXPECT_TRUE((::int4q_test::PoisonLastError(),       \
                 ::int4q_test::FailsLike((expression), {status}, function, {__VA_ARGS__})))
#define EXPECT_FAILS_ANY(expression, statuses, function, ...) \
    EXPECT_TRUE((::int4q_test::PoisonLastError(),             \
                 ::int4q_test::FailsLike((expression), INT4Q_TEST_LIST statuses, function, {__VA_ARGS__})))
#define INT4Q_TEST_LIST(...) {__VA_ARGS__}

}  // namespace int4q_test
