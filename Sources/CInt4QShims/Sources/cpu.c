/* SPDX-License-Identifier: Apache-2.0
 * Instruction sets that the processor has and the operating system saves. No instruction beyond the baseline runs
 * before this has said yes; xgetbv itself is asked for only where cpuid reports OSXSAVE. */
#include "int4q_platform.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t enabled_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

static int has(uint32_t word, unsigned bit) { return (int)((word >> bit) & 1u); }

/* bf16 22, tiles 24, int8 25; the configuration and the registers saved. Linux has a process ask for the registers, which are
 * large; then all its threads have them. */
static int has_tiles(uint32_t d7, uint64_t state) {
#if defined(I4Q_TILES_MODEL)
    (void)d7, (void)state;
    return 1;
#else
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    if (!has(d7, 22) || !has(d7, 24) || !has(d7, 25) || (state & 0x60000) != 0x60000) return 0;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#endif
}

static uint32_t read_features(void) {
    uint32_t a, b, c1, d, b7, c7, d7;
    if (!__get_cpuid(1, &a, &b, &c1, &d) || !has(c1, 27)) return 0; /* OSXSAVE */
    const uint64_t state = enabled_state();
    if ((state & 0x6) != 0x6) return 0; /* XMM and YMM saved */
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return 0;

    uint32_t features = 0;
    /* AVX 28, FMA 12, F16C 29; AVX2 5 */
    if (has(c1, 28) && has(c1, 12) && has(c1, 29) && has(b7, 5)) features |= I4Q_CPU_AVX2_FMA_F16C;
    /* opmask, ZMM_Hi256, Hi16_ZMM saved; F 16, DQ 17, BW 30, VL 31; VNNI 11 */
    if (features && (state & 0xe0) == 0xe0 && has(b7, 16) && has(b7, 17) && has(b7, 30) && has(b7, 31) && has(c7, 11))
        features |= I4Q_CPU_AVX512VNNI;
#if !defined(I4Q_TILES_MODEL) /* which is also where AVX-512's own way of counting is tested on a processor with a better one */
    if ((features & I4Q_CPU_AVX512VNNI) && has(c7, 14)) features |= I4Q_CPU_AVX512VPOPCNTDQ;
#endif

    uint32_t a1 = 0, more;
    if (a >= 1 && !__get_cpuid_count(7, 1, &a1, &more, &more, &more)) a1 = 0;
    if ((features & I4Q_CPU_AVX2_FMA_F16C) && has(a1, 4)) features |= I4Q_CPU_AVXVNNI;
#if defined(I4Q_TILES_MODEL)
    if (features & I4Q_CPU_AVX512VNNI) features |= I4Q_CPU_AVXVNNI;
#endif
    if ((features & I4Q_CPU_AVX512VNNI) && has(a1, 5)) features |= I4Q_CPU_AVX512BF16;
    if ((features & I4Q_CPU_AVX512BF16) && has_tiles(d7, state)) features |= I4Q_CPU_AMX;
    return features;
}
#else
static uint32_t read_features(void) { return 0; }
#endif

uint32_t i4q_cpu_features(void) {
    static uint32_t cached; /* features + 1; racing threads compute the same value */
    uint32_t value = __atomic_load_n(&cached, __ATOMIC_RELAXED);
    if (value == 0) {
        value = read_features() + 1;
        __atomic_store_n(&cached, value, __ATOMIC_RELAXED);
    }
    return value - 1;
}
