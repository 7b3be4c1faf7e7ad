// SPDX-License-Identifier: Apache-2.0
// Sensitivity, eigenvalues, allocation: section 14 of the header. Memory, workers and refusals, and allocation against every
// choice; what else is computed is tested through the Python binding (bindings/python/tests/test_allocation.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "int4q.h"
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

template <typename T>
GuardedBuffer Copied(const std::vector<T> &values) {
    GuardedBuffer buffer = Guarded(values.size() * sizeof(T), sizeof(T));
    std::memcpy(buffer.data(), values.data(), buffer.size());
    return buffer;
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

int4q_search_options SearchOptions(uint32_t workers = 1) {
    int4q_search_options options{};
    options.struct_size = sizeof options;
    options.worker_count = workers;
    return options;
}

int4q_allocation NewAllocation() {
    int4q_allocation allocation{};
    allocation.struct_size = sizeof allocation;
    return allocation;
}

// A host that runs tasks from the last to the first, on changing workers.
void Backwards(void *host, int64_t count, uint32_t workers, int4q_task task, void *context) {
    auto *runs = static_cast<int64_t *>(host);
    for (int64_t index = count - 1; index >= 0; index--) task(context, index, static_cast<uint32_t>(index) % workers);
    *runs += 1;
}

// ---- Allocation --------------------------------------------------------------------------------------------------------

struct Choice {
    double loss;
    uint64_t bytes;
    std::vector<int32_t> choices;
    bool operator<(const Choice &other) const {
        if (loss != other.loss) return loss < other.loss;
        return bytes != other.bytes ? bytes < other.bytes : choices < other.choices;
    }
};

// Every choice within a budget, one after the other.
Choice BestOfAll(const std::vector<double> &losses, const std::vector<uint64_t> &bytes, int64_t layers, int64_t candidates,
                 uint64_t budget) {
    Choice best{INFINITY, UINT64_MAX, {}};
    std::vector<int32_t> now(static_cast<size_t>(layers), 0);
    while (true) {
        Choice choice{0, 0, now};
        for (int64_t layer = layers - 1; layer >= 0; layer--) {
            const size_t cell = static_cast<size_t>(layer * candidates + now[static_cast<size_t>(layer)]);
            choice.loss += losses[cell];
            choice.bytes += bytes[cell];
        }
        if (choice.bytes <= budget && std::isfinite(choice.loss) && choice < best) best = choice;
        size_t layer = 0;
        while (layer < now.size() && ++now[layer] == candidates) now[layer++] = 0;
        if (layer == now.size()) return best;
    }
}

TEST(Allocate, IsTheBestOfAllWithinDeclaredMemory) {
    Random random(17);
    int solved = 0;
    for (int round = 0; round < 3000; round++) {
        const int64_t layers = random.Integer(1, 5), candidates = random.Integer(1, 5);
        std::vector<double> losses;
        std::vector<uint64_t> bytes;
        for (int64_t cell = 0; cell < layers * candidates; cell++) {
            losses.push_back(random.Chance(0.1) ? INFINITY
                             : round % 2        ? static_cast<double>(random.Integer(0, 4))
                                                : std::fabs(static_cast<double>(random.Normal())));
            bytes.push_back(static_cast<uint64_t>(random.Integer(0, round % 3 ? 6 : 1 << 20)));
        }
        const uint64_t budget = static_cast<uint64_t>(random.Integer(0, round % 3 ? 6 * layers : layers << 20));
        const GuardedBuffer loss_memory = Copied(losses), byte_memory = Copied(bytes);
        uint64_t scratch_bytes = 0;
        ASSERT_OK(int4q_allocate_scratch(layers, candidates, 4096, &scratch_bytes));
        GuardedBuffer scratch = Guarded(scratch_bytes), choices = Guarded(static_cast<uint64_t>(layers) * 4, 4);
        int4q_allocation allocation = NewAllocation();
        const int4q_status status =
            int4q_allocate(reinterpret_cast<const double *>(loss_memory.data()),
                           reinterpret_cast<const uint64_t *>(byte_memory.data()), nullptr, layers, candidates, budget,
                           scratch.data(), scratch_bytes, choices.as<int32_t>(), &allocation);
        const Choice best = BestOfAll(losses, bytes, layers, candidates, budget);
        if (best.choices.empty()) {
            EXPECT_EQ(status, INT4Q_ERROR_INVALID_ARGUMENT);
            continue;
        }
        ASSERT_OK(status);
        solved++;
        EXPECT_EQ(allocation.loss, best.loss);
        EXPECT_EQ(allocation.bytes, best.bytes);
        EXPECT_EQ(std::vector<int32_t>(choices.as<int32_t>(), choices.as<int32_t>() + layers), best.choices);
    }
    EXPECT_GT(solved, 1000);
}

struct AllocateCall {
    double loss_memory[6] = {1, 2, 3, 4, 5, 6}, weight_memory[3] = {1, 2, 1};
    uint64_t byte_memory[6] = {9, 3, 8, 2, 7, 1}, size = 0;
    int32_t choice_memory[3] = {-7, -7, -7};
    alignas(64) unsigned char scratch_memory[4096];
    int4q_allocation allocation_memory = NewAllocation();

    double *losses = loss_memory, *weights = weight_memory;
    uint64_t *bytes = byte_memory, *bytes_out = &size;
    int64_t layers = 3, candidates = 2, states = 10, reference = 0;
    double tolerance = 0.5;
    uint64_t budget = 20, scratch_bytes = 0;
    void *scratch = scratch_memory;
    int32_t *choices = choice_memory;
    int4q_allocation *allocation = &allocation_memory;

    AllocateCall() { EXPECT_OK(int4q_allocate_scratch(3, 2, 1, &scratch_bytes)); }
    AllocateCall(const AllocateCall &) = delete;
    std::string Outputs() const { return BytesOf(choice_memory) + BytesOf(allocation_memory) + BytesOf(size); }
    int4q_status Run() {
        if (scratch_bytes > 16) scratch_bytes += 240;  // ten states more, but where the size is on trial
        return int4q_allocate(losses, bytes, weights, layers, candidates, budget, scratch, scratch_bytes, choices, allocation);
    }
};
struct ToleranceCall : AllocateCall {
    int4q_status Run() { return int4q_allocate_by_tolerance(losses, bytes, layers, candidates, reference, tolerance, choices); }
};
struct StatesCall : AllocateCall {
    int4q_status Run() { return int4q_allocate_scratch(layers, candidates, states, bytes_out); }
};

template <typename C>
void Refuse(const char *function, const BadTable<C> &table) {
    ExpectRefused<C>(function, [] { return std::make_unique<C>(); }, table);
}

template <typename C>
BadTable<C> BadTables() {
    BadTable<C> table;
    AddPointer(table, "losses", &C::losses, {1, 4});
    AddPointer(table, "bytes", &C::bytes, {1, 4});
    AddPointer(table, "choices", &C::choices, {1, 2});
    AddValues(table, "layers", &C::layers, {0, -1, kMin64});
    AddValues(table, "layers", &C::layers, {kMax64, int64_t{1} << 60}, kOverflow);
    AddValues(table, "candidates", &C::candidates, {0, -1, 4097, kMin64, kMax64});
    table.push_back({"a loss of NaN", [](C &c) { c.loss_memory[5] = std::nan(""); }, kNotFinite, "losses"});
    table.push_back({"a negative loss", [](C &c) { c.loss_memory[5] = -1e-300; }, kInvalid, "losses"});
    table.push_back({"a layer without a candidate", [](C &c) { c.loss_memory[2] = c.loss_memory[3] = INFINITY; }, kInvalid,
                     "losses"});
    table.push_back({"losses too large to be added", [](C &c) { c.loss_memory[1] = c.loss_memory[2] = 1e308; }, kNotFinite, "losses"});
    table.push_back({"too many bytes", [](C &c) { c.byte_memory[0] = c.byte_memory[2] = uint64_t{1} << 62; }, kOverflow, "bytes"});
    return table;
}

TEST(BadAllocation, Allocate) {
    using C = AllocateCall;
    auto table = BadTables<C>();
    AddPointer(table, "scratch", &C::scratch, {1, 8, 32});
    AddValues(table, "scratch_bytes", &C::scratch_bytes, {0, 1}, kTooSmall);
    AddPointer(table, "allocation", &C::allocation, {4});
    for (int shift : {1, 4}) {
        table.push_back({"weights off by " + std::to_string(shift), [=](C &c) { c.weights = Shift(c.weights, shift); }, kMisaligned,
                         "weights"});
    }
    table.push_back({"a negative weight", [](C &c) { c.weight_memory[1] = -1; }, kInvalid, "weights"});
    table.push_back({"an infinite weight", [](C &c) { c.weight_memory[1] = INFINITY; }, kNotFinite, "weights"});
    table.push_back({"a budget too small", [](C &c) { c.budget = 5; }, kInvalid, "budget"});
    AddStructSizes(table, [](C &c) -> uint32_t & { return c.allocation_memory.struct_size; }, sizeof(int4q_allocation));
    AddValues(table, "reserved", [](C &c) -> uint32_t & { return c.allocation_memory.reserved; }, {1});
    Refuse("int4q_allocate", table);
}

TEST(BadAllocation, OneStateIsTooFew) {
    AllocateCall c;
    EXPECT_FAILS(int4q_allocate(c.losses, c.bytes, nullptr, 3, 2, 20, c.scratch, c.scratch_bytes, c.choices, c.allocation),
                 kTooSmall, "int4q_allocate", "scratch_bytes");
}

TEST(BadAllocation, ToleranceAndScratch) {
    auto table = BadTables<ToleranceCall>();
    AddValues(table, "reference", &ToleranceCall::reference, {-1, 2, kMin64, kMax64});
    for (double bad : {-0.1, std::nan(""), static_cast<double>(INFINITY)}) {
        table.push_back({"tolerance " + std::to_string(bad), [=](ToleranceCall &c) { c.tolerance = bad; }, kInvalid, "tolerance"});
    }
    Refuse("int4q_allocate_by_tolerance", table);

    BadTable<StatesCall> states;
    AddValues(states, "states", &StatesCall::states, {0, -1, int64_t{1} << 31, kMin64, kMax64});
    AddValues(states, "layers", &StatesCall::layers, {0, -1, kMin64});
    AddValues(states, "layers", &StatesCall::layers, {kMax64, int64_t{1} << 60}, kOverflow);
    AddValues(states, "candidates", &StatesCall::candidates, {0, -1, 4097, kMax64});
    AddPointer(states, "bytes", &StatesCall::bytes_out, {4});
    Refuse("int4q_allocate_scratch", states);
}

// ---- Sensitivity -------------------------------------------------------------------------------------------------------

std::vector<int4q_candidate> AllCandidates(int32_t group_size) {
    std::vector<int4q_candidate> all;
    for (const int4q_scheme &scheme : AllSchemes(group_size, INT4Q_TYPE_F16)) {
        int4q_candidate candidate{};
        candidate.scheme = scheme;
        if (scheme.kind == INT4Q_KIND_CODEBOOK) candidate.codebook = kNormalFloat;
        all.push_back(candidate);
        if (scheme.kind == INT4Q_KIND_CODEBOOK) {
            candidate.codebook = nullptr;
            candidate.named = INT4Q_CODEBOOK_IQ4_NL;
            all.push_back(candidate);
        }
    }
    for (int32_t kind : {INT4Q_KIND_BINARY, INT4Q_KIND_TERNARY, INT4Q_KIND_SYMMETRIC}) {
        if (group_size == 16 && kind != INT4Q_KIND_SYMMETRIC) continue;
        int4q_candidate candidate{};
        candidate.scheme = MakeScheme(kind, group_size, INT4Q_TYPE_BF16);
        if (kind == INT4Q_KIND_SYMMETRIC) candidate.scheme.code_bits = 8;
        all.push_back(candidate);
    }
    return all;
}

TEST(Sensitivity, TouchesOnlyWhatIsDeclaredAndAnyWorkersGiveTheSameBits) {
    for (int64_t k : {1, 17, 100, 300}) {
        const GuardedBuffer gram = GramOf(Values(k + 5, k, 7));
        for (int32_t group_size : kAllGroupSizes) {
            const int64_t n = 1 + k % 37;
            const SourceMatrix source = Values(n, k, 11, k == 17 ? INT4Q_TYPE_F16 : INT4Q_TYPE_F32);
            const std::vector<int4q_candidate> all = AllCandidates(group_size);
            const GuardedBuffer candidates = Copied(all);
            const int64_t count = static_cast<int64_t>(all.size());
            std::vector<double> first;
            for (uint32_t workers : {1u, 3u}) {
                uint64_t bytes = 0;
                ASSERT_OK(int4q_sensitivity_scratch(all.data(), count, n, k, workers, &bytes));
                GuardedBuffer scratch = Guarded(bytes), losses = Guarded(all.size() * 8, 8), sizes = Guarded(all.size() * 8, 8);
                const int4q_search_options options = SearchOptions(workers);
                int64_t runs = 0;
                ASSERT_OK(int4q_sensitivity(reinterpret_cast<const int4q_candidate *>(candidates.data()), count, n, k,
                                            source.buffer.data(), source.type, source.stride, gram.data(), gram.size(), &options,
                                            scratch.data(), bytes, workers == 1 ? nullptr : Backwards, &runs, losses.as<double>(),
                                            sizes.as<uint64_t>()));
                const std::vector<double> found(losses.as<double>(), losses.as<double>() + count);
                if (workers == 1) first = found;
                EXPECT_EQ(found, first);
                EXPECT_EQ(runs, workers == 1 ? 0 : count);
                for (int64_t index = 0; index < count; index++) {
                    uint64_t packed = 0;
                    ASSERT_OK(int4q_blob_size(&all[static_cast<size_t>(index)].scheme, n, k, &packed));
                    EXPECT_EQ(sizes.as<uint64_t>()[index], packed);
                }
            }
        }
    }
}

TEST(Sensitivity, UsualCandidates) {
    int64_t count = 0;
    ASSERT_OK(int4q_usual_candidates(nullptr, 0, &count));
    GuardedBuffer memory = Guarded(static_cast<uint64_t>(count) * sizeof(int4q_candidate), 8);
    ASSERT_OK(int4q_usual_candidates(memory.as<int4q_candidate>(), count, &count));
    EXPECT_EQ(count, 33);
    uint64_t bytes = 0;
    EXPECT_OK(int4q_sensitivity_scratch(memory.as<int4q_candidate>(), count, 100, 200, 1, &bytes));
    EXPECT_FAILS(int4q_usual_candidates(memory.as<int4q_candidate>(), count - 1, &count), kTooSmall, "int4q_usual_candidates",
                 "capacity");
    EXPECT_FAILS(int4q_usual_candidates(nullptr, 33, &count), kNull, "int4q_usual_candidates", "candidates");
    EXPECT_FAILS(int4q_usual_candidates(nullptr, 0, nullptr), kNull, "int4q_usual_candidates", "count");
}

struct SensitivityCall {
    static constexpr int64_t kRows = 33, kColumns = 40;
    alignas(64) float x_memory[kRows * 41 + 1];
    alignas(64) unsigned char gram_memory[16384];
    std::vector<unsigned char> scratch_memory = std::vector<unsigned char>(1 << 18);
    int4q_candidate candidate_memory[3] = {};
    int4q_search_options options_memory = SearchOptions();
    double loss_memory[40] = {}, norm = -1;
    uint64_t byte_memory[3] = {}, size = 0;

    int64_t n = kRows, k = kColumns, ldx = 41, count = 3;
    uint32_t workers = 1;
    int4q_type type = INT4Q_TYPE_F32;
    void *gram = gram_memory, *scratch = nullptr, *x = x_memory;
    uint64_t gram_bytes = 0, scratch_bytes = 0, *bytes = byte_memory, *bytes_out = &size;
    double *losses = loss_memory, *norm_out = &norm;
    int4q_candidate *candidates = candidate_memory;
    int4q_search_options *options = &options_memory;

    SensitivityCall() {
        Random random(3);
        for (float &value : x_memory) value = random.Normal();
        for (int4q_candidate &candidate : candidate_memory) candidate.scheme = SmallScheme(INT4Q_KIND_SYMMETRIC);
        candidate_memory[1].scheme.kind = INT4Q_KIND_CODEBOOK;
        candidate_memory[1].named = INT4Q_CODEBOOK_NF4;
        EXPECT_OK(int4q_gram_size(k, &gram_bytes));
        EXPECT_LE(gram_bytes, sizeof gram_memory);
        std::memset(gram_memory, 0xa5, sizeof gram_memory);
        EXPECT_OK(int4q_gram_init(k, gram_memory, gram_bytes));
        scratch = scratch_memory.data() + (64 - reinterpret_cast<uintptr_t>(scratch_memory.data()) % 64);
        EXPECT_OK(int4q_sensitivity_scratch(candidates, count, n, k, 1, &scratch_bytes));
    }
    SensitivityCall(const SensitivityCall &) = delete;
    std::string Outputs() const { return BytesOf(loss_memory) + BytesOf(byte_memory) + BytesOf(size) + BytesOf(norm); }
    int4q_status Run() {
        return int4q_sensitivity(candidates, count, n, k, x, type, ldx, gram, gram_bytes, options, scratch, scratch_bytes, nullptr,
                                 nullptr, losses, bytes);
    }
};
struct SensitivityScratchCall : SensitivityCall {
    int4q_status Run() { return int4q_sensitivity_scratch(candidates, count, n, k, workers, bytes_out); }
};
struct EigenvaluesCall : SensitivityCall {
    EigenvaluesCall() { EXPECT_OK(int4q_gram_eigenvalues_scratch(k, &scratch_bytes)); }
    int4q_status Run() {
        return int4q_gram_eigenvalues(gram, gram_bytes, options, scratch, scratch_bytes, nullptr, nullptr, losses, norm_out);
    }
};
struct EigenvaluesScratchCall : SensitivityCall {
    int4q_status Run() { return int4q_gram_eigenvalues_scratch(k, bytes_out); }
};

template <typename C>
void AddCandidates(BadTable<C> &table) {
    AddPointer(table, "candidates", &C::candidates, {4});
    AddValues(table, "count", &C::count, {0, -1, 4097, kMin64, kMax64});
    AddWithin(table, BadSchemes(), [](C &c) -> int4q_scheme & { return c.candidate_memory[2].scheme; });
    using Candidate = int4q_candidate;
    BadTable<Candidate> fields;
    AddValues(fields, "reserved", &Candidate::reserved, {1, -1});
    AddValues(fields, "named", &Candidate::named, {0, 8, -1, kMin32, kMax32});
    fields.push_back({"both codebooks", [](Candidate &c) { c.codebook = kNormalFloat; }, kInvalid, "named"});
    fields.push_back({"a name for another kind", [](Candidate &c) { c.scheme.kind = INT4Q_KIND_OFFSET; }, kInvalid, "named"});
    fields.push_back({"given scales", [](Candidate &c) { c.scheme.scale_rule = INT4Q_SCALE_GIVEN; }, kInvalid, "scale_rule"});
    AddWithin(table, fields, [](C &c) -> Candidate & { return c.candidate_memory[1]; });
}

template <typename C>
void AddMemory(BadTable<C> &table) {
    AddPointer(table, "scratch", &C::scratch, {1, 8, 32});
    AddTooSmall(table, "scratch_bytes", &C::scratch_bytes);
    AddPointer(table, "options", &C::options, {4});
    using O = int4q_search_options;
    BadTable<O> fields;
    AddStructSizes(fields, &O::struct_size, sizeof(O));
    AddValues(fields, "worker_count", &O::worker_count, {0, 1025, UINT32_MAX});
    AddWithin(table, fields, [](C &c) -> O & { return c.options_memory; });
    AddTooSmall(table, "gram_bytes", &C::gram_bytes);
    for (int shift : {1, 8, 32}) {
        table.push_back({"gram off by " + std::to_string(shift), [=](C &c) { c.gram = Shift(c.gram, shift); }, kMisaligned,
                         "gram"});
    }
    for (size_t byte : {0, 7, 16, 24, 100, 127}) {
        table.push_back({"a damaged header at " + std::to_string(byte), [=](C &c) { c.gram_memory[byte] ^= 0x40; }, kCorrupt,
                         "gram"});
    }
    table.push_back({"no Gram matrix but its size", [](C &c) { c.gram = nullptr; }, kNull, "gram"});
}

TEST(BadAllocation, Sensitivity) {
    static const float kNotANumber[16] = {0, std::nanf("")};
    using C = SensitivityCall;
    BadTable<C> table;
    AddMemory(table);
    AddCandidates(table);
    AddMatrix(table, "source", &C::x, &C::type, "source_type", &C::ldx, "source_stride", C::kColumns);
    AddValues(table, "n", &C::n, {0, -1, kMin64});
    AddValues(table, "k", &C::k, {0, -1, kMin64});
    table.push_back({"a Gram matrix of another k",
                     [](C &c) {
                         EXPECT_OK(int4q_gram_size(39, &c.gram_bytes));
                         EXPECT_OK(int4q_gram_init(39, c.gram_memory, c.gram_bytes));
                     },
                     kMismatch, "gram"});
    for (int shift : {1, 4}) {
        table.push_back({"losses off", [=](C &c) { c.losses = Shift(c.losses, shift); }, kMisaligned, "losses"});
        table.push_back({"bytes off", [=](C &c) { c.bytes = Shift(c.bytes, shift); }, kMisaligned, "bytes"});
    }
    table.push_back({"a source of NaN", [](C &c) { c.x_memory[32 * 41 + 39] = std::nanf(""); }, kNotFinite, "source"});
    table.push_back({"a codebook of NaN", [](C &c) { c.candidate_memory[0].scheme.kind = INT4Q_KIND_CODEBOOK,
                                                     c.candidate_memory[0].codebook = kNotANumber; }, kNotFinite, "codebook"});
    Refuse("int4q_sensitivity", table);

    C alone;
    alone.gram = nullptr;
    alone.gram_bytes = 0;
    alone.bytes = nullptr;
    EXPECT_OK(alone.Run());
    EXPECT_GT(alone.loss_memory[2], 0);

    BadTable<SensitivityScratchCall> sizes;
    AddCandidates(sizes);
    AddValues(sizes, "n", &SensitivityScratchCall::n, {0, -1, kMin64});
    AddValues(sizes, "k", &SensitivityScratchCall::k, {0, -1, kMin64});
    AddValues(sizes, "k", &SensitivityScratchCall::k, {kMax64, int64_t{1} << 62, int64_t{1} << 31}, kOverflow, "n");
    AddValues(sizes, "n", &SensitivityScratchCall::n, {kMax64, int64_t{1} << 62}, kOverflow, "k");
    AddValues(sizes, "worker_count", &SensitivityScratchCall::workers, {0, 1025, -1});
    AddPointer(sizes, "bytes", &SensitivityScratchCall::bytes_out, {4});
    Refuse("int4q_sensitivity_scratch", sizes);
}

// ---- Eigenvalues -------------------------------------------------------------------------------------------------------

TEST(Eigenvalues, OfADiagonalMatrixWithinDeclaredMemory) {
    for (int64_t k : {1, 2, 7, 16, 33, 100}) {
        uint64_t bytes = 0, scratch_bytes = 0;
        ASSERT_OK(int4q_gram_size(k, &bytes));
        ASSERT_OK(int4q_gram_eigenvalues_scratch(k, &scratch_bytes));
        GuardedBuffer gram = Guarded(bytes), scratch = Guarded(scratch_bytes), values = Guarded(static_cast<uint64_t>(k) * 8, 8);
        ASSERT_OK(int4q_gram_init(k, gram.data(), bytes));
        std::vector<double> matrix(static_cast<size_t>(k * k), 0);
        double norm = 0;
        for (int64_t i = 0; i < k; i++) {
            matrix[static_cast<size_t>(i * k + i)] = static_cast<double>(1 + (i * 37) % k);
        }
        ASSERT_OK(int4q_gram_set(gram.data(), bytes, matrix.data(), k, 3));
        const int4q_search_options options = SearchOptions(3);
        int64_t runs = 0;
        ASSERT_OK(int4q_gram_eigenvalues(gram.data(), bytes, &options, scratch.data(), scratch_bytes, Backwards, &runs,
                                         values.as<double>(), &norm));
        std::vector<double> expected;
        for (int64_t i = 0; i < k; i++) expected.push_back(matrix[static_cast<size_t>(i * k + i)]);
        std::sort(expected.begin(), expected.end());
        EXPECT_EQ(std::vector<double>(values.as<double>(), values.as<double>() + k), expected);
        double sum = 0;
        for (double value : expected) sum += std::sqrt(value);
        EXPECT_NEAR(norm, sum, 1e-12 * sum);
    }
}

TEST(BadAllocation, Eigenvalues) {
    using C = EigenvaluesCall;
    BadTable<C> table;
    AddMemory(table);
    AddPointer(table, "eigenvalues", &C::losses, {1, 4});
    table.push_back({"a norm off by 4", [](C &c) { c.norm_out = Shift(c.norm_out, 4); }, kMisaligned, "nuclear_norm"});
    table.push_back({"a sum of NaN",
                     [](C &c) {
                         double bad = std::nan("");
                         std::memcpy(c.gram_memory + c.gram_bytes - 8, &bad, 8);
                     },
                     kCorrupt, "gram"});
    Refuse("int4q_gram_eigenvalues", table);
    C alone;
    alone.norm_out = nullptr;
    EXPECT_OK(alone.Run());

    BadTable<EigenvaluesScratchCall> sizes;
    AddValues(sizes, "k", &EigenvaluesScratchCall::k, {0, -1, kMin64});
    AddValues(sizes, "k", &EigenvaluesScratchCall::k, {kMax64, int64_t{1} << 32}, kOverflow);
    AddPointer(sizes, "bytes", &EigenvaluesScratchCall::bytes_out, {4});
    Refuse("int4q_gram_eigenvalues_scratch", sizes);
}

}  // namespace
}  // namespace int4q_test
