/*
 * What the library needs from the system and Swift cannot reach without its runtime or Foundation. See ../README.md.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef INT4Q_PLATFORM_H
#define INT4Q_PLATFORM_H

#include <stddef.h>
#include <stdint.h>

/* ---- cpu.c: what processor and operating system offer together, read once ---- */
enum {
    I4Q_CPU_AVX2_FMA_F16C = 1,
    I4Q_CPU_AVX512VNNI = 2, /* with F, BW, VL, DQ */
    I4Q_CPU_AVXVNNI = 4,
    I4Q_CPU_AVX512BF16 = 8,
    I4Q_CPU_AVX512VPOPCNTDQ = 32, /* beside AVX512VNNI */
    I4Q_CPU_AMX = 16 /* int8 and bf16, and the system has granted the tile registers */
};
uint32_t i4q_cpu_features(void);

/* ---- error.c: the calling thread's latest failure ---- */
enum { I4Q_ERROR_TEXT_BYTES = 96, I4Q_ERROR_MESSAGE_BYTES = 320 };
typedef struct i4q_error_text {
    int32_t status;
    const char *function;
    const char *argument;
    char value[I4Q_ERROR_TEXT_BYTES];
    char expected[I4Q_ERROR_TEXT_BYTES];
    char message[I4Q_ERROR_MESSAGE_BYTES];
} i4q_error_text;
i4q_error_text *i4q_thread_error(void);
/* What a failure on its way up is about; zeros at first. */
enum { I4Q_FAILURE_BYTES = 128 };
void *i4q_thread_failure(void);

/* ---- system.c ---- */
/* Writes number as "%.9g" into text[bytes], zero-terminated. */
void i4q_format_float(double number, char *text, size_t bytes);
/* INT4Q_ISA as it stood when first asked for, cut to 63 bytes; NULL if unset or empty. */
const char *i4q_isa_environment(void);
double i4q_log10(double x);
double i4q_log(double x);
double i4q_exp(double x);
double i4q_pow(double x, double y);
double i4q_erfc(double x);
/* Of a clock that never goes back; from an arbitrary start. */
double i4q_seconds(void);
/* min(q - 8, 0) or max(q - 8, 0) for q in 0..15: codebooks that tensors may refer to as long as the library is loaded. */
const float *i4q_half_of_steps(int positive);
void *i4q_allocate(size_t bytes);
void i4q_release(void *memory);

/* ---- threads.c: threads, and sleeping on a 32-bit word ---- */
typedef void (*i4q_thread_main)(void *context);
/* Starts a thread with all signals blocked; *handle is to be joined. 0, or an errno value. */
int i4q_thread_start(i4q_thread_main main, void *context, uint64_t *handle);
void i4q_thread_join(uint64_t handle);
/* The number of this process: another one after a fork. */
int32_t i4q_process(void);
/* Sleeps while *word == value (may return early); wakes all that sleep on the word. */
void i4q_wait(const uint32_t *word, uint32_t value);
void i4q_wake_all(const uint32_t *word);

/* ---- atomics: sequentially consistent unless named otherwise ---- */
#define I4Q_INLINE static inline __attribute__((always_inline))
I4Q_INLINE uint32_t i4q_atomic_load_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
I4Q_INLINE void i4q_atomic_store_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
I4Q_INLINE uint32_t i4q_atomic_add_u32(uint32_t *p, uint32_t v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
I4Q_INLINE int64_t i4q_atomic_add_i64(int64_t *p, int64_t v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
I4Q_INLINE void i4q_atomic_store_i64(int64_t *p, int64_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
/* *p = min(*p, v) */
I4Q_INLINE void i4q_atomic_least_i64(int64_t *p, int64_t v) {
    int64_t seen = __atomic_load_n(p, __ATOMIC_SEQ_CST);
    while (v < seen && !__atomic_compare_exchange_n(p, &seen, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
}
/* Replaces `expected` by `desired`; nonzero if it did. */
I4Q_INLINE int32_t i4q_atomic_exchange_u32(uint32_t *p, uint32_t expected, uint32_t desired) {
    return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
I4Q_INLINE void i4q_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- floating-point mode: rounding, flushing of denormals, traps. The host's is kept and given back. ---- */
I4Q_INLINE uint64_t i4q_float_mode_enter(void) {
#if defined(__x86_64__)
    uint32_t host, standard = 0x1f80; /* half to even, nothing flushed, no traps */
    __asm__ volatile("stmxcsr %0" : "=m"(host));
    if ((host & ~0x3fu) != standard) __asm__ volatile("ldmxcsr %0" : : "m"(standard));
    return host;
#elif defined(__aarch64__)
    uint64_t host;
    __asm__ volatile("mrs %0, fpcr" : "=r"(host));
    if (host != 0) __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return host;
#else
    return 0;
#endif
}
I4Q_INLINE void i4q_float_mode_leave(uint64_t host) {
#if defined(__x86_64__)
    const uint32_t mode = (uint32_t)host;
    __asm__ volatile("ldmxcsr %0" : : "m"(mode));
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(host));
#else
    (void)host;
#endif
}

/* ---- the process-wide limit of int4q_isa_set_limit(), see Int4QCore/Matmul/Dispatch.swift ---- */
uint32_t *i4q_isa_limit_word(void);

#endif
