// SPDX-License-Identifier: Apache-2.0
// How many operations AMX does on its tiles: tdpbssd (int8) and tdpbf16ps (bfloat16).
#include <benchmark/benchmark.h>

#include "limits/best_time.hpp"
#include "limits/limits.hpp"

#if defined(__x86_64__) && defined(__linux__)
#define INT4Q_BENCH_AMX 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace int4q_bench {

#ifdef INT4Q_BENCH_AMX
namespace {

// All eight tiles have the full size: 16 rows of 64 bytes, that is, of 64 int8, 32 bfloat16 or 16 sums.
constexpr int kTileCount = 8;
constexpr int kTileRows = 16;
constexpr int kRowBytes = 64;

// An instruction takes 16 cycles and its result 52, which four independent sums hide. Two left and two right factors give
// four.
constexpr int kSums = 4;
constexpr int kRounds = 400'000;

// What ldtilecfg reads, for palette 1.
struct alignas(64) TileConfiguration {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfiguration) == 64, "the processor's layout");

struct alignas(64) Tile {
    uint16_t words[kTileRows * kRowBytes / 2];
};

// Tiles 0 to 3 are sums, 4 and 5 left factors, 6 and 7 right ones, all made of the same word.
__attribute__((target("amx-tile"))) void SetTiles(uint16_t word) {
    TileConfiguration configuration;
    for (int i = 0; i < kTileCount; i++) {
        configuration.row_bytes[i] = kRowBytes;
        configuration.rows[i] = kTileRows;
    }
    Tile factor;
    for (uint16_t &each : factor.words) each = word;
    // GCC 12 takes ldtilecfg to read 8 bytes and tileloadd to read none: it must have written all before.
    __asm__ volatile("" : : "r"(&configuration), "r"(&factor) : "memory");
    _tile_loadconfig(&configuration);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, &factor, kRowBytes);
    _tile_loadd(5, &factor, kRowBytes);
    _tile_loadd(6, &factor, kRowBytes);
    _tile_loadd(7, &factor, kRowBytes);
    __asm__ volatile("" : : "r"(&configuration), "r"(&factor) : "memory");  // and not reuse their memory until here
}

// The compiler keeps these instructions though nobody asks for the sums.
__attribute__((target("amx-tile,amx-int8,amx-bf16"))) void MultiplyInt8(int) {
    SetTiles(0x0F0F);  // 15, 15
    for (int round = 0; round < kRounds; round++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_release();
}

__attribute__((target("amx-tile,amx-int8,amx-bf16"))) void MultiplyBf16(int) {
    SetTiles(0x3F80);  // 1
    for (int round = 0; round < kRounds; round++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
}

bool ProcessorHasTiles() {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1U << 27)) return false;  // OSXSAVE, without which there is no xgetbv
    uint32_t state, high;
    __asm__ volatile("xgetbv" : "=a"(state), "=d"(high) : "c"(0));
    constexpr uint32_t kTileState = 1U << 17 | 1U << 18;  // the system saves configuration and tiles
    if ((state & kTileState) != kTileState) return false;
    constexpr uint32_t kFeatures = 1U << 22 | 1U << 24 | 1U << 25;  // AMX-BF16, AMX-TILE, AMX-INT8
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kFeatures) == kFeatures;
}

// Linux lets a process use the tiles once it has asked; threads started later may, too.
bool SystemGrantsTiles() {
    constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

std::optional<double> Rate(int threads, int products_per_sum, void (*work)(int)) {
    static const bool has_tiles = ProcessorHasTiles() && SystemGrantsTiles();
    if (!has_tiles) return std::nullopt;
    constexpr double kSumsOfTile = kTileRows * kRowBytes / 4.0;
    return 2.0 * threads * products_per_sum * kSumsOfTile * kSums * kRounds / BestTime(threads, work);
}

}  // namespace

std::optional<double> MeasureAmxInt8(int threads) { return Rate(threads, kRowBytes, MultiplyInt8); }
std::optional<double> MeasureAmxBf16(int threads) { return Rate(threads, kRowBytes / 2, MultiplyBf16); }

#else

std::optional<double> MeasureAmxInt8(int) { return std::nullopt; }
std::optional<double> MeasureAmxBf16(int) { return std::nullopt; }

#endif

}  // namespace int4q_bench
