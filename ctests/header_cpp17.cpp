// SPDX-License-Identifier: Apache-2.0
// Both headers by themselves in C++17, included twice and from two names.
#include "int4q.h"
#include "int4q.hpp"
// NOLINTNEXTLINE
#include "int4q.h"
#include "int4q.hpp"

#include <type_traits>

static_assert(std::is_standard_layout_v<int4q_matmul_plan> && std::is_trivially_copyable_v<int4q_matmul_plan>);
static_assert(std::is_trivially_copyable_v<int4q_tensor> && std::is_trivially_copyable_v<int4q_scheme>);
static_assert(std::is_nothrow_copy_constructible_v<int4q::Error>);
