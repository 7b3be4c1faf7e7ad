// SPDX-License-Identifier: Apache-2.0
// libFuzzer's entry: bytes from anywhere as saved statistics, a Gram matrix and behind it a cross matrix, or a cross matrix alone,
// through the functions that take one. Free of GoogleTest; what must hold is checked by abort().
//
// An input's first two bytes choose a scheme and options (Choices), and whether the headers' sizes are made to agree with one
// another, so that mutations of k get past them. How to configure: fuzz_blob.cpp.
//
//     ninja -C build/fuzz fuzz_statistics fuzz_statistics_replay
//     build/fuzz/ctests/fuzz_statistics_replay --write-seeds build/fuzz/statistics-seeds
//     build/fuzz/ctests/fuzz_statistics -max_len=20000 -max_total_time=600 build/fuzz/statistics-corpus build/fuzz/statistics-seeds
//
// replay_statistics.cpp runs this entry without a fuzzer, with every test run.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "fuzz/guarded_memory.hpp"
#include "fuzz/saved_statistics.hpp"

// How many inputs had a valid header, were wholly valid, went through GPTQ. Read by replay_statistics.cpp.
extern "C" uint64_t fuzz_statistics_counts[3];
uint64_t fuzz_statistics_counts[3];

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

namespace {

using int4q_fuzz::GuardedMemory;
using int4q_fuzz::kCross;
using int4q_fuzz::kGram;
using int4q_fuzz::RequireRefusal;
using int4q_fuzz::Statistics;

template <typename T>
T New() {
    T value;
    std::memset(static_cast<void *>(&value), 0, sizeof value);
    value.struct_size = sizeof value;
    return value;
}

struct Choices {
    int32_t kind, code_bits, group_size, order;
    int4q_type scale_type;
    uint32_t flags;
    double damping, threshold;
    bool repairs, refits;
    int64_t n;

    explicit Choices(const uint8_t *bytes) {
        const uint8_t a = bytes[0], b = bytes[1];
        const int32_t groups[] = {16, 32, INT4Q_GROUP_PER_ROW, 16};
        kind = INT4Q_KIND_SYMMETRIC + (a & 3);
        code_bits = a & 4 && kind != INT4Q_KIND_CODEBOOK ? 8 : 0;
        group_size = groups[a >> 3 & 3];
        order = (a >> 5 & 3) % 3;
        scale_type = a & 128 ? INT4Q_TYPE_F16 : INT4Q_TYPE_F32;
        flags = b & 7;
        damping = b & 8 ? 0.01 : 0;
        repairs = b & 16;
        n = b & 32 ? 3 : 18;
        refits = b & 64;
        threshold = b & 128 ? 0 : 0.75;
    }
};

// Bytes of a file in memory of just their size.
struct Saved {
    const Statistics &of;
    GuardedMemory memory;
    uint64_t bytes;
    bool has_header = false, is_valid = false, is_symmetric = true;
    int4q_gram_info info;
    std::vector<double> matrix;  // of few channels
    double largest = 0;

    Saved(const Statistics &of_, const uint8_t *data, size_t size) : of(of_), memory(size), bytes(size) {
        if (size) std::memcpy(memory.data(), data, size);
        memory.Freeze();
        info = New<int4q_gram_info>();
        const int4q_status header = of.get_info(memory.data(), bytes, &info);
        has_header = header == INT4Q_OK;
        if (!has_header) RequireHeaderRefusal(header, of.name, of.bytes_name);
        const int4q_status valid = of.validate(memory.data(), bytes);
        is_valid = valid == INT4Q_OK;
        if (!is_valid) RequireHeaderRefusal(valid, of.name, of.bytes_name);
        REQUIRE(has_header ? is_valid || valid == INT4Q_ERROR_CORRUPT : valid == header);
        if (!has_header) {
            Refuse();
            return;
        }
        REQUIRE(info.total_bytes <= bytes && info.k > 0 && info.total_bytes == of.Bytes(info.k));
        REQUIRE(!is_valid || (info.rows >= 0 && info.batches >= 0 && info.batches <= info.rows));
        if (!IsSmall()) return;
        Read();
        Merge();
        if (is_valid) CheckCanonical();
    }

    bool IsSmall() const { return has_header && info.k < int4q_fuzz::kTooManyChannels; }
    // What is multiplied with weights does not overflow.
    bool IsModerate() const { return is_valid && is_symmetric && largest <= 1e100; }
    const uint8_t *data() { return memory.data(); }

    static void RequireHeaderRefusal(int4q_status status, const char *name, const char *bytes_name) {
        RequireRefusal(status, {INT4Q_ERROR_CORRUPT, INT4Q_ERROR_BUFFER_TOO_SMALL, INT4Q_ERROR_BLOB_VERSION}, {name, bytes_name});
        if (status == INT4Q_ERROR_CORRUPT) RequireRefusal(status, {status}, {name});
        if (status == INT4Q_ERROR_BUFFER_TOO_SMALL) RequireRefusal(status, {status}, {bytes_name});
    }

private:
    void Refuse() {
        GuardedMemory fresh(static_cast<size_t>(of.Bytes(1)));
        REQUIRE(of.init(1, fresh.data(), of.Bytes(1)) == INT4Q_OK);
        RequireHeaderRefusal(of.merge(fresh.data(), of.Bytes(1), data(), bytes), "from", "from_bytes");
        double element;
        RequireHeaderRefusal(of.matrix(data(), bytes, &element, 1, 0, 1), of.name, of.bytes_name);
        int4q_channel channel;
        if (of.is_gram) RequireHeaderRefusal(int4q_gram_channels(data(), bytes, 0, 1, &channel), of.name, of.bytes_name);
    }

    void Read() {
        const auto k = static_cast<size_t>(info.k);
        GuardedMemory whole(8 * k * k), wide(8 * k * (k + 3));
        auto *all = reinterpret_cast<double *>(whole.data()), *parts = reinterpret_cast<double *>(wide.data());
        REQUIRE(of.matrix(data(), bytes, all, info.k, 0, info.k) == INT4Q_OK);
        std::memset(parts, 0x5a, 8 * k * (k + 3));
        REQUIRE(of.matrix(data(), bytes, parts, info.k + 3, info.k / 2, info.k) == INT4Q_OK);
        REQUIRE(of.matrix(data(), bytes, parts, info.k + 3, 0, info.k / 2) == INT4Q_OK);
        const std::vector<uint8_t> unwritten(24, 0x5a);
        for (size_t row = 0; row < k; row++) {
            REQUIRE(std::memcmp(parts + row * (k + 3), all + row * k, 8 * k) == 0);
            REQUIRE(std::memcmp(parts + row * (k + 3) + k, unwritten.data(), 24) == 0);
        }
        matrix.assign(all, all + k * k);
        for (size_t i = 0; i < k * k; i++) {
            REQUIRE(!is_valid || std::isfinite(matrix[i]));
            REQUIRE(!of.is_gram || std::memcmp(&matrix[i], &matrix[i % k * k + i / k], 8) == 0);
            REQUIRE(!of.is_gram || !is_valid || i % (k + 1) != 0 || matrix[i] >= 0);
            largest = std::max(largest, std::fabs(matrix[i]));
        }
        if (!of.is_gram) return;
        GuardedMemory room(k * sizeof(int4q_channel));
        const auto *channels = reinterpret_cast<int4q_channel *>(room.data());
        REQUIRE(int4q_gram_channels(data(), bytes, 0, info.k, reinterpret_cast<int4q_channel *>(room.data())) == INT4Q_OK);
        for (size_t j = 0; j < k; j++) {
            REQUIRE(std::memcmp(&channels[j].sum_squares, &matrix[j * (k + 1)], 8) == 0);
            if (!is_valid) continue;
            REQUIRE(std::isfinite(channels[j].sum) && std::isfinite(channels[j].sum_magnitudes));
            REQUIRE(channels[j].sum_magnitudes >= 0 && channels[j].max_magnitude >= 0);
        }
    }

    // Merged into an empty one it says the same, into that again twice as much, or nothing changes.
    void Merge() {
        const auto size = static_cast<size_t>(info.total_bytes);
        GuardedMemory merged(size), copy(size);
        REQUIRE(of.init(info.k, merged.data(), size) == INT4Q_OK);
        std::memcpy(copy.data(), merged.data(), size);
        const int4q_status status = of.merge(merged.data(), size, data(), bytes);
        if (!is_valid) {
            RequireRefusal(status, {INT4Q_ERROR_CORRUPT}, {"from"});
            REQUIRE(std::memcmp(copy.data(), merged.data(), size) == 0);
            std::memcpy(copy.data(), data(), size);
            RequireRefusal(of.merge(copy.data(), size, merged.data(), size), {INT4Q_ERROR_CORRUPT}, {"into"});
            REQUIRE(std::memcmp(copy.data(), data(), size) == 0);
            return;
        }
        REQUIRE(status == INT4Q_OK);
        REQUIRE(MatrixOf(merged) == matrix && CountsOf(merged) == CountsOf(memory));
        std::memcpy(copy.data(), merged.data(), size);
        const int4q_status again = of.merge(merged.data(), size, data(), bytes);
        if (again != INT4Q_OK) {
            RequireRefusal(again, {INT4Q_ERROR_SIZE_OVERFLOW, INT4Q_ERROR_NOT_FINITE}, {"from"});
            REQUIRE(std::memcmp(copy.data(), merged.data(), size) == 0);
            return;
        }
        REQUIRE(of.validate(merged.data(), size) == INT4Q_OK);
        const std::vector<double> twice = MatrixOf(merged);
        for (size_t i = 0; i < matrix.size(); i++) REQUIRE(twice[i] == 2 * matrix[i]);
        REQUIRE(CountsOf(merged) == std::make_pair(2 * info.rows, 2 * info.batches));
    }

    std::vector<double> MatrixOf(GuardedMemory &of_these) const {
        std::vector<double> result(matrix.size());
        REQUIRE(of.matrix(of_these.data(), info.total_bytes, result.data(), info.k, 0, info.k) == INT4Q_OK);
        return result;
    }
    std::pair<int64_t, int64_t> CountsOf(GuardedMemory &of_these) const {
        auto other = New<int4q_gram_info>();
        REQUIRE(of.get_info(of_these.data(), info.total_bytes, &other) == INT4Q_OK);
        return {other.rows, other.batches};
    }

    // What is valid has the sums that setting its matrix makes: zeros where there is no channel or row. Only one half of the
    // squares on a Gram matrix's diagonal is not looked at.
    void CheckCanonical() {
        const auto size = static_cast<size_t>(info.total_bytes);
        GuardedMemory again(size);
        REQUIRE(of.init(info.k, again.data(), size) == INT4Q_OK);
        if (info.rows > 0) REQUIRE(of.set(again.data(), size, matrix.data(), info.k, info.rows) == INT4Q_OK);
        const size_t padded = (static_cast<size_t>(info.k) + 15) / 16 * 16;
        size_t count = 0;
        for (size_t first = 0; first < padded; first += 16) count += 16 * (of.is_gram ? first + 16 : padded);
        const auto *a = reinterpret_cast<const double *>(data() + size) - count;
        const auto *b = reinterpret_cast<const double *>(again.data() + size) - count;
        for (size_t first = 0; first < padded; first += 16) {
            for (size_t row = 0; row < (of.is_gram ? first + 16 : padded); row++) {
                for (size_t column = first; column < first + 16; column++, a++, b++) {
                    const bool is_lower = of.is_gram && row > column && row < static_cast<size_t>(info.k);
                    if (is_lower) {
                        is_symmetric = is_symmetric && *a == *b;
                    } else {
                        REQUIRE(*a == *b);
                    }
                }
            }
        }
    }
};

// Weights and a tensor of them, rounded to nearest.
struct Layer {
    int64_t n, k;
    int4q_scheme scheme;
    std::vector<float> weights;
    float codebook[16];
    int4q_tensor tensor;

    Layer(const Choices &choices, int64_t k_) : n(choices.n), k(k_) {
        std::memset(&scheme, 0, sizeof scheme);
        scheme.kind = choices.kind;
        scheme.code_bits = choices.code_bits;
        scheme.group_size = choices.group_size;
        scheme.scale_type = choices.scale_type;
        for (int i = 0; i < 16; i++) codebook[i] = static_cast<float>(i - 8) * (i < 8 ? 0.125f : 0.1f) + 0.01f;
        weights.resize(static_cast<size_t>(n * k));
        uint32_t state = 12345;
        for (float &weight : weights) weight = static_cast<float>((state = state * 1664525 + 1013904223) >> 8) * 0x1p-23f - 1.0f;
        auto layout = New<int4q_tensor_layout>();
        REQUIRE(int4q_tensor_sizes(&scheme, n, k, &layout) == INT4Q_OK);
        tensor = New<int4q_tensor>();
        tensor.scheme = scheme;
        tensor.n = n;
        tensor.k = k;
        tensor.codes = Take(0, tensor.codes_bytes = layout.codes_bytes);
        tensor.scales = Take(1, tensor.scales_bytes = layout.scales_bytes);
        tensor.zero_points = Take(2, tensor.zero_points_bytes = layout.zero_points_bytes);
        tensor.offsets = Take(3, tensor.offsets_bytes = layout.offsets_bytes);
        if (scheme.kind == INT4Q_KIND_CODEBOOK) tensor.codebook = codebook;
        RoundToNearest();
    }

    void RoundToNearest() { REQUIRE(int4q_quantize_rows(&tensor, weights.data(), INT4Q_TYPE_F32, k, 0, n) == INT4Q_OK); }

    std::vector<float> Values() const {
        std::vector<float> values(weights.size());
        REQUIRE(int4q_dequantize_rows(&tensor, values.data(), INT4Q_TYPE_F32, k, 0, n) == INT4Q_OK);
        for (float value : values) REQUIRE(std::isfinite(value));
        return values;
    }

private:
    std::unique_ptr<GuardedMemory> parts_[4];

    void *Take(int part, uint64_t bytes) {
        parts_[part] = std::make_unique<GuardedMemory>(static_cast<size_t>(bytes));
        return bytes ? parts_[part]->data() : nullptr;
    }
};

// Whatever a method computes with: scratch of just the size that it asks for.
template <typename Size>
GuardedMemory Scratch(uint64_t &bytes, const Size &size) {
    REQUIRE(size(&bytes) == INT4Q_OK);
    return GuardedMemory(static_cast<size_t>(bytes));
}

int4q_gptq_options Options(const Choices &choices, Saved *cross) {
    auto options = New<int4q_gptq_options>();
    options.worker_count = 1;
    options.damping = choices.damping;
    options.damping_step = 0.5;
    options.attempts = 3;
    if (!cross) return options;
    options.cross = cross->data();
    options.cross_bytes = cross->bytes;
    options.alpha = 0.75;
    return options;
}

// The loss of each row, and what rounding may have done to it.
struct Loss {
    std::vector<long double> losses, sums;

    Loss(const Layer &layer, const Saved &gram, const Saved *cross) {
        const std::vector<float> values = layer.Values();
        const auto k = static_cast<size_t>(layer.k);
        for (size_t row = 0; row < static_cast<size_t>(layer.n); row++) {
            const float *w = layer.weights.data() + row * k, *v = values.data() + row * k;
            long double loss = 0, sum = 0;
            const auto add = [&](long double term) {
                loss += term;
                sum += std::fabs(term);
            };
            for (size_t i = 0; i < k; i++) {
                for (size_t j = 0; j < k; j++) {
                    const auto error = static_cast<long double>(w[j] - v[j]);
                    add(static_cast<long double>(w[i] - v[i]) * error * static_cast<long double>(gram.matrix[i * k + j]));
                    if (cross) add(2 * static_cast<long double>(w[i]) * error * static_cast<long double>(cross->matrix[i * k + j]));
                }
            }
            const long double rows = gram.info.rows ? static_cast<long double>(gram.info.rows) : HUGE_VALL;
            losses.push_back(loss / rows);
            sums.push_back(sum / rows);
        }
    }
};

void CheckLoss(const Layer &layer, Saved &gram, Saved *cross) {
    uint64_t bytes = 0;
    auto scratch = Scratch(bytes, [&](uint64_t *size) {
        return (cross ? int4q_cross_loss_scratch : int4q_gram_loss_scratch)(layer.k, size);
    });
    GuardedMemory room(8 * static_cast<size_t>(layer.n));
    auto *losses = reinterpret_cast<double *>(room.data());
    const float *weights = layer.weights.data();
    const int4q_status status =
        cross ? int4q_cross_loss(&layer.tensor, weights, INT4Q_TYPE_F32, layer.k, gram.data(), gram.bytes, cross->data(),
                                 cross->bytes, scratch.data(), bytes, losses, 0, layer.n)
              : int4q_gram_loss(&layer.tensor, weights, INT4Q_TYPE_F32, layer.k, gram.data(), gram.bytes, scratch.data(), bytes,
                                losses, 0, layer.n);
    if (cross && (cross->info.k != gram.info.k || cross->info.rows != gram.info.rows)) {
        return RequireRefusal(status, {INT4Q_ERROR_MISMATCH}, {"cross"});
    }
    REQUIRE(status == INT4Q_OK);
    if (!gram.IsModerate() || (cross && !cross->IsModerate())) return;
    const Loss expected(layer, gram, cross);
    for (size_t row = 0; row < expected.losses.size(); row++) {
        const long double off = std::fabs(static_cast<long double>(losses[row]) - expected.losses[row]);
        REQUIRE(off <= 1e-12L * expected.sums[row] + std::numeric_limits<double>::min());
    }
}

// Where GPTQ does not improve on rounding to nearest, a row keeps its codes; to about 5 digits of the damped loss.
void CheckNotWorse(Layer &layer, Saved &gram, double damping) {
    const auto k = static_cast<size_t>(layer.k);
    long double mean = 0;
    for (size_t j = 0; j < k; j++) {
        const double square = gram.matrix[j * (k + 1)];
        // A dead channel counts as one of a mean square there.
        if (square == 0) return;
        mean += static_cast<long double>(square) / static_cast<long double>(k);
    }
    const auto damped = [&] {
        std::vector<long double> sums;
        const std::vector<float> values = layer.Values();
        for (size_t i = 0; i < values.size(); i++) {
            if (i % k == 0) sums.push_back(0);
            const long double error = static_cast<long double>(layer.weights[i]) - static_cast<long double>(values[i]);
            sums.back() += error * error * mean * static_cast<long double>(damping) / static_cast<long double>(gram.info.rows);
        }
        return sums;
    };
    const Loss after(layer, gram, nullptr);
    const auto damped_after = damped();
    layer.RoundToNearest();
    const Loss nearest(layer, gram, nullptr);
    const auto damped_nearest = damped();
    for (size_t row = 0; row < after.losses.size(); row++) {
        const long double whole = after.sums[row] + nearest.sums[row] + damped_after[row] + damped_nearest[row];
        REQUIRE(after.losses[row] <= nearest.losses[row] + 1e-4L * whole);
    }
}

void RunGptq(const Choices &choices, Layer &layer, Saved &gram, Saved *cross) {
    auto options = Options(choices, cross);
    options.flags = choices.flags;
    options.order = choices.order;
    uint64_t bytes = 0;
    auto scratch = Scratch(bytes, [&](uint64_t *size) {
        return (cross ? int4q_gptq_cross_scratch : int4q_gptq_scratch)(&layer.scheme, layer.k, 1, size);
    });
    auto report = New<int4q_gptq_report>();
    const int4q_status status =
        int4q_gptq_quantize(&layer.tensor, layer.weights.data(), INT4Q_TYPE_F32, layer.k, gram.data(), gram.bytes, &options,
                            scratch.data(), bytes, nullptr, nullptr, &report);
    const bool is_finite =
        std::all_of(gram.matrix.begin(), gram.matrix.end(), [](double value) { return std::isfinite(value); });
    if (status == INT4Q_OK) {
        fuzz_statistics_counts[2]++;
        layer.Values();
        REQUIRE(!gram.is_valid || (report.rows == gram.info.rows && report.nearest_rows >= 0 && report.nearest_rows <= layer.n));
        REQUIRE(is_finite);
        if (gram.IsModerate() && gram.info.rows > 0 && !cross && !(options.flags & INT4Q_GPTQ_CLEAR_DEAD_CHANNELS)) {
            CheckNotWorse(layer, gram, report.damping);
        }
        return;
    }
    REQUIRE(is_finite || status == INT4Q_ERROR_CORRUPT || status == INT4Q_ERROR_MISMATCH || status == INT4Q_ERROR_UNSUPPORTED);
    switch (status) {
        case INT4Q_ERROR_INVALID_ARGUMENT: return RequireRefusal(status, {status}, {"options.damping"});
        case INT4Q_ERROR_UNSUPPORTED: return RequireRefusal(status, {status}, {"options.order"});
        case INT4Q_ERROR_MISMATCH:
            REQUIRE(cross && (cross->info.k != gram.info.k || cross->info.rows != gram.info.rows));
            return RequireRefusal(status, {status}, {"options.cross"});
        case INT4Q_ERROR_CORRUPT:  // of a cross matrix, also one that does not go with the Gram matrix
            REQUIRE(cross || !gram.is_valid);
            return RequireRefusal(status, {status}, {"gram", "options.cross"});
        default: REQUIRE(!"another status");
    }
}

void RunShift(const Choices &choices, const Layer &layer, Saved &gram, Saved &cross) {
    const auto options = Options(choices, &cross);
    uint64_t bytes = 0;
    auto scratch = Scratch(bytes, [&](uint64_t *size) { return int4q_cross_shift_scratch(layer.k, 1, size); });
    GuardedMemory shifted(4 * layer.weights.size());
    double damping = -1;
    const int4q_status status = int4q_cross_shift(layer.weights.data(), INT4Q_TYPE_F32, layer.k, gram.data(), gram.bytes, &options,
                                                  scratch.data(), bytes, nullptr, nullptr, shifted.data(), INT4Q_TYPE_F32, layer.k,
                                                  layer.n, layer.k, &damping);
    if (status == INT4Q_OK) {
        REQUIRE(damping >= choices.damping);
    } else {
        RequireRefusal(status, {INT4Q_ERROR_INVALID_ARGUMENT, INT4Q_ERROR_MISMATCH, INT4Q_ERROR_CORRUPT},
                       {"options.damping", "options.cross", "gram"});
        REQUIRE(status != INT4Q_ERROR_MISMATCH || cross.info.k != gram.info.k || cross.info.rows != gram.info.rows);
    }
}

void RunDescent(const Choices &choices, Layer &layer, Saved &gram) {
    layer.RoundToNearest();
    uint64_t bytes = 0;
    auto scratch = Scratch(bytes, [&](uint64_t *size) { return int4q_gram_descend_scratch(&layer.scheme, layer.k, size); });
    auto options = New<int4q_descent_options>();
    options.sweeps = 3;
    options.flags = choices.refits ? uint32_t{INT4Q_DESCENT_REFIT_SCALES} : 0;
    auto report = New<int4q_descent_report>();
    REQUIRE(int4q_gram_descend(&layer.tensor, layer.weights.data(), INT4Q_TYPE_F32, layer.k, gram.data(), gram.bytes, &options,
                               scratch.data(), bytes, 0, layer.n, &report) == INT4Q_OK);
    layer.Values();
    REQUIRE(!gram.is_valid || !(report.loss > report.start_loss));
    if (layer.scheme.code_bits == 8) return;
    auto search = New<int4q_scale_search>();
    search.rounds = 2;
    search.reach = 0.1;
    auto found = New<int4q_scale_search_report>();
    REQUIRE(int4q_gram_search_scales(&layer.tensor, layer.weights.data(), INT4Q_TYPE_F32, layer.k, gram.data(), gram.bytes, &search,
                                     scratch.data(), bytes, 0, layer.n, &found) == INT4Q_OK);
    layer.Values();
    REQUIRE(!gram.is_valid || !(found.loss > found.start_loss));
}

void RunLearning(const Choices &choices, Layer &layer, Saved &gram) {
    layer.RoundToNearest();
    uint64_t bytes = 0;
    auto scratch = Scratch(bytes, [&](uint64_t *size) { return int4q_learn_rounding_scratch(&layer.scheme, layer.k, 1, size); });
    auto options = New<int4q_learning_options>();
    options.worker_count = 1;
    options.method = choices.refits ? INT4Q_LEARN_ADAROUND : INT4Q_LEARN_AUTOROUND;
    options.iterations = 2;
    options.step = 0.1;
    options.range_step = 0.1;
    options.least_range = 0.5;
    options.most_range = 1;
    options.regularization = 30;
    options.first_exponent = 20;
    options.last_exponent = 2;
    auto report = New<int4q_learning_report>();
    const int4q_status status =
        int4q_learn_rounding(&layer.tensor, layer.weights.data(), INT4Q_TYPE_F32, layer.k, gram.data(), gram.bytes, &options,
                             scratch.data(), bytes, nullptr, nullptr, &report);
    if (status != INT4Q_OK) return RequireRefusal(status, {gram.is_valid ? INT4Q_OK : INT4Q_ERROR_CORRUPT}, {"gram"});
    layer.Values();
    REQUIRE(!gram.is_valid || !(report.loss > report.start_loss));
}

void RunAwq(const Layer &layer, Saved &gram) {
    uint64_t bytes = 0;
    GuardedMemory scales(4 * static_cast<size_t>(layer.k));
    {
        auto scratch = Scratch(bytes, [&](uint64_t *size) { return int4q_awq_scratch(&layer.scheme, layer.n, layer.k, 1, size); });
        auto options = New<int4q_awq_options>();
        options.worker_count = 1;
        options.steps = 4;
        auto report = New<int4q_awq_report>();
        const int4q_status status =
            int4q_awq_search(&layer.scheme, layer.tensor.codebook, layer.n, layer.k, layer.weights.data(), INT4Q_TYPE_F32, layer.k,
                             gram.data(), gram.bytes, &options, scratch.data(), bytes, nullptr, nullptr,
                             reinterpret_cast<float *>(scales.data()), &report);
        REQUIRE(status == INT4Q_OK || status == INT4Q_ERROR_NOT_FINITE || (status == INT4Q_ERROR_CORRUPT && !gram.is_valid));
        for (int64_t j = 0; status == INT4Q_OK && j < layer.k; j++) {
            const float scale = reinterpret_cast<float *>(scales.data())[j];
            REQUIRE(scale > 0 && std::isfinite(scale));
        }
    }
    auto scratch = Scratch(bytes, [&](uint64_t *size) { return int4q_awq_clip_scratch(&layer.scheme, layer.k, size); });
    const int64_t size = layer.scheme.group_size == INT4Q_GROUP_PER_ROW ? layer.k : layer.scheme.group_size;
    GuardedMemory clips(4 * static_cast<size_t>(layer.n * ((layer.k + size - 1) / size))), clipped(4 * layer.weights.size());
    REQUIRE(int4q_awq_clip(&layer.scheme, layer.tensor.codebook, layer.n, layer.k, layer.weights.data(), INT4Q_TYPE_F32, layer.k,
                           gram.data(), gram.bytes, 8, 3, scratch.data(), bytes, reinterpret_cast<float *>(clips.data()),
                           clipped.data(), INT4Q_TYPE_F32, layer.k, 0, layer.n) == INT4Q_OK);
}

void RunLowRank(const Layer &layer, Saved &gram) {
    auto factors = New<int4q_lowrank>();
    factors.type = INT4Q_TYPE_F32;
    factors.n = layer.n;
    factors.k = layer.k;
    factors.rank = 1;
    factors.a_stride = 1;
    factors.b_stride = layer.k;
    GuardedMemory a(4 * static_cast<size_t>(layer.n)), b(4 * static_cast<size_t>(layer.k));
    factors.a = a.data();
    factors.b = b.data();
    auto options = New<int4q_lowrank_options>();
    options.worker_count = 1;
    options.iterations = 1;
    uint64_t bytes = 0;
    auto scratch = Scratch(bytes, [&](uint64_t *size) { return int4q_lowrank_scratch(layer.n, layer.k, 1, 1, size); });
    auto report = New<int4q_lowrank_report>();
    const int4q_status status =
        int4q_lowrank_fit(&layer.tensor, layer.weights.data(), INT4Q_TYPE_F32, layer.k, gram.data(), gram.bytes, &options, &factors,
                          scratch.data(), bytes, nullptr, nullptr, &report);
    REQUIRE(status == INT4Q_OK || status == INT4Q_ERROR_NOT_FINITE || (status == INT4Q_ERROR_CORRUPT && !gram.is_valid));
    for (int64_t j = 0; status == INT4Q_OK && j < layer.k; j++) REQUIRE(std::isfinite(reinterpret_cast<float *>(b.data())[j]));
}

void RunEigenvalues(Saved &gram) {
    uint64_t bytes = 0;
    auto scratch = Scratch(bytes, [&](uint64_t *size) { return int4q_gram_eigenvalues_scratch(gram.info.k, size); });
    auto options = New<int4q_search_options>();
    options.worker_count = 1;
    GuardedMemory room(8 * static_cast<size_t>(gram.info.k));
    auto *values = reinterpret_cast<double *>(room.data());
    double norm = -1;
    const int4q_status status = int4q_gram_eigenvalues(gram.data(), gram.bytes, &options, scratch.data(), bytes, nullptr, nullptr,
                                                       values, &norm);
    if (!gram.is_valid) return RequireRefusal(status, {INT4Q_ERROR_CORRUPT}, {"gram"});
    REQUIRE(status == INT4Q_OK);
    if (!gram.IsModerate()) return;
    REQUIRE(std::isfinite(norm) && norm >= 0);
    long double sum = 0, trace = 0;
    for (size_t j = 0; j < static_cast<size_t>(gram.info.k); j++) {
        REQUIRE(std::isfinite(values[j]) && (j == 0 || values[j] >= values[j - 1]));
        sum += static_cast<long double>(values[j]);
        trace += static_cast<long double>(gram.matrix[j * static_cast<size_t>(gram.info.k + 1)]);
    }
    REQUIRE(std::fabs(sum - trace) <= 1e-11L * static_cast<long double>(gram.largest) * static_cast<long double>(gram.info.k) +
                                          std::numeric_limits<double>::min());
}

void RunRotation(Saved &gram) {
    const int64_t order = gram.info.k & -gram.info.k;
    uint64_t bytes = 0;
    auto scratch = Scratch(bytes, [&](uint64_t *size) { return int4q_gram_rotate_scratch(order, 1, size); });
    const uint64_t size = gram.info.total_bytes;
    GuardedMemory rotated(static_cast<size_t>(size));
    const int4q_status status = int4q_gram_rotate(order, 7, INT4Q_HADAMARD_FORWARD, gram.data(), gram.bytes, rotated.data(), size,
                                                  scratch.data(), bytes, 1, nullptr, nullptr);
    if (!gram.is_valid) return RequireRefusal(status, {INT4Q_ERROR_CORRUPT}, {"gram"});
    REQUIRE(status == INT4Q_OK);
    REQUIRE(!gram.IsModerate() || int4q_gram_validate(rotated.data(), size) == INT4Q_OK);
}

void RunReassembly(const Choices &choices, Saved &gram) {
    const int64_t k = gram.info.k, capacity = k + k / 2;
    uint64_t bytes = 0;
    auto scratch = Scratch(bytes, [&](uint64_t *size) { return int4q_reassembly_scratch(k, size); });
    auto options = New<int4q_reassembly_options>();
    options.flags = choices.flags & INT4Q_REASSEMBLY_WIDEN;
    options.threshold = choices.threshold;
    options.most_copies = k / 2;
    options.steps = 5;
    options.bits = 8;
    options.group_size = 0;
    GuardedMemory room(static_cast<size_t>(capacity) * sizeof(int4q_channel_part));
    auto *parts = reinterpret_cast<int4q_channel_part *>(room.data());
    auto report = New<int4q_reassembly_report>();
    const int4q_status status = int4q_reassembly_plan(gram.data(), gram.bytes, gram.data(), gram.bytes, &options, parts, capacity,
                                                      scratch.data(), bytes, &report);
    if (status != INT4Q_OK) {
        return RequireRefusal(status, {INT4Q_ERROR_INVALID_ARGUMENT, INT4Q_ERROR_CORRUPT, INT4Q_ERROR_UNSUPPORTED},
                              {"gram", "weights", "options."});
    }
    auto map = New<int4q_reassembly>();
    map.k = k;
    map.new_k = report.new_k;
    map.part_count = report.part_count;
    map.parts = parts;
    const uint64_t size = kGram.Bytes(report.new_k);
    GuardedMemory target(static_cast<size_t>(size));
    // A plan is made of a valid one only.
    REQUIRE(gram.is_valid && int4q_gram_reassemble(&map, gram.data(), gram.bytes, target.data(), size) == INT4Q_OK);
    REQUIRE(!gram.IsModerate() || int4q_gram_validate(target.data(), size) == INT4Q_OK);
}

// Whatever the rest says, nothing but the matrix is touched.
void Push(Saved &gram) {
    const int64_t k = gram.info.k;
    GuardedMemory copy(static_cast<size_t>(gram.info.total_bytes));
    std::memcpy(copy.data(), gram.data(), static_cast<size_t>(gram.info.total_bytes));
    std::vector<float> x(static_cast<size_t>(3 * k), 0.5f);
    uint64_t bytes = 0;
    auto scratch = Scratch(bytes, [&](uint64_t *size) { return int4q_gram_push_scratch(k, size); });
    const int4q_status status = int4q_gram_push(copy.data(), gram.info.total_bytes, x.data(), INT4Q_TYPE_F32, 3, k, k,
                                                scratch.data(), bytes, 1, nullptr, nullptr);
    if (status != INT4Q_OK) return RequireRefusal(status, {INT4Q_ERROR_SIZE_OVERFLOW}, {"rows"});
    REQUIRE(!gram.IsModerate() || int4q_gram_validate(copy.data(), gram.info.total_bytes) == INT4Q_OK);
}

void Use(const Choices &choices, Saved &gram, Saved *cross) {
    Layer layer(choices, gram.info.k);
    CheckLoss(layer, gram, nullptr);
    RunDescent(choices, layer, gram);
    if (layer.scheme.kind != INT4Q_KIND_CODEBOOK) RunLearning(choices, layer, gram);
    layer.RoundToNearest();
    RunAwq(layer, gram);
    RunLowRank(layer, gram);
    RunEigenvalues(gram);
    RunRotation(gram);
    RunReassembly(choices, gram);
    Push(gram);
    RunGptq(choices, layer, gram, nullptr);
    if (!cross || !cross->IsSmall()) return;
    layer.RoundToNearest();
    CheckLoss(layer, gram, cross);
    RunShift(choices, layer, gram, *cross);
    RunGptq(choices, layer, gram, cross);
}

// Makes a header's size that of its k, and with `like` its k and rows those of another one.
void Repair(const Statistics &of, std::vector<uint8_t> &bytes, size_t at, const uint8_t *like) {
    if (bytes.size() < at + int4q_fuzz::kStatisticsHeaderBytes) return;
    uint8_t *header = bytes.data() + at;
    if (like) {
        std::memcpy(header + int4q_fuzz::kStatisticsKAt, like + int4q_fuzz::kStatisticsKAt, 8);
        std::memcpy(header + int4q_fuzz::kStatisticsRowsAt, like + int4q_fuzz::kStatisticsRowsAt, 8);
    }
    int64_t k;
    std::memcpy(&k, header + int4q_fuzz::kStatisticsKAt, 8);
    if (k < 1 || k >= int4q_fuzz::kTooManyChannels) return;
    const uint64_t size = of.Bytes(k);
    std::memcpy(header + int4q_fuzz::kStatisticsTotalBytesAt, &size, 8);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    const Choices choices(data);
    std::vector<uint8_t> bytes(data + 2, data + size);
    const bool is_cross = bytes.size() >= 8 && std::memcmp(bytes.data(), "IN4QCXR", 8) == 0;
    const Statistics &of = is_cross ? kCross : kGram;
    if (choices.repairs) Repair(of, bytes, 0, nullptr);
    Saved first(of, bytes.data(), bytes.size());
    fuzz_statistics_counts[0] += first.has_header;
    fuzz_statistics_counts[1] += first.is_valid;
    if (is_cross || !first.IsSmall()) return 0;
    const auto behind = static_cast<size_t>(first.info.total_bytes);
    if (behind == bytes.size()) {
        Use(choices, first, nullptr);
        return 0;
    }
    if (choices.repairs) Repair(kCross, bytes, behind, bytes.data());
    Saved second(kCross, bytes.data() + behind, bytes.size() - behind);
    Use(choices, first, &second);
    return 0;
}
