/* SPDX-License-Identifier: Apache-2.0
 * Quantizes a random matrix to 4 bits, packs it, multiplies by it, and compares with the product in floats. */
#include <int4q.h>
#include <stdio.h>
#include <stdlib.h>

enum { M = 4, N = 256, K = 1024 };

static void check(int4q_status status) {
    if (status == INT4Q_OK) return;
    int4q_error error = {.struct_size = sizeof error};
    int4q_last_error(&error);
    fprintf(stderr, "%s\n", error.message);
    exit(1);
}

static float *random_matrix(int rows, int columns) {
    float *values = malloc(sizeof(float) * (size_t)(rows * columns));
    for (int i = 0; i < rows * columns; i++) values[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    return values;
}

int main(void) {
    float *w = random_matrix(N, K), *x = random_matrix(M, K), *y = malloc(sizeof(float) * M * N);

    /* Quantize: the caller owns the memory, the library says how much. */
    const int4q_scheme scheme = {.kind = INT4Q_KIND_ASYMMETRIC, .group_size = 32, .scale_type = INT4Q_TYPE_F16};
    int4q_tensor_layout sizes = {.struct_size = sizeof sizes};
    check(int4q_tensor_sizes(&scheme, N, K, &sizes));
    const int4q_tensor tensor = {
        .struct_size = sizeof tensor, .scheme = scheme, .n = N, .k = K,
        .codes = malloc(sizes.codes_bytes), .codes_bytes = sizes.codes_bytes,
        .scales = malloc(sizes.scales_bytes), .scales_bytes = sizes.scales_bytes,
        .zero_points = malloc(sizes.zero_points_bytes), .zero_points_bytes = sizes.zero_points_bytes};
    check(int4q_quantize_rows(&tensor, w, INT4Q_TYPE_F32, K, 0, N));

    /* Pack: from here on the blob is all that is needed, in memory or in a file. */
    uint64_t blob_bytes = 0;
    check(int4q_blob_size(&scheme, N, K, &blob_bytes));
    void *blob = aligned_alloc(INT4Q_ALIGNMENT, blob_bytes);
    check(int4q_pack_rows(&tensor, blob, blob_bytes, 0, N));

    /* Multiply: y = x W^T. */
    const int4q_matmul_desc desc = {.struct_size = sizeof desc, .mode = INT4Q_MODE_INT8, .m = M, .n = N, .k = K,
        .scheme = scheme, .x_type = INT4Q_TYPE_F32, .y_type = INT4Q_TYPE_F32, .worker_count = 1};
    int4q_matmul_plan plan;
    check(int4q_matmul_plan_init(&desc, &plan));
    const uint64_t scratch_bytes = (plan.scratch_bytes + 63) / 64 * 64;
    const int4q_matmul_args args = {.struct_size = sizeof args, .x = x, .ldx = K, .blob = blob, .blob_bytes = blob_bytes,
        .y = y, .ldy = N, .scratch = aligned_alloc(INT4Q_ALIGNMENT, scratch_bytes), .scratch_bytes = scratch_bytes};
    check(int4q_matmul(&plan, &args, NULL, NULL));

    /* Compare. */
    float *reference = calloc(M * N, sizeof(float));
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++)
            for (int k = 0; k < K; k++) reference[i * N + j] += x[i * K + k] * w[j * K + k];
    int4q_metrics metrics = {.struct_size = sizeof metrics};
    check(int4q_compare(reference, INT4Q_TYPE_F32, N, y, INT4Q_TYPE_F32, N, M, N, &metrics));
    printf("%d x %d floats: %d bytes; blob: %d bytes; product: SQNR %.1f dB, cosine %.5f\n", N, K, N * K * 4,
           (int)blob_bytes, metrics.sqnr_db, metrics.cosine);
    void *const memory[] = {w, x, y, reference, tensor.codes, tensor.scales, tensor.zero_points, blob, args.scratch};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) free(memory[i]);
    return metrics.sqnr_db > 18 ? 0 : 1;
}
