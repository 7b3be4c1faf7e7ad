// Deterministic random numbers, the same on every standard library, and the knob for the amount of random samples.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

namespace int4q_test {

// SplitMix64.
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}

    uint64_t Bits() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }

    // low..high, both included.
    int64_t Integer(int64_t low, int64_t high) {
        return low + static_cast<int64_t>(Bits() % static_cast<uint64_t>(high - low + 1));
    }

    bool Chance(double probability) { return Uniform() < probability; }

    // [0, 1)
    double Uniform() { return static_cast<double>(Bits() >> 11) * 0x1p-53; }

    float Uniform(float low, float high) { return static_cast<float>(low + (high - low) * Uniform()); }

    // Standard normal: Box and Muller.
    float Normal() {
        const double u = 1.0 - Uniform();
        const double v = Uniform();
        return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v));
    }

    template <typename Container>
    const typename Container::value_type &Pick(const Container &values) {
        return values[static_cast<size_t>(Integer(0, static_cast<int64_t>(values.size()) - 1))];
    }

    template <typename T>
    void Shuffle(std::vector<T> &values) {
        for (size_t i = values.size(); i > 1; i--) {
            std::swap(values[i - 1], values[static_cast<size_t>(Integer(0, static_cast<int64_t>(i) - 1))]);
        }
    }

private:
    uint64_t state_;
};

// INT4Q_TEST_SCALE (default 1) multiplies how many random samples a test takes; at least one is always taken.
inline double TestScale() {
    static const double scale = [] {
        const char *text = std::getenv("INT4Q_TEST_SCALE");
        const double value = text ? std::atof(text) : 1.0;
        return value > 0 ? value : 1.0;
    }();
    return scale;
}

inline int Samples(int count) { return std::max(1, static_cast<int>(std::lround(count * TestScale()))); }

}  // namespace int4q_test
