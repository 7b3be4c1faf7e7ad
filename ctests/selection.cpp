// SPDX-License-Identifier: Apache-2.0
// Selecting samples to calibrate with: the end of section 10 of the header, against plain re-derivations.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "int4q.h"
#include "int4q.hpp"
#include "support/bad_arguments.hpp"
#include "support/floats.hpp"
#include "support/guarded_buffer.hpp"
#include "support/isa.hpp"
#include "support/random.hpp"
#include "support/source_matrix.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

// ---- At random -------------------------------------------------------------------------------------------------------

// Lemire's integers below a bound, of SplitMix64.
int64_t Below(Random &random, uint64_t bound) {
    while (true) {
        const unsigned __int128 product = static_cast<unsigned __int128>(random.Bits()) * bound;
        if (static_cast<uint64_t>(product) >= -bound % bound) return static_cast<int64_t>(product >> 64);
    }
}

std::vector<int64_t> Select(int64_t count, int64_t n, uint64_t seed) {
    GuardedBuffer indices(static_cast<size_t>(n) * 8, Placement::kRight, 8);
    EXPECT_OK(int4q_select_random(count, n, seed, indices.as<int64_t>()));
    return {indices.as<int64_t>(), indices.as<int64_t>() + n};
}

TEST(SelectRandom, FollowsTheDocumentedGenerator) {
    for (uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{20240917}, ~uint64_t{0}}) {
        for (int64_t count : {1, 2, 10, 1000}) {
            for (int64_t n : {int64_t{1}, count / 2 + 1, count}) {
                Random random(seed);
                std::vector<int64_t> wanted;
                for (int64_t i = 0, left = n; i < count && left > 0; i++) {
                    if (Below(random, static_cast<uint64_t>(count - i)) < left) wanted.push_back(i), left--;
                }
                ASSERT_EQ(Select(count, n, seed), wanted);
            }
        }
    }
    // Numbers for other implementations to compare with.
    ASSERT_EQ(Select(1000, 5, 42), (std::vector<int64_t>{171, 215, 564, 718, 808}));
}

// Every set as often as every other: chi squared of 252 sets of 5 in 10, at 6 standard deviations.
TEST(SelectRandom, EverySetIsAsLikely) {
    std::vector<double> counts(1024);
    const int draws = 252 * 100;
    for (int seed = 0; seed < draws; seed++) {
        const std::vector<int64_t> indices = Select(10, 5, static_cast<uint64_t>(seed));
        ASSERT_TRUE(std::is_sorted(indices.begin(), indices.end()));
        size_t set = 0;
        for (int64_t index : indices) set |= size_t{1} << index;
        counts[set]++;
    }
    double chi = 0;
    int sets = 0;
    for (double count : counts) {
        if (count == 0) continue;
        sets++;
        chi += (count - 100) * (count - 100) / 100;
    }
    ASSERT_EQ(sets, 252);
    ASSERT_NEAR(chi, 251, 6 * std::sqrt(2.0 * 251));
}

// ---- Representatives -------------------------------------------------------------------------------------------------

struct Result {
    std::vector<int64_t> indices, sizes;
    std::vector<int32_t> labels;
    int4q_representatives summary{};
};

int4q_clustering Describe(int64_t clusters, uint64_t seed, int64_t max_iterations = 300, const int64_t *initial = nullptr) {
    int4q_clustering clustering{};
    clustering.struct_size = sizeof clustering;
    clustering.clusters = clusters;
    clustering.max_iterations = max_iterations;
    clustering.seed = seed;
    clustering.initial = initial;
    return clustering;
}

Result Cluster(const SourceMatrix &x, const int4q_clustering &clustering) {
    uint64_t bytes = 0;
    EXPECT_OK(int4q_select_representatives_scratch(x.n, x.k, clustering.clusters, &bytes));
    GuardedBuffer scratch(static_cast<size_t>(bytes), Placement::kRight, 64);
    const auto clusters = static_cast<size_t>(clustering.clusters);
    GuardedBuffer indices(clusters * 8, Placement::kRight, 8), sizes(clusters * 8, Placement::kRight, 8);
    GuardedBuffer labels(static_cast<size_t>(x.n) * 4, Placement::kRight, 4);
    Result result;
    result.summary.struct_size = sizeof result.summary;
    EXPECT_OK(int4q_select_representatives(&clustering, x.buffer.data(), x.type, x.n, x.k, x.stride, scratch.data(), bytes,
                                           indices.as<int64_t>(), sizes.as<int64_t>(), labels.as<int32_t>(), &result.summary));
    const auto selected = static_cast<size_t>(result.summary.selected);
    EXPECT_LE(selected, clusters);
    for (size_t i = selected; i < clusters; i++) {
        EXPECT_EQ(indices.as<int64_t>()[i], -1);
        EXPECT_EQ(sizes.as<int64_t>()[i], 0);
    }
    result.indices.assign(indices.as<int64_t>(), indices.as<int64_t>() + selected);
    result.sizes.assign(sizes.as<int64_t>(), sizes.as<int64_t>() + selected);
    result.labels.assign(labels.as<int32_t>(), labels.as<int32_t>() + x.n);
    return result;
}

using Points = std::vector<std::vector<double>>;

double SquaredDistance(const SourceMatrix &x, int64_t row, const std::vector<double> &point) {
    double sums[8] = {};
    for (int64_t l = 0; l < x.k; l++) {
        const double difference = static_cast<double>(x(row, l)) - point[static_cast<size_t>(l)];
        const double square = difference * difference;
        sums[l % 8] += square;
    }
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

std::vector<double> RowOf(const SourceMatrix &x, int64_t row) {
    std::vector<double> values;
    for (int64_t l = 0; l < x.k; l++) values.push_back(x(row, l));
    return values;
}

// The header's definition, every distance computed. Without initial rows by k-means++.
Result Rederive(const SourceMatrix &x, int64_t clusters, uint64_t seed, int64_t max_iterations, std::vector<int64_t> initial = {}) {
    const auto count = static_cast<size_t>(x.n);
    if (initial.empty()) {
        Random random(seed);
        initial.push_back(Below(random, static_cast<uint64_t>(x.n)));
        std::vector<double> nearest(count, std::numeric_limits<double>::infinity());
        while (static_cast<int64_t>(initial.size()) < clusters) {
            double total = 0, running = 0;
            for (size_t i = 0; i < count; i++) {
                nearest[i] = std::min(nearest[i], SquaredDistance(x, static_cast<int64_t>(i), RowOf(x, initial.back())));
                total += nearest[i];
            }
            if (total == 0) break;
            const double wanted = random.Uniform() * total;
            size_t row = 0;
            while (!(nearest[row] > 0 && (running += nearest[row]) > wanted)) row++;
            initial.push_back(static_cast<int64_t>(row));
        }
    }
    Points points;
    for (int64_t row : initial) points.push_back(RowOf(x, row));
    std::vector<size_t> labels(count, points.size()), sizes;
    Result result;
    while (true) {
        bool changed = false;
        sizes.assign(points.size(), 0);
        for (size_t i = 0; i < count; i++) {
            double least = std::numeric_limits<double>::infinity();
            size_t label = 0;
            for (size_t c = 0; c < points.size(); c++) {
                const double distance = SquaredDistance(x, static_cast<int64_t>(i), points[c]);
                if (distance < least) least = distance, label = c;
            }
            changed |= labels[i] != label;
            labels[i] = label;
            sizes[label]++;
        }
        result.summary.converged = !changed;
        if (!changed || result.summary.iterations == max_iterations) break;
        result.summary.iterations++;
        std::vector<double> distances(count);
        for (size_t i = 0; i < count; i++) distances[i] = SquaredDistance(x, static_cast<int64_t>(i), points[labels[i]]);
        for (size_t c = 0; c < points.size(); c++) {
            if (sizes[c] != 0) continue;
            size_t farthest = count;
            for (size_t i = 0; i < count; i++) {
                if (distances[i] > (farthest == count ? 0 : distances[farthest]) && sizes[labels[i]] > 1) farthest = i;
            }
            if (farthest == count) break;
            sizes[labels[farthest]]--, sizes[c]++, labels[farthest] = c, distances[farthest] = 0;
        }
        for (size_t c = 0; c < points.size(); c++) {
            if (sizes[c] == 0) continue;
            std::vector<double> sum(static_cast<size_t>(x.k));
            for (size_t i = 0; i < count; i++) {
                if (labels[i] != c) continue;
                const std::vector<double> row = RowOf(x, static_cast<int64_t>(i));
                for (size_t l = 0; l < sum.size(); l++) sum[l] += row[l];
            }
            for (size_t l = 0; l < sum.size(); l++) points[c][l] = sum[l] / static_cast<double>(sizes[c]);
        }
    }
    std::vector<double> least(points.size(), std::numeric_limits<double>::infinity());
    std::vector<size_t> nearest(points.size(), count);
    for (size_t i = 0; i < count; i++) {
        const double distance = SquaredDistance(x, static_cast<int64_t>(i), points[labels[i]]);
        result.summary.inertia += distance;
        if (distance < least[labels[i]]) least[labels[i]] = distance, nearest[labels[i]] = i;
    }
    std::vector<int32_t> places(points.size());
    for (size_t i = 0; i < count; i++) {
        if (nearest[labels[i]] != i) continue;
        places[labels[i]] = static_cast<int32_t>(result.indices.size());
        result.indices.push_back(static_cast<int64_t>(i));
        result.sizes.push_back(static_cast<int64_t>(sizes[labels[i]]));
    }
    for (size_t label : labels) result.labels.push_back(places[label]);
    result.summary.selected = static_cast<int64_t>(result.indices.size());
    return result;
}

void ExpectEqual(const Result &got, const Result &wanted) {
    EXPECT_EQ(got.indices, wanted.indices);
    EXPECT_EQ(got.sizes, wanted.sizes);
    EXPECT_EQ(got.labels, wanted.labels);
    EXPECT_EQ(got.summary.iterations, wanted.summary.iterations);
    EXPECT_EQ(got.summary.converged, wanted.summary.converged);
    EXPECT_NEAR(got.summary.inertia, wanted.summary.inertia, 1e-12 * wanted.summary.inertia);
    EXPECT_EQ(std::accumulate(got.sizes.begin(), got.sizes.end(), int64_t{0}), static_cast<int64_t>(got.labels.size()));
}

// Rows of several sorts: blobs, noise, on a grid (ties, duplicates), far from zero, tiny, huge, and two dense ones far apart, in
// which only binary64 can tell one centroid from another.
void Fill(SourceMatrix &x, Random &random, int sort) {
    for (int64_t row = 0; row < x.n; row++) {
        const auto blob = random.Integer(0, 3);
        for (int64_t column = 0; column < x.k; column++) {
            float value = random.Normal();
            if (sort == 0) value = 0.3f * value + static_cast<float>(blob * (column % 3));
            if (sort == 2) value = static_cast<float>(random.Integer(0, 1));
            if (sort == 3) value = 1000 + value;
            if (sort == 4) value *= 0x1p-140f;
            if (sort == 5) value = std::clamp(value, -3.0f, 3.0f) * (x.type == INT4Q_TYPE_F16 ? 10000.0f : 1e38f);
            if (sort == 6) value = 1e-5f * value + static_cast<float>(row % 2 ? column % 5 + 1 : -3);
            x.Set(row, column, value);
        }
    }
}

TEST(SelectRepresentatives, EqualsTheRederivation) {
    Random random(21);
    for (int4q_type type : kTypes) {
        for (int64_t dimensions : {1, 3, 8, 17, 70}) {
            for (int sort = 0; sort < 7; sort++) {
                const int64_t count = random.Integer(60, 150);
                SourceMatrix x(type, count, dimensions, dimensions + sort % 2);
                Fill(x, random, sort);
                x.buffer.ForbidWriting();
                for (int64_t clusters : {1, 2, 5, 9}) {
                    for (int64_t iterations : {0, 1, 300}) {
                        SCOPED_TRACE("type " + std::to_string(type) + " dimensions " + std::to_string(dimensions) + " sort " +
                                     std::to_string(sort) + " clusters " + std::to_string(clusters) + " iterations " +
                                     std::to_string(iterations));
                        const uint64_t seed = random.Bits();
                        IsaLimit limit(random.Pick(UsableIsas()));
                        ExpectEqual(Cluster(x, Describe(clusters, seed, iterations)), Rederive(x, clusters, seed, iterations));
                        // Any rows, some of them twice: clusters start empty.
                        std::vector<int64_t> initial;
                        for (int64_t i = 0; i < clusters; i++) initial.push_back(random.Integer(0, i % 3 ? count - 1 : 2));
                        ExpectEqual(Cluster(x, Describe(clusters, 0, iterations, initial.data())),
                                    Rederive(x, clusters, 0, iterations, initial));
                        if (HasFailure()) return;
                    }
                }
            }
        }
    }
}

TEST(SelectRepresentatives, RowsThatAreEqual) {
    SourceMatrix x(INT4Q_TYPE_F32, 12, 2, 2);
    for (int64_t row = 0; row < 12; row++) x.Set(row, 0, static_cast<float>(row % 3)), x.Set(row, 1, -1);
    for (uint64_t seed = 0; seed < 20; seed++) {
        const Result three = Cluster(x, Describe(5, seed));
        EXPECT_EQ(three.indices, (std::vector<int64_t>{0, 1, 2}));
        EXPECT_EQ(three.sizes, (std::vector<int64_t>{4, 4, 4}));
        EXPECT_EQ(three.summary.inertia, 0);
        EXPECT_EQ(three.summary.converged, 1);
        for (int64_t row = 0; row < 12; row++) EXPECT_EQ(three.labels[static_cast<size_t>(row)], row % 3);
    }
    const std::vector<int64_t> same(5, 4);  // one cluster gets all rows, the others the farthest until none is left
    EXPECT_EQ(Cluster(x, Describe(5, 0, 300, same.data())).indices, (std::vector<int64_t>{0, 1, 2}));
    for (int64_t clusters : {12, 13, 100}) {
        const Result all = Cluster(x, Describe(clusters, 7));
        EXPECT_EQ(all.summary.selected, 12);
        EXPECT_EQ(all.summary.converged, 1);
        for (int64_t row = 0; row < 12; row++) {
            const auto at = static_cast<size_t>(row);
            EXPECT_EQ(all.indices[at], row);
            EXPECT_EQ(all.sizes[at], 1);
            EXPECT_EQ(all.labels[at], row);
        }
    }
}

// Blobs far apart: one representative of each, whatever the seed.
TEST(SelectRepresentatives, FindsSeparateClusters) {
    Random random(22);
    const int64_t count = 700, dimensions = 40;
    SourceMatrix x(INT4Q_TYPE_F32, count, dimensions, dimensions);
    for (int64_t row = 0; row < count; row++) {
        for (int64_t l = 0; l < dimensions; l++) x.Set(row, l, 0.01f * random.Normal() + (l % 7 == row % 7 ? 10.0f : 0.0f));
    }
    for (uint64_t seed = 0; seed < 10; seed++) {
        const Result result = Cluster(x, Describe(7, seed));
        EXPECT_EQ(result.sizes, std::vector<int64_t>(7, 100));
        std::set<int64_t> blobs;
        for (int64_t index : result.indices) blobs.insert(index % 7);
        EXPECT_EQ(blobs.size(), 7u);
        EXPECT_TRUE(std::is_sorted(result.indices.begin(), result.indices.end()));
    }
}

TEST(SelectRepresentatives, CppWrapper) {
    EXPECT_EQ(int4q::select_random(1000, 5, 42), Select(1000, 5, 42));
    EXPECT_THROW(int4q::select_random(5, 6), int4q::Error);
    const std::vector<float> rows = {0, 0, 0, 1, 50, 50, 51, 50, 50, 51};
    const int4q::Representatives found = int4q::select_representatives({rows, 5, 2}, 2, 1);
    EXPECT_EQ(found.indices, (std::vector<int64_t>{0, 2}));
    EXPECT_EQ(found.sizes, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(found.labels, (std::vector<int32_t>{0, 0, 1, 1, 1}));
    EXPECT_EQ(int4q::select_representatives({rows, 5, 2}, 7).indices.size(), 5u);
    EXPECT_THROW(int4q::select_representatives({rows, 5, 2}, 0), int4q::Error);
}

// ---- Bad arguments ---------------------------------------------------------------------------------------------------

struct RandomCall {
    int64_t count = 9, n = 4;
    int64_t memory[6] = {};
    int64_t *indices = memory;
    int4q_status Run() { return int4q_select_random(count, n, 1, indices); }
    std::string Outputs() const { return BytesOf(memory); }
};

TEST(BadSelectionArguments, Random) {
    using C = RandomCall;
    BadTable<C> table;
    AddValues(table, "count", &C::count, {0, -1, kMin64});
    AddValues(table, "count", &C::count, {3}, kInvalid, "n");
    AddValues(table, "n", &C::n, {0, -1, kMin64, 10, kMax64});
    table.push_back({"n of 2^62", [](C &c) { c.count = kMax64, c.n = int64_t{1} << 62; }, kOverflow, "n"});
    AddPointer(table, "indices", &C::indices, {1, 4});
    ExpectRefused<C>("int4q_select_random", [] { return std::make_unique<C>(); }, table);
}

struct ScratchCall {
    int64_t count = 9, dimensions = 4, clusters = 3;
    uint64_t memory[2] = {};
    uint64_t *bytes = memory;
    int4q_status Run() { return int4q_select_representatives_scratch(count, dimensions, clusters, bytes); }
    std::string Outputs() const { return BytesOf(memory); }
};

template <typename C>
void AddSizes(BadTable<C> &table) {
    AddValues(table, "count", &C::count, {0, -1, kMin64});
    AddValues(table, "dimensions", &C::dimensions, {0, -1, kMin64});
    AddValues(table, "count", &C::count, {kMax64, int64_t{1} << 60}, kOverflow);
    AddValues(table, "dimensions", &C::dimensions, {kMax64, int64_t{1} << 59}, kOverflow, "clusters");
    AddValues(table, "clusters", &C::clusters, {0, -1, kMin64, int64_t{1} << 31, kMax64});
}

TEST(BadSelectionArguments, Scratch) {
    BadTable<ScratchCall> table;
    AddSizes(table);
    AddPointer(table, "bytes", &ScratchCall::bytes, {4});
    ExpectRefused<ScratchCall>("int4q_select_representatives_scratch", [] { return std::make_unique<ScratchCall>(); }, table);
}

struct RepresentativesCall {
    static constexpr int64_t kRows = 9, kColumns = 4;
    RepresentativesCall() {
        for (int i = 0; i < 46; i++) numbers[i] = static_cast<float>(i * i % 17);
        EXPECT_OK(int4q_select_representatives_scratch(kRows, kColumns, 3, &scratch_bytes));
        EXPECT_LE(scratch_bytes, sizeof memory - 64);
        results[0].struct_size = sizeof results[0];
        how.initial = initial;
    }
    alignas(64) float numbers[48] = {};
    alignas(64) unsigned char memory[40000] = {};
    int64_t initial[4] = {0, 8, 5};
    int4q_clustering how = Describe(3, 1);
    const int4q_clustering *clustering = &how;
    int64_t &clusters = how.clusters;
    const void *features = numbers;
    int4q_type type = INT4Q_TYPE_F32;
    int64_t count = kRows, dimensions = kColumns, stride = 5;
    void *scratch = memory;
    uint64_t scratch_bytes = 0;
    int64_t written[2][4] = {};
    int32_t label_memory[10] = {};
    int4q_representatives results[2] = {};
    int64_t *indices = written[0], *sizes = written[1];
    int32_t *labels = label_memory;
    int4q_representatives *result = results;
    int4q_status Run() {
        return int4q_select_representatives(clustering, features, type, count, dimensions, stride, scratch, scratch_bytes, indices,
                                            sizes, labels, result);
    }
    std::string Outputs() const { return BytesOf(written) + BytesOf(label_memory) + BytesOf(results[1]); }
};

TEST(BadSelectionArguments, Representatives) {
    using C = RepresentativesCall;
    BadTable<C> table;
    AddPointer(table, "clustering", &C::clustering, {4});
    AddStructSizes(table, [](C &c) -> uint32_t & { return c.how.struct_size; }, sizeof(int4q_clustering));
    AddValues(table, "reserved", [](C &c) -> uint32_t & { return c.how.reserved; }, {1});
    AddValues(table, "max_iterations", [](C &c) -> int64_t & { return c.how.max_iterations; }, {-1, kMin64});
    AddValues(table, "clusters", [](C &c) -> int64_t & { return c.how.clusters; }, {0, -1, kMin64, int64_t{1} << 31, kMax64});
    table.push_back({"initial off by 4", [](C &c) { c.how.initial = Shift(c.how.initial, 4); }, kMisaligned, "initial"});
    for (int64_t row : {int64_t{-1}, int64_t{9}, kMin64, kMax64}) {
        table.push_back({"initial row " + std::to_string(row), [=](C &c) { c.initial[2] = row; }, kInvalid, "initial"});
    }
    AddValues(table, "count", &C::count, {0, -1, kMin64});
    AddValues(table, "dimensions", &C::dimensions, {0, -1, kMin64});
    AddMatrix(table, "features", &C::features, &C::type, "features_type", &C::stride, "features_stride", C::kColumns);
    AddPointer(table, "scratch", &C::scratch, {1, 8, 32});
    AddTooSmall(table, "scratch_bytes", &C::scratch_bytes);
    AddPointer(table, "indices", &C::indices, {1, 4});
    for (int shift : {1, 4}) {
        table.push_back({"sizes off", [=](C &c) { c.sizes = Shift(c.sizes, shift); }, kMisaligned, "sizes"});
        table.push_back({"result off", [=](C &c) { c.result = Shift(c.result, shift); }, kMisaligned, "result"});
    }
    table.push_back({"labels off", [](C &c) { c.labels = Shift(c.labels, 2); }, kMisaligned, "labels"});
    table.push_back({"result's size", [](C &c) { c.result->struct_size = 8; }, kStructSize, "struct_size"});
    const float infinity = std::numeric_limits<float>::infinity();
    for (float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
        table.push_back({"features of " + std::to_string(bad), [=](C &c) { c.numbers[5 * 8 + 3] = bad; }, kNotFinite, "features"});
    }
    ExpectRefused<C>("int4q_select_representatives", [] { return std::make_unique<C>(); }, table);
    // What may be NULL, and more clusters than rows, where nothing is searched but values are still looked at.
    C call;
    call.sizes = nullptr, call.labels = nullptr, call.result = nullptr, call.how.initial = nullptr;
    EXPECT_OK(call.Run());
    call.how.clusters = 9, call.numbers[5 * 8 + 3] = infinity;
    int64_t many[9];
    call.indices = many;
    EXPECT_EQ(call.Run(), INT4Q_ERROR_NOT_FINITE);
}

}  // namespace
}  // namespace int4q_test
