// SPDX-License-Identifier: Apache-2.0
// The best of all methods, and searches of other papers: section 14 of the header. Memory, workers and refusals; what is computed
// is tested through the Python binding (bindings/python/tests/test_best.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "int4q.hpp"
#include "support/bad_arguments.hpp"
#include "support/guarded_buffer.hpp"
#include "support/random.hpp"
#include "support/source_matrix.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

GuardedBuffer Guarded(uint64_t bytes, size_t alignment = 64) {
    return GuardedBuffer(static_cast<size_t>(bytes), Placement::kRight, alignment);
}

SourceMatrix Values(int64_t rows, int64_t k, uint64_t seed, int4q_type type = INT4Q_TYPE_F32) {
    Random random(seed);
    SourceMatrix x(type, rows, k, k + 3);
    for (int64_t row = 0; row < rows; row++) {
        const float common = random.Normal();
        for (int64_t column = 0; column < k; column++) {
            x.Set(row, column, random.Normal() + common * static_cast<float>(column % 5) / 4);
        }
    }
    return x;
}

GuardedBuffer GramOf(const SourceMatrix &x) {
    uint64_t bytes = 0, scratch_bytes = 0;
    EXPECT_OK(int4q_gram_size(x.k, &bytes));
    EXPECT_OK(int4q_gram_push_scratch(x.k, &scratch_bytes));
    GuardedBuffer gram = Guarded(bytes), scratch = Guarded(scratch_bytes);
    EXPECT_OK(int4q_gram_init(x.k, gram.data(), bytes));
    EXPECT_OK(int4q_gram_push(gram.data(), bytes, x.buffer.data(), x.type, x.n, x.k, x.stride, scratch.data(), scratch_bytes, 1,
                              nullptr, nullptr));
    return gram;
}

int4q_best_options BestOptions(uint32_t workers = 1) {
    int4q_best_options options{};
    options.struct_size = sizeof options;
    options.worker_count = workers;
    options.finalists = 2;
    options.sweeps = 2;
    return options;
}

template <typename T>
T Sized() {
    T report{};
    report.struct_size = sizeof report;
    return report;
}

// A host that runs tasks from the last to the first, on changing workers.
void Backwards(void *host, int64_t count, uint32_t workers, int4q_task task, void *context) {
    for (int64_t index = count - 1; index >= 0; index--) task(context, index, static_cast<uint32_t>(index) % workers);
    *static_cast<int64_t *>(host) += 1;
}

// One that hands out a worker that there is not.
void Misbehaving(void *, int64_t count, uint32_t workers, int4q_task task, void *context) {
    for (int64_t index = 0; index < count; index++) task(context, index, workers);
}

struct Best {
    int4q_best_report report = Sized<int4q_best_report>();
    int4q_tensor tensor = Sized<int4q_tensor>();
    std::vector<int4q_trial> trials;
    std::string parts;  // codes and scales
    double loss = 0;    // as int4q_gram_loss() has it
};

Best Quantized(const std::vector<int4q_candidate> &candidates, const SourceMatrix &source, const GuardedBuffer &gram,
               bool has_scales, uint32_t workers = 1, int4q_parallel_for parallel_for = nullptr, void *host = nullptr) {
    const int4q_candidate *list = candidates.empty() ? nullptr : candidates.data();
    const int64_t count = static_cast<int64_t>(candidates.size());
    uint64_t bytes = 0, scratch_bytes = 0;
    EXPECT_OK(int4q_best_memory(list, count, source.n, source.k, &bytes));
    EXPECT_OK(int4q_best_scratch(list, count, source.n, source.k, workers, has_scales, &scratch_bytes));
    GuardedBuffer memory = Guarded(bytes), scratch = Guarded(scratch_bytes),
                  scales = Guarded(static_cast<uint64_t>(source.k) * 4, 4),
                  trials = Guarded(5 * sizeof(int4q_trial), 8);
    const int4q_best_options options = BestOptions(workers);
    Best best;
    EXPECT_OK(int4q_quantize_best(list, count, source.n, source.k, source.buffer.data(), source.type, source.stride, gram.data(),
                                  gram.size(), &options, has_scales ? scales.as<float>() : nullptr, memory.data(), bytes,
                                  scratch.data(), scratch_bytes, parallel_for, host, &best.tensor, trials.as<int4q_trial>(), 5,
                                  &best.report));
    best.trials.assign(trials.as<int4q_trial>(), trials.as<int4q_trial>() + std::min<int64_t>(best.report.trials, 5));
    for (int4q_trial &trial : best.trials) trial.seconds = 0;
    best.parts.assign(static_cast<const char *>(best.tensor.codes), best.tensor.codes_bytes);
    best.parts.append(static_cast<const char *>(best.tensor.scales), best.tensor.scales_bytes);
    const unsigned char *codes = static_cast<const unsigned char *>(best.tensor.codes);
    EXPECT_TRUE(codes >= memory.data() && codes + best.tensor.codes_bytes <= memory.data() + bytes);

    if (best.report.is_scaled) return best;
    for (int64_t column = 0; has_scales && column < source.k; column++) EXPECT_EQ(scales.as<float>()[column], 1);
    uint64_t loss_bytes = 0;
    EXPECT_OK(int4q_gram_loss_scratch(source.k, &loss_bytes));
    GuardedBuffer loss_scratch = Guarded(loss_bytes);
    std::vector<double> losses(static_cast<size_t>(source.n));
    EXPECT_OK(int4q_gram_loss(&best.tensor, source.buffer.data(), source.type, source.stride, gram.data(), gram.size(),
                              loss_scratch.data(), loss_bytes, losses.data(), 0, source.n));
    for (double loss : losses) best.loss += loss;
    return best;
}

TEST(QuantizeBest, TouchesOnlyWhatIsDeclaredAndAnyWorkersGiveTheSameBits) {
    for (int64_t k : {1, 16, 17, 75, 130}) {
        const GuardedBuffer gram = GramOf(Values(k + 50, k, 7));
        const int64_t n = 1 + k % 37;
        const SourceMatrix source = Values(n, k, 11, k == 17 ? INT4Q_TYPE_BF16 : INT4Q_TYPE_F32);
        std::vector<float> codebooks;
        for (int64_t row = 0; row < n; row++) codebooks.insert(codebooks.end(), kNormalFloat, kNormalFloat + 16);
        for (int32_t group_size : kAllGroupSizes) {
            std::vector<int4q_candidate> candidates;
            for (const int4q_scheme &scheme : AllSchemes(group_size, k == 75 ? INT4Q_TYPE_F32 : INT4Q_TYPE_F16)) {
                int4q_candidate candidate{};
                candidate.scheme = scheme;
                if (scheme.kind == INT4Q_KIND_CODEBOOK) {
                    candidate.scheme.codebook_scope = INT4Q_CODEBOOK_PER_ROW;
                    candidate.codebook = codebooks.data();
                }
                candidates.push_back(candidate);
            }
            for (bool has_scales : {false, true}) {
                const Best alone = Quantized(candidates, source, gram, has_scales);
                EXPECT_LE(alone.report.loss, alone.report.nearest_loss);
                if (!alone.report.is_scaled) {
                    EXPECT_NEAR(alone.loss, alone.report.loss, 1e-12 * alone.loss);
                }
                int64_t runs = 0;
                const Best spread = Quantized(candidates, source, gram, has_scales, 3, Backwards, &runs);
                EXPECT_GT(runs, static_cast<int64_t>(candidates.size()));
                EXPECT_EQ(alone.parts, spread.parts);
                EXPECT_EQ(BytesOf(alone.report), BytesOf(spread.report));
                ASSERT_EQ(alone.trials.size(), spread.trials.size());
                EXPECT_EQ(0, std::memcmp(alone.trials.data(), spread.trials.data(), alone.trials.size() * sizeof(int4q_trial)));
            }
        }
    }
}

TEST(QuantizeBest, TakesTheUsualCandidates) {
    const GuardedBuffer gram = GramOf(Values(200, 96, 7));
    const SourceMatrix source = Values(20, 96, 11);
    const Best best = Quantized({}, source, gram, false);
    EXPECT_EQ(best.tensor.scheme.code_bits, 8);  // no limit, and nothing is better
    EXPECT_NEAR(best.loss, best.report.loss, 1e-12 * best.loss);
}

TEST(QuantizeBest, ThroughTheCppWrapper) {
    std::vector<float> x(200 * 64), w(12 * 64);
    Random random(5);
    for (float &value : x) value = random.Normal();
    for (float &value : w) value = random.Normal();
    int4q::Gram gram(64);
    gram.push({x.data(), INT4Q_TYPE_F32, 200, 64, 64});
    const int4q::Best best = int4q::quantize_best({w.data(), INT4Q_TYPE_F32, 12, 64, 64}, gram, 4.5, {}, true);
    EXPECT_LT(best.report.loss, best.report.nearest_loss);
    EXPECT_EQ(best.trials.size(), static_cast<size_t>(best.report.trials));
    std::vector<float> values(w.size());
    best.tensor.dequantize({values.data(), INT4Q_TYPE_F32, 12, 64, 64});
    double loss = 0;
    for (int64_t row = 0; row < 12; row++) {
        for (int64_t sample = 0; sample < 200; sample++) {
            double error = 0;
            for (int64_t j = 0; j < 64; j++) {
                const size_t place = static_cast<size_t>(row * 64 + j), input = static_cast<size_t>(sample * 64 + j);
                const double value = static_cast<double>(values[place]) / best.scales[static_cast<size_t>(j)];
                error += (static_cast<double>(w[place]) - value) * x[input];
            }
            loss += error * error / 200;
        }
    }
    EXPECT_NEAR(loss, best.report.loss, 1e-4 * loss);

    const int4q::Allocation shared = int4q::allocate({1, 5, 1, 7}, {8, 4, 8, 4}, 2, 12);
    EXPECT_EQ(shared.choices, (std::vector<int32_t>{1, 0}));
    EXPECT_EQ(shared.about.loss, 6);
    EXPECT_THROW(int4q::allocate({1, 5, 1, 7}, {8, 4, 8, 4}, 2, 7), int4q::Error);
}

struct Call {
    static constexpr int64_t kRows = 33, kColumns = 40;
    alignas(64) float x_memory[kRows * 41 + 1], target_memory[kRows * 41 + 1]{};
    alignas(64) unsigned char gram_memory[16384];
    std::vector<unsigned char> scratch_memory = std::vector<unsigned char>(1 << 20);
    alignas(64) unsigned char result_memory[4096] = {};
    int4q_candidate candidate_memory[2] = {};
    int4q_best_options options_memory = BestOptions();
    int4q_best_report report_memory = Sized<int4q_best_report>();
    int4q_trial trial_memory[4] = {};
    int4q_tensor tensor_memory = Sized<int4q_tensor>();
    int4q_scale_search search_memory = Sized<int4q_scale_search>();
    int4q_scale_search_report search_report_memory = Sized<int4q_scale_search_report>();
    SmallTensor small;
    float share_memory[3] = {1, 0.9f, 0.8f}, clip_memory[kRows * 3] = {}, value_memory[16] = {}, scale_memory[kColumns] = {},
          given_memory[20], weight_memory[kColumns];
    double error = -1;
    uint64_t size = 0;

    int64_t n = kRows, k = kColumns, ldx = 41, ldy = 41, begin = 0, end = kRows, count = 2, capacity = 4, given_count = 20,
            stride = 0;
    int32_t shares_count = 3, kept = 16, has_scales = 1;
    uint32_t workers = 1;
    int4q_type type = INT4Q_TYPE_F32, target_type = INT4Q_TYPE_F32;
    void *gram = gram_memory, *scratch = nullptr, *x = x_memory, *target = target_memory, *memory = result_memory;
    uint64_t gram_bytes = 0, scratch_bytes = 0, memory_bytes = 0, *bytes_out = &size;
    float *scales = scale_memory, *shares = share_memory, *clips = clip_memory, *values = value_memory, *given = given_memory,
          *weights = weight_memory;
    double *error_out = &error;
    int4q_candidate *candidates = candidate_memory;
    int4q_best_options *options = &options_memory;
    int4q_best_report *report = &report_memory;
    int4q_trial *trials = trial_memory;
    int4q_tensor *best = &tensor_memory, *tensor = &small.tensor;
    int4q_scheme *scheme = &small.tensor.scheme;
    int4q_scale_search *search = &search_memory;
    int4q_scale_search_report *search_report = &search_report_memory;

    Call() {
        Random random(3);
        for (float &value : x_memory) value = random.Normal();
        for (int i = 0; i < 20; i++) given_memory[i] = static_cast<float>(i) / 4 - 2;
        for (float &weight : weight_memory) weight = 1;
        for (int4q_candidate &candidate : candidate_memory) candidate.scheme = SmallScheme(INT4Q_KIND_SYMMETRIC);
        candidate_memory[1].scheme.kind = INT4Q_KIND_CODEBOOK;
        candidate_memory[1].named = INT4Q_CODEBOOK_NF4;
        search_memory.rounds = 2;
        search_memory.reach = 0.1;
        EXPECT_OK(int4q_gram_size(k, &gram_bytes));
        EXPECT_LE(gram_bytes, sizeof gram_memory);
        std::memset(gram_memory, 0xa5, sizeof gram_memory);
        EXPECT_OK(int4q_gram_init(k, gram_memory, gram_bytes));
        std::vector<double> identity(static_cast<size_t>(k * k), 0);
        for (int64_t i = 0; i < k; i++) identity[static_cast<size_t>(i * k + i)] = 1;
        EXPECT_OK(int4q_gram_set(gram_memory, gram_bytes, identity.data(), k, 1));
        scratch = scratch_memory.data() + (64 - reinterpret_cast<uintptr_t>(scratch_memory.data()) % 64);
    }
    Call(const Call &) = delete;
    std::string Outputs() const {
        return BytesOf(target_memory) + BytesOf(result_memory) + BytesOf(report_memory) + BytesOf(trial_memory) +
               BytesOf(tensor_memory) + BytesOf(search_report_memory) + small.Bytes() + BytesOf(clip_memory) +
               BytesOf(value_memory) + BytesOf(scale_memory) + BytesOf(error) + BytesOf(size);
    }
};

struct BestCall : Call {
    BestCall() {
        EXPECT_OK(int4q_best_memory(candidates, count, n, k, &memory_bytes));
        EXPECT_OK(int4q_best_scratch(candidates, count, n, k, 1, 1, &scratch_bytes));
        EXPECT_LE(memory_bytes, sizeof result_memory);
        EXPECT_LE(scratch_bytes + 64, scratch_memory.size());
    }
    int4q_status Run() {
        return int4q_quantize_best(candidates, count, n, k, x, type, ldx, gram, gram_bytes, options, scales, memory, memory_bytes,
                                   scratch, scratch_bytes, nullptr, nullptr, best, trials, capacity, report);
    }
};
struct MemoryCall : Call {
    int4q_status Run() { return int4q_best_memory(candidates, count, n, k, bytes_out); }
};
struct ScratchCall : Call {
    int4q_status Run() { return int4q_best_scratch(candidates, count, n, k, workers, has_scales, bytes_out); }
};
struct ClipCall : Call {
    ClipCall() { EXPECT_OK(int4q_awq_clip_scratch(scheme, k, &scratch_bytes)); }
    int4q_status Run() {
        return int4q_clip_search(scheme, nullptr, n, k, x, type, ldx, gram, gram_bytes, shares, shares_count, scratch,
                                 scratch_bytes, clips, target, target_type, ldy, begin, end);
    }
};
struct SearchCall : Call {
    SearchCall() { EXPECT_OK(int4q_gram_descend_scratch(scheme, k, &scratch_bytes)); }
    int4q_status Run() {
        return int4q_gram_search_scales(tensor, x, type, ldx, gram, gram_bytes, search, scratch, scratch_bytes, begin, end,
                                        search_report);
    }
};
struct GreedyCall : Call {
    GreedyCall() {
        EXPECT_OK(int4q_codebook_fit_scratch(&scratch_bytes));
        scratch_memory.resize(static_cast<size_t>(scratch_bytes) + 64);
        scratch = scratch_memory.data() + (64 - reinterpret_cast<uintptr_t>(scratch_memory.data()) % 64);
    }
    int4q_status Run() {
        return int4q_codebook_greedy(x, type, ldx, n, k, begin, end, weights, stride, given, given_count, kept, scratch,
                                     scratch_bytes, values, error_out);
    }
};

template <typename C>
void Refuse(const char *function, const BadTable<C> &table) {
    ExpectRefused<C>(function, [] { return std::make_unique<C>(); }, table);
}

template <typename C>
void AddGram(BadTable<C> &table) {
    AddPointer(table, "gram", &C::gram, {1, 8, 32});
    AddTooSmall(table, "gram_bytes", &C::gram_bytes);
    for (size_t byte : {0, 7, 16, 24, 100, 127}) {
        table.push_back({"a damaged header at " + std::to_string(byte), [=](C &c) { c.gram_memory[byte] ^= 0x40; }, kCorrupt,
                         "gram"});
    }
    table.push_back({"a Gram matrix of another k",
                     [](C &c) {
                         EXPECT_OK(int4q_gram_size(39, &c.gram_bytes));
                         EXPECT_OK(int4q_gram_init(39, c.gram_memory, c.gram_bytes));
                     },
                     kMismatch, "gram"});
}

template <typename C>
void AddScratch(BadTable<C> &table) {
    AddPointer(table, "scratch", &C::scratch, {1, 8, 32});
    AddTooSmall(table, "scratch_bytes", &C::scratch_bytes);
}

template <typename C>
void AddSource(BadTable<C> &table) {
    AddMatrix(table, "source", &C::x, &C::type, "source_type", &C::ldx, "source_stride", C::kColumns);
    table.push_back({"a source of NaN", [](C &c) { c.x_memory[3] = std::nanf(""); }, kNotFinite, "source"});
}

template <typename C>
void AddShape(BadTable<C> &table) {
    AddValues(table, "n", &C::n, {0, -1, kMin64});
    AddValues(table, "k", &C::k, {0, -1, kMin64});
}

template <typename C>
BadTable<C> BadCandidates() {
    BadTable<C> table;
    table.push_back({"no candidates", [](C &c) { c.candidates = nullptr; }, kNull, "candidates"});
    table.push_back({"candidates + 4", [](C &c) { c.candidates = Shift(c.candidates, 4); }, kMisaligned, "candidates"});
    AddValues(table, "count", &C::count, {0, -1, 4097, kMin64, kMax64});
    AddWithin(table, BadSchemes(), [](C &c) -> int4q_scheme & { return c.candidate_memory[0].scheme; });
    AddValues(table, "named", [](C &c) -> int32_t & { return c.candidate_memory[1].named; }, {0, 8, -1});
    AddValues(table, "reserved", [](C &c) -> int32_t & { return c.candidate_memory[1].reserved; }, {1});
    AddShape(table);
    return table;
}

TEST(BadBest, QuantizeBest) {
    using C = BestCall;
    using O = int4q_best_options;
    auto table = BadCandidates<C>();
    AddGram(table);
    AddScratch(table);
    AddSource(table);
    AddPointer(table, "memory", &C::memory, {1, 8, 32});
    AddTooSmall(table, "memory_bytes", &C::memory_bytes);
    AddPointer(table, "options", &C::options, {4});
    AddPointer(table, "report", &C::report, {4});
    AddPointer(table, "tensor", &C::best, {4});
    AddPointer(table, "trials", &C::trials, {4});
    AddValues(table, "trial_capacity", &C::capacity, {-1, kMin64});
    table.push_back({"scales + 2", [](C &c) { c.scales = Shift(c.scales, 2); }, kMisaligned, "scales"});
    BadTable<O> fields;
    AddStructSizes(fields, &O::struct_size, sizeof(O));
    AddValues(fields, "worker_count", &O::worker_count, {0, 1025, UINT32_MAX});
    AddValues(fields, "methods", &O::methods, {512, UINT32_MAX});
    AddValues(fields, "finalists", &O::finalists, {0, -1, kMin32});
    AddValues(fields, "sweeps", &O::sweeps, {0, -1, 10001, kMin64, kMax64});
    for (double bad : {-0.1, std::nan(""), static_cast<double>(INFINITY)}) {
        fields.push_back({"most_bits " + std::to_string(bad), [=](O &o) { o.most_bits = bad; }, kInvalid, "most_bits"});
        fields.push_back({"seconds " + std::to_string(bad), [=](O &o) { o.seconds = bad; }, kInvalid, "seconds"});
    }
    fields.push_back({"too few bits", [](O &o) { o.most_bits = 4; }, kInvalid, "most_bits"});
    fields.push_back({"too few bytes", [](O &o) { o.most_bytes = 100; }, kInvalid, "most_bytes"});
    AddWithin(table, fields, [](C &c) -> O & { return c.options_memory; });
    AddValues(table, "struct_size", [](C &c) -> uint32_t & { return c.report_memory.struct_size; }, {0, 47, 56}, kStructSize);
    AddValues(table, "struct_size", [](C &c) -> uint32_t & { return c.tensor_memory.struct_size; }, {0, 8}, kStructSize);
    Refuse("int4q_quantize_best", table);

    BestCall bare;
    bare.trials = nullptr;
    bare.capacity = 0;
    bare.scales = nullptr;
    EXPECT_OK(bare.Run());
    EXPECT_GT(bare.report_memory.trials, 4);
    BestCall host;
    EXPECT_FAILS(int4q_quantize_best(host.candidates, host.count, host.n, host.k, host.x, host.type, host.ldx, host.gram,
                                     host.gram_bytes, host.options, nullptr, host.memory, host.memory_bytes, host.scratch,
                                     host.scratch_bytes, Misbehaving, nullptr, host.best, nullptr, 0, host.report),
                 kInvalid, "int4q_quantize_best", "parallel_for");
}

TEST(BadBest, Sizes) {
    auto memory = BadCandidates<MemoryCall>();
    AddPointer(memory, "bytes", &MemoryCall::bytes_out, {4});
    AddValues(memory, "k", &MemoryCall::k, {kMax64, int64_t{1} << 62}, kOverflow, "n");
    AddValues(memory, "n", &MemoryCall::n, {kMax64, int64_t{1} << 62}, kOverflow, "k");
    Refuse("int4q_best_memory", memory);
    auto scratch = BadCandidates<ScratchCall>();
    AddPointer(scratch, "bytes", &ScratchCall::bytes_out, {4});
    AddValues(scratch, "k", &ScratchCall::k, {kMax64, int64_t{1} << 62, int64_t{1} << 31}, kOverflow, "n");
    AddValues(scratch, "n", &ScratchCall::n, {kMax64, int64_t{1} << 60}, kOverflow, "k");
    AddValues(scratch, "worker_count", &ScratchCall::workers, {0, 1025, -1});
    AddValues(scratch, "has_scales", &ScratchCall::has_scales, {2, -1});
    Refuse("int4q_best_scratch", scratch);
    uint64_t usual = 0;
    EXPECT_OK(int4q_best_memory(nullptr, 0, 3, 5, &usual));
    EXPECT_GT(usual, 0u);
}

TEST(BadBest, ClipSearch) {
    using C = ClipCall;
    BadTable<C> table;
    AddGram(table);
    AddScratch(table);
    AddSource(table);
    AddShape(table);
    AddPointer(table, "scheme", &C::scheme, {2});
    AddWithin(table, BadSchemes(), [](C &c) -> int4q_scheme & { return c.small.tensor.scheme; });
    AddMatrix(table, "destination", &C::target, &C::target_type, "destination_type", &C::ldy, "destination_stride", C::kColumns);
    for (auto bad = table.begin(); bad != table.end();) bad = bad->what == "destination = NULL" ? table.erase(bad) : bad + 1;
    AddPointer(table, "clips", &C::clips, {1, 2});
    AddPointer(table, "shares", &C::shares, {1, 2});
    AddValues(table, "count", &C::shares_count, {0, -1, 1001, kMin32, kMax32});
    for (float bad : {0.0f, -1.0f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
        table.push_back({"a share of " + std::to_string(bad), [=](C &c) { c.share_memory[2] = bad; }, kInvalid, "shares"});
    }
    AddRanges(table, C::kRows, "row_begin", "row_end");
    Refuse("int4q_clip_search", table);
}

TEST(BadBest, ScaleSearch) {
    using C = SearchCall;
    using O = int4q_scale_search;
    BadTable<C> table;
    AddGram(table);
    AddScratch(table);
    AddSource(table);
    AddPointer(table, "tensor", &C::tensor, {4});
    AddWithin(table, BadTensors(INT4Q_KIND_SYMMETRIC), [](C &c) -> SmallTensor & { return c.small; });
    AddPointer(table, "search", &C::search, {4});
    AddPointer(table, "report", &C::search_report, {4});
    BadTable<O> fields;
    AddStructSizes(fields, &O::struct_size, sizeof(O));
    AddValues(fields, "reserved", &O::reserved, {1});
    AddValues(fields, "rounds", &O::rounds, {0, -1, 10001, kMin64, kMax64});
    for (double bad : {0.0, -0.1, 1.0, std::nan("")}) {
        fields.push_back({"reach " + std::to_string(bad), [=](O &o) { o.reach = bad; }, kInvalid, "reach"});
    }
    AddWithin(table, fields, [](C &c) -> O & { return c.search_memory; });
    AddValues(table, "struct_size", [](C &c) -> uint32_t & { return c.search_report_memory.struct_size; }, {0, 31, 40},
              kStructSize);
    AddValues(table, "reserved", [](C &c) -> uint32_t & { return c.search_report_memory.reserved; }, {1});
    AddRanges(table, C::kRows, "row_begin", "row_end");
    Refuse("int4q_gram_search_scales", table);
}

TEST(BadBest, GreedyCodebook) {
    using C = GreedyCall;
    BadTable<C> table;
    AddScratch(table);
    AddSource(table);
    AddShape(table);
    AddPointer(table, "candidates", &C::given, {1, 2});
    AddPointer(table, "values", &C::values, {1, 2});
    AddValues(table, "candidate_count", &C::given_count, {15, 0, -1, 4097, kMin64, kMax64});
    AddValues(table, "kept", &C::kept, {0, 17, -1, kMin32, kMax32});
    AddRanges(table, C::kRows, "row_begin", "row_end");
    table.push_back({"no rows", [](C &c) { c.end = 0; }, kInvalid, "row_end"});
    table.push_back({"descending candidates", [](C &c) { c.given_memory[7] = -9; }, kInvalid, "candidates"});
    table.push_back({"a candidate of NaN", [](C &c) { c.given_memory[7] = std::nanf(""); }, kNotFinite, "candidates"});
    table.push_back({"a negative weight", [](C &c) { c.weight_memory[7] = -1; }, kInvalid, "weights"});
    table.push_back({"weights of NaN", [](C &c) { c.weight_memory[7] = std::nanf(""); }, kNotFinite, "weights"});
    table.push_back({"weights of 0", [](C &c) { std::memset(c.weight_memory, 0, sizeof c.weight_memory); }, kInvalid, "weights"});
    table.push_back({"weights + 2", [](C &c) { c.weights = Shift(c.weights, 2); }, kMisaligned, "weights"});
    table.push_back({"an error + 4", [](C &c) { c.error_out = Shift(c.error_out, 4); }, kMisaligned, "mean_squared_error"});
    Refuse("int4q_codebook_greedy", table);
}


// Sizes that fit no memory, and would not fit 64 bits on the way.
TEST(Best, ScratchOfHugeMatrices) {
    int4q_candidate candidate{};
    candidate.scheme = MakeScheme(INT4Q_KIND_SYMMETRIC, INT4Q_GROUP_PER_ROW, INT4Q_TYPE_F16);
    uint64_t bytes = 7;
    for (const int64_t k : {int64_t{1} << 31, int64_t{1} << 40, int64_t{1} << 62, std::numeric_limits<int64_t>::max()}) {
        EXPECT_EQ(int4q_best_scratch(&candidate, 1, 1, k, 1, 1, &bytes), INT4Q_ERROR_SIZE_OVERFLOW) << k;
        EXPECT_EQ(bytes, 7u) << k;
    }
}

TEST(Best, CodebooksAreForTheirKindAlone) {
    const std::vector<float> values(16, 1.0f);
    int4q_candidate candidate{};
    candidate.scheme = MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16);
    candidate.codebook = values.data();
    uint64_t bytes = 7;
    EXPECT_EQ(int4q_best_scratch(&candidate, 1, 8, 64, 1, 0, &bytes), INT4Q_ERROR_INVALID_ARGUMENT);
    EXPECT_EQ(bytes, 7u);
}

}  // namespace
}  // namespace int4q_test
