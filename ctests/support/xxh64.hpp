// XXH64 as its specification describes it (xxHash, algorithm XXH64), for checking and re-signing blobs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace int4q_test {

inline uint64_t Xxh64(const void *data, size_t length, uint64_t seed = 0) {
    constexpr uint64_t p1 = 0x9e3779b185ebca87u, p2 = 0xc2b2ae3d27d4eb4fu, p3 = 0x165667b19e3779f9u,
                       p4 = 0x85ebca77c2b2ae63u, p5 = 0x27d4eb2f165667c5u;
    const auto rotate = [](uint64_t x, int by) { return (x << by) | (x >> (64 - by)); };
    const auto round = [&](uint64_t lane, uint64_t input) { return rotate(lane + input * p2, 31) * p1; };
    const auto read64 = [](const unsigned char *p) {
        uint64_t v;
        std::memcpy(&v, p, 8);
        return v;
    };
    const auto *p = static_cast<const unsigned char *>(data);
    const unsigned char *end = p + length;
    uint64_t hash;
    if (length >= 32) {
        uint64_t lanes[4] = {seed + p1 + p2, seed + p2, seed, seed - p1};
        for (; end - p >= 32; p += 32) {
            for (int i = 0; i < 4; i++) lanes[i] = round(lanes[i], read64(p + 8 * i));
        }
        hash = rotate(lanes[0], 1) + rotate(lanes[1], 7) + rotate(lanes[2], 12) + rotate(lanes[3], 18);
        for (uint64_t lane : lanes) hash = (hash ^ round(0, lane)) * p1 + p4;
    } else {
        hash = seed + p5;
    }
    hash += length;
    for (; end - p >= 8; p += 8) hash = rotate(hash ^ round(0, read64(p)), 27) * p1 + p4;
    if (end - p >= 4) {
        uint32_t word;
        std::memcpy(&word, p, 4);
        hash = rotate(hash ^ (word * p1), 23) * p2 + p3;
        p += 4;
    }
    for (; p < end; p++) hash = rotate(hash ^ (*p * p5), 11) * p1;
    hash = (hash ^ (hash >> 33)) * p2;
    hash = (hash ^ (hash >> 29)) * p3;
    return hash ^ (hash >> 32);
}

}  // namespace int4q_test
