/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "int4q_platform.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void i4q_format_float(double number, char *text, size_t bytes) { snprintf(text, bytes, "%.9g", number); }

/* Read once and copied, since getenv() races with a host's setenv(). */
static char isa_environment[64];

static void read_isa_environment(void) {
    const char *value = getenv("INT4Q_ISA");
    if (value != NULL) strncpy(isa_environment, value, sizeof isa_environment - 1);
}

const char *i4q_isa_environment(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_isa_environment);
    return isa_environment[0] != 0 ? isa_environment : NULL;
}

double i4q_log10(double x) { return log10(x); }
double i4q_log(double x) { return log(x); }
double i4q_exp(double x) { return exp(x); }
double i4q_pow(double x, double y) { return pow(x, y); }
double i4q_erfc(double x) { return erfc(x); }

double i4q_seconds(void) {
    struct timespec now = {0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

const float *i4q_half_of_steps(int positive) {
    static const float negative_steps[16] = {-8, -7, -6, -5, -4, -3, -2, -1};
    static const float positive_steps[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7};
    return positive ? positive_steps : negative_steps;
}

void *i4q_allocate(size_t bytes) {
    void *memory = NULL;
    return posix_memalign(&memory, 64, bytes) == 0 ? memory : NULL;
}

void i4q_release(void *memory) { free(memory); }

uint32_t *i4q_isa_limit_word(void) {
    static uint32_t word = UINT32_MAX; /* no limit by call */
    return &word;
}
