/* SPDX-License-Identifier: Apache-2.0
 * The header by itself in C11: complete, and structs of the sizes that the library and the Python binding count on. */
#include "int4q.h"

_Static_assert(sizeof(int4q_scheme) == 48, "int4q_scheme is fixed");
_Static_assert(sizeof(int4q_error) == 48, "int4q_error");
_Static_assert(sizeof(int4q_tensor_layout) == 56, "int4q_tensor_layout");
_Static_assert(sizeof(int4q_tensor) == 144, "int4q_tensor");
_Static_assert(sizeof(int4q_blob_info) == 184, "int4q_blob_info");
_Static_assert(sizeof(int4q_matmul_desc) == 120, "int4q_matmul_desc");
_Static_assert(sizeof(int4q_matmul_plan) == 360, "int4q_matmul_plan");
_Static_assert(sizeof(int4q_expert) == 32, "int4q_expert");
_Static_assert(sizeof(int4q_matmul_args) == 144, "int4q_matmul_args");
_Static_assert(sizeof(int4q_metrics) == 56, "int4q_metrics");
_Static_assert(sizeof(int4q_double_scales) == 64, "int4q_double_scales");
_Static_assert(sizeof(int4q_outlier_fit) == 40, "int4q_outlier_fit");
_Static_assert(sizeof(int4q_sparse) == 56, "int4q_sparse");
_Static_assert(sizeof(int4q_twin_ranges) == 16, "int4q_twin_ranges is fixed");
_Static_assert(sizeof(int4q_twin_tensor) == 80, "int4q_twin_tensor");
_Static_assert(sizeof(int4q_parts) == 96, "int4q_parts");
_Static_assert(sizeof(int4q_gptq_options) == 80, "int4q_gptq_options");

/* The pool's function is one of the kind that int4q_matmul() takes. */
int4q_parallel_for header_c11_parallel_for(void);
int4q_parallel_for header_c11_parallel_for(void) { return int4q_pool_parallel_for; }
