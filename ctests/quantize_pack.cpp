// SPDX-License-Identifier: Apache-2.0
// int4q_quantize_pack_rows(): the bytes that int4q_quantize_rows() and then int4q_pack_rows() give, and their errors.
// Also what a nonsensical INT4Q_ISA in the environment does to this and every other function.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <array>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/bad_arguments.hpp"
#include "support/bad_blobs.hpp"
#include "support/blob_memory.hpp"
#include "support/isa.hpp"
#include "support/random.hpp"
#include "support/reference_packer.hpp"
#include "support/source_matrix.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

using Source = SourceMatrix;
using Bytes = std::vector<uint8_t>;

// No order, values twice, of which the largest is negative.
constexpr float kJumbled[16] = {3, -3, 1, 1, -1, 0, 2, -2, 4, 4, -4, 5, 6, -6, 7, -8};

struct Outcome {
    int4q_status status = INT4Q_OK;
    std::string value;  // the error's, if there was one
    Bytes bytes;        // the whole blob, whatever the status
};

uint64_t BlobBytes(const int4q_scheme &scheme, int64_t n, int64_t k) {
    uint64_t bytes = 0;
    EXPECT_OK(int4q_blob_size(&scheme, n, k, &bytes));
    return bytes;
}

// Scheme and codebook between guard pages, for reading only.
class Fused {
public:
    explicit Fused(const int4q_scheme &wanted, const float *values = kNormalFloat)
        : scheme_(sizeof wanted, Placement::kRight, alignof(int4q_scheme)) {
        std::memcpy(scheme_.data(), &wanted, sizeof wanted);
        scheme_.ForbidWriting();
        if (wanted.kind != INT4Q_KIND_CODEBOOK) return;
        codebook_ = GuardedBuffer(16 * sizeof(float), Placement::kRight, sizeof(float));
        std::memcpy(codebook_.data(), values, 16 * sizeof(float));
        codebook_.ForbidWriting();
    }

    const int4q_scheme &scheme() { return *scheme_.as<int4q_scheme>(); }

    int4q_status Run(const Source &source, GuardedBuffer &blob, int64_t begin, int64_t end) {
        const float *codebook = codebook_.size() ? codebook_.as<float>() : nullptr;
        return int4q_quantize_pack_rows(&scheme(), source.n, source.k, codebook, source.buffer.data(), source.type,
                                        source.stride, blob.data(), blob.size(), begin, end);
    }

    // The whole matrix into memory of exactly the blob's size.
    Outcome Run(const Source &source) {
        GuardedBuffer blob(BlobBytes(scheme(), source.n, source.k), Placement::kRight, INT4Q_ALIGNMENT);
        return Take(Run(source, blob, 0, source.n), blob);
    }

    static Outcome Take(int4q_status status, const GuardedBuffer &blob) {
        Outcome outcome;
        outcome.status = status;
        if (status != INT4Q_OK) outcome.value = LastError().value;
        outcome.bytes.assign(blob.data(), blob.data() + blob.size());
        return outcome;
    }

private:
    GuardedBuffer scheme_, codebook_;
};

// int4q_quantize_rows(), then int4q_pack_rows().
Outcome InTwoSteps(const int4q_scheme &scheme, const Source &source, const float *codebook) {
    TensorMemory tensor(scheme, source.n, source.k, Placement::kRight, codebook);
    GuardedBuffer blob(BlobBytes(scheme, source.n, source.k), Placement::kRight, INT4Q_ALIGNMENT);
    int4q_status status = source.Quantize(tensor);
    if (status == INT4Q_OK) status = int4q_pack_rows(tensor.get(), blob.data(), blob.size(), 0, source.n);
    return Fused::Take(status, blob);
}

::testing::AssertionResult Same(const Outcome &want, const Outcome &got) {
    if (want.status != got.status) {
        return ::testing::AssertionFailure() << "two steps: " << int4q_status_string(want.status) << " " << want.value
                                             << ", one: " << int4q_status_string(got.status) << " " << got.value;
    }
    if (want.status != INT4Q_OK) return ::testing::AssertionSuccess();
    // Where blocks differ their checksums do: say where the blocks do first.
    const auto blocks = static_cast<size_t>(GetField<uint64_t>(want.bytes.data(), kBlocksOffsetAt));
    for (size_t j = 0; j < want.bytes.size(); j++) {
        const size_t i = (blocks + j) % want.bytes.size();
        if (want.bytes[i] == got.bytes[i]) continue;
        return ::testing::AssertionFailure() << "byte " << i << " of " << want.bytes.size() << ", blocks from " << blocks
                                             << ": two steps give " << int{want.bytes[i]} << ", one gives "
                                             << int{got.bytes[i]};
    }
    return ::testing::AssertionSuccess();
}

// Where several rows are at fault any may be named, with what int4q_quantize_rows() reports for that row alone.
::testing::AssertionResult NamesAFault(const int4q_scheme &scheme, const Source &source, const float *codebook,
                                       const std::string &value) {
    long long row = -1;
    const size_t at = value.find("row ");
    if (at != std::string::npos) std::sscanf(value.c_str() + at, "row %lld", &row);
    if (row < 0 || row >= source.n) return ::testing::AssertionFailure() << value << " names no row";
    TensorMemory tensor(scheme, source.n, source.k, Placement::kRight, codebook);
    const int4q_status status = source.Quantize(tensor, row, row + 1);
    if (status == INT4Q_ERROR_NOT_FINITE && value == LastError().value) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "reported: " << value << "; that row alone: " << Describe(status);
}

// With every instruction set. Says whether the matrix could be quantized.
bool Check(const int4q_scheme &scheme, Source &source, const float *codebook = kNormalFloat) {
    source.buffer.ForbidWriting();
    Fused fused(scheme, codebook);
    bool finite = true;
    for (int4q_isa isa : UsableIsas()) {
        IsaLimit limit(isa);
        SCOPED_TRACE(Name(scheme) + ", source " + TypeName(source.type) + " " + std::to_string(source.n) + " x " +
                     std::to_string(source.k) + " stride " + std::to_string(source.stride) + ", " + int4q_isa_name(isa));
        const Outcome want = InTwoSteps(scheme, source, codebook), got = fused.Run(source);
        finite = want.status == INT4Q_OK;
        EXPECT_TRUE(Same(want, got));
        if (finite || want.value == got.value) continue;
        EXPECT_TRUE(NamesAFault(scheme, source, codebook, got.value)) << "two steps report " << want.value;
    }
    source.buffer.AllowWriting();
    return finite;
}

TEST(QuantizePack, EqualsTwoStepsForEveryScheme) {
    Random random(1);
    for (int4q_type source_type : kTypes) {
        for (int4q_type scale_type : kTypes) {
            for (int32_t group_size : kAllGroupSizes) {
                for (const int4q_scheme &scheme : AllSchemes(group_size, scale_type)) {
                    for (int i = 0; i < Samples(2); i++) {
                        const int64_t n = random.Integer(1, 67), k = random.Integer(1, 67);
                        const Placement placement = random.Chance(0.5) ? Placement::kLeft : Placement::kRight;
                        Source source(source_type, n, k, k + random.Integer(0, 3), placement);
                        FillMixed(source, random);
                        EXPECT_TRUE(Check(scheme, source, random.Chance(0.5) ? kNormalFloat : kJumbled));
                        ASSERT_FALSE(HasFailure());
                    }
                }
            }
        }
    }
}

TEST(QuantizePack, EqualsTwoStepsForLargerMatrices) {
    Random random(2);
    for (int4q_type source_type : kTypes) {
        Source source(source_type, 300, 520, 523);
        FillMixed(source, random);
        for (int32_t group_size : kAllGroupSizes) {
            // Each scheme with one of the scale types; over all sources and group sizes, with each.
            for (const int4q_scheme &scheme : AllSchemes(group_size, kTypes[random.Integer(0, 2)])) {
                EXPECT_TRUE(Check(scheme, source));
                ASSERT_FALSE(HasFailure());
            }
        }
    }
}

TEST(QuantizePack, EqualsTwoStepsForRowsLongerThanOnePackedGroup) {
    Random random(3);
    for (int64_t k : {65535, 65536, 65537, 70001}) {
        for (const int4q_scheme &scheme : OneSchemeOfEachKind(INT4Q_GROUP_PER_ROW, INT4Q_TYPE_BF16)) {
            Source source(INT4Q_TYPE_F32, 2, k, k);
            FillMixed(source, random);
            EXPECT_TRUE(Check(scheme, source));
        }
    }
}

// Runs of 16 elements, each of another sort of what is hard to quantize. `steps` is how many steps of the scale the
// largest magnitude (SYMMETRIC, CODEBOOK) or the range (the others) is, so that s (j + 0.5) is half way between codes.
void FillSpecial(Source &source, Random &random, float steps) {
    const bool half = source.type == INT4Q_TYPE_F16;
    const int lowest = half ? -24 : source.type == INT4Q_TYPE_BF16 ? -133 : -149, highest = half ? 15 : 127;
    const float huge = half ? 65504.0f : 3e38f, tiny = std::ldexp(1.0f, lowest);
    for (int64_t row = 0; row < source.n; row++) {
        // Huge values in few rows only: most scale types refuse the whole matrix for one of them.
        const int64_t sorts = random.Chance(0.02) ? 10 : 7;
        for (int64_t from = 0; from < source.k; from += 16) {
            const int64_t sort = random.Integer(0, sorts);
            const float scale = std::ldexp(1.0f, static_cast<int>(random.Integer(half ? -9 : -13, half ? 8 : 13)));
            const float constant = sort == 2 ? tiny * static_cast<float>(random.Integer(-3, 3)) : random.Normal() * scale;
            for (int64_t column = from; column < std::min(source.k, from + 16); column++) {
                const float sign = random.Chance(0.5) ? -1.0f : 1.0f;
                float value = 0;
                switch (sort) {
                    case 0: value = sign * 0.0f; break;
                    case 1:
                    case 2: value = constant; break;
                    case 3: value = sign * tiny * static_cast<float>(random.Integer(0, 40)); break;
                    case 4:
                    case 5:  // ties, with the extreme that makes the scale what it is
                        value = column == from ? (sort == 4 ? -steps * scale : steps * scale)
                                               : scale * (static_cast<float>(random.Integer(-9, 8)) + 0.5f);
                        break;
                    case 6: value = sign * std::ldexp(1.0f, static_cast<int>(random.Integer(half ? -24 : -30, 15))); break;
                    case 7: value = sign * scale * (static_cast<float>(random.Integer(0, 15)) + 0.5f); break;
                    case 8: value = sign * huge; break;
                    case 9: value = sign * huge * random.Uniform(0, 1); break;
                    default: value = sign * std::ldexp(1.0f, static_cast<int>(random.Integer(lowest, highest)));
                }
                source.Set(row, column, value);
            }
        }
    }
}

TEST(QuantizePack, EqualsTwoStepsForSpecialValues) {
    Random random(4);
    int finite = 0, refused = 0;
    for (int4q_type source_type : kTypes) {
        for (int4q_type scale_type : kTypes) {
            for (int32_t group_size : {16, 32, 128, INT4Q_GROUP_PER_ROW}) {
                for (const int4q_scheme &scheme : AllSchemes(group_size, scale_type)) {
                    float steps = 8;
                    if (scheme.scale_rule == INT4Q_SCALE_AMAX_7) steps = 7;
                    if (scheme.scale_rule == INT4Q_SCALE_AMAX_7_5) steps = 7.5f;
                    if (scheme.kind == INT4Q_KIND_ASYMMETRIC || scheme.kind == INT4Q_KIND_OFFSET) steps = 15;
                    for (int i = 0; i < Samples(2); i++) {
                        const int64_t k = random.Integer(1, 100);
                        Source source(source_type, random.Integer(1, 40), k, k + random.Integer(0, 2));
                        FillSpecial(source, random, steps);
                        (Check(scheme, source, kJumbled) ? finite : refused)++;
                        ASSERT_FALSE(HasFailure());
                    }
                }
            }
        }
    }
    if (TestScale() >= 1) {
        EXPECT_GT(finite, 300);
        EXPECT_GT(refused, 30);
    }
}

// Every group alone has the same magnitude, anywhere in the type's range.
TEST(QuantizePack, EqualsTwoStepsForGroupsOfAnyMagnitude) {
    Random random(5);
    for (int i = 0; i < Samples(1500); i++) {
        int4q_scheme scheme = random.Pick(AllSchemes(16, kTypes[random.Integer(0, 2)]));
        scheme.group_size = kAllGroupSizes[random.Integer(0, 5)];
        Source source(kTypes[random.Integer(0, 2)], random.Integer(1, 3), random.Integer(1, 70), 70);
        const float limit = source.type == INT4Q_TYPE_F16 ? 65504.0f : 0x1.fep127f;
        const int exponent = static_cast<int>(random.Integer(-152, 127));
        for (int64_t row = 0; row < source.n; row++) {
            for (int64_t column = 0; column < source.k; column++) {
                const float value = std::ldexp(random.Uniform(-2, 2), exponent);
                source.Set(row, column, std::fabs(value) < limit ? value : std::copysign(limit, value));
            }
        }
        Check(scheme, source, kJumbled);
        ASSERT_FALSE(HasFailure());
    }
}

TEST(QuantizePack, CodebooksOfAnyMagnitude) {
    Random random(6);
    for (int i = 0; i < Samples(200); i++) {
        float codebook[16];
        const int exponent = static_cast<int>(random.Integer(-149, 126));
        for (float &value : codebook) value = random.Chance(0.1) ? -0.0f : std::ldexp(random.Uniform(-2, 2), exponent);
        codebook[random.Integer(0, 15)] = std::ldexp(1.0f, exponent);
        Source source(INT4Q_TYPE_F32, random.Integer(1, 20), random.Integer(1, 70), 70);
        FillMixed(source, random);
        Check(MakeScheme(INT4Q_KIND_CODEBOOK, kAllGroupSizes[random.Integer(0, 5)], kTypes[random.Integer(0, 2)]), source,
              codebook);
        ASSERT_FALSE(HasFailure());
    }
}

TEST(QuantizePack, RangesInAnyOrderAndFromFourThreadsGiveTheSameBytes) {
    const int64_t n = 203, k = 97;
    Random random(7);
    for (const int4q_scheme &scheme : OneSchemeOfEachKind(32, INT4Q_TYPE_BF16)) {
        Source source(INT4Q_TYPE_F32, n, k, k + 5);
        FillMixed(source, random);
        source.buffer.ForbidWriting();
        Fused fused(scheme);
        const Outcome wanted = InTwoSteps(scheme, source, kNormalFloat);
        ASSERT_EQ(wanted.status, INT4Q_OK);
        for (int thread_count : {1, 4}) {
            for (int i = 0; i < 8; i++) {
                std::vector<std::pair<int64_t, int64_t>> ranges;
                for (int64_t row = 0; row < n;) {
                    const int64_t end = std::min(n, row + 16 * random.Integer(1, 3));
                    ranges.emplace_back(row, end);
                    row = end;
                }
                random.Shuffle(ranges);
                // More room than needed: the bytes beyond the blob's size are left alone.
                GuardedBuffer blob(wanted.bytes.size() + 64, Placement::kRight, INT4Q_ALIGNMENT);
                std::vector<int4q_status> statuses(ranges.size(), -1);
                std::vector<std::thread> threads;
                for (int t = 0; t < thread_count; t++) {
                    threads.emplace_back([&, t] {
                        for (size_t r = 0; r < ranges.size(); r++) {
                            if (static_cast<int>(r) % thread_count != t) continue;
                            statuses[r] = fused.Run(source, blob, ranges[r].first, ranges[r].second);
                        }
                    });
                }
                for (std::thread &thread : threads) thread.join();
                for (int4q_status status : statuses) ASSERT_EQ(status, INT4Q_OK);
                ASSERT_EQ(std::memcmp(blob.data(), wanted.bytes.data(), wanted.bytes.size()), 0) << Name(scheme);
                for (size_t b = wanted.bytes.size(); b < blob.size(); b++) ASSERT_EQ(blob.data()[b], GuardedBuffer::kFill);
                ASSERT_OK(Validate(blob));
            }
        }
    }
}

// A range writes what int4q_pack_rows() writes for it and nothing else; rows outside are not read.
TEST(QuantizePack, ARangeTouchesItsOwnBytesOnly) {
    const int64_t n = 70, k = 51;
    Random random(8);
    for (const int4q_scheme &scheme : OneSchemeOfEachKind(16, INT4Q_TYPE_F16)) {
        Source source(INT4Q_TYPE_F32, n, k, k);
        for (int64_t i = 0; i < n * k; i++) source.Set(i / k, i % k, random.Normal());
        TensorMemory tensor(scheme, n, k);
        ASSERT_OK(source.Quantize(tensor));
        Fused fused(scheme);
        for (int64_t begin = 0; begin <= 64; begin += 16) {
            for (int64_t end : {begin, begin + 16, begin + 32, n}) {
                if (end > n) continue;
                const float outside = std::numeric_limits<float>::quiet_NaN();
                Source partial(INT4Q_TYPE_F32, n, k, k);
                for (int64_t row = 0; row < n; row++) {
                    const bool inside = row >= begin && row < end;
                    for (int64_t i = 0; i < k; i++) partial.Set(row, i, inside ? source(row, i) : outside);
                }
                GuardedBuffer want(BlobBytes(scheme, n, k), Placement::kRight, INT4Q_ALIGNMENT);
                GuardedBuffer got(want.size(), Placement::kRight, INT4Q_ALIGNMENT);
                ASSERT_OK(int4q_pack_rows(tensor.get(), want.data(), want.size(), begin, end));
                ASSERT_OK(fused.Run(partial, got, begin, end));
                ASSERT_EQ(std::memcmp(want.data(), got.data(), want.size()), 0)
                    << Name(scheme) << ", rows " << begin << ".." << end;
            }
        }
    }
}

#if defined(__x86_64__)
// Rounding and flushing are the library's own, and the host gets its settings back.
TEST(QuantizePack, HostsFloatingPointSettingsDoNotMatter) {
    Random random(9);
    for (int4q_isa isa : UsableIsas()) {
        IsaLimit limit(isa);
        for (const int4q_scheme &scheme : AllSchemes(32, INT4Q_TYPE_F32)) {
            Source source(INT4Q_TYPE_F32, 20, 67, 67);
            FillMixed(source, random);
            Fused fused(scheme);
            const Outcome want = fused.Run(source);
            ASSERT_EQ(want.status, INT4Q_OK);
            GuardedBuffer blob(want.bytes.size(), Placement::kRight, INT4Q_ALIGNMENT);
            for (unsigned rounding : {0x2000u, 0x4000u, 0x6000u}) {  // down, up, towards zero
                const unsigned before = _mm_getcsr();
                const unsigned set = (before & ~0x6000u) | rounding | 0x8040u;  // and both flushings
                _mm_setcsr(set);
                const int4q_status status = fused.Run(source, blob, 0, source.n);
                const unsigned after = _mm_getcsr();
                _mm_setcsr(before);
                ASSERT_OK(status);
                EXPECT_EQ(after & ~0x3fu, set & ~0x3fu);
                ASSERT_EQ(std::memcmp(want.bytes.data(), blob.data(), blob.size()), 0) << Name(scheme);
            }
        }
    }
}
#endif

// ---- Errors ---------------------------------------------------------------------------------------------------------

TEST(QuantizePackErrors, NotFiniteElementsAreReportedWithTheirPlace) {
    const int64_t n = 19, k = 37;
    const float infinity = std::numeric_limits<float>::infinity();
    const float bad_values[] = {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity};
    Random random(10);
    int64_t number = 0;
    for (const int4q_scheme &scheme : AllSchemes(16, INT4Q_TYPE_F32)) {
        const int4q_type source_type = kTypes[number++ % 3];
        Fused fused(scheme);
        Source source(source_type, n, k, k + 1);
        for (int64_t i = 0; i < n * k; i++) source.Set(i / k, i % k, random.Normal());
        const uint64_t size = BlobBytes(scheme, n, k);
        GuardedBuffer blob(size + 64, Placement::kRight, INT4Q_ALIGNMENT);
        for (int64_t row = 0; row < n; row++) {
            for (int64_t column = 0; column < k; column++) {
                const IsaLimit limit(UsableIsas()[static_cast<size_t>(row + column) % UsableIsas().size()]);
                const float before = source(row, column);
                source.Set(row, column, bad_values[random.Integer(0, 2)]);
                EXPECT_FAILS(fused.Run(source, blob, 0, n), INT4Q_ERROR_NOT_FINITE, "int4q_quantize_pack_rows", "source");
                const std::string value = LastError().value;
                const std::string place = "row " + std::to_string(row) + ", column " + std::to_string(column);
                ASSERT_TRUE(value.size() >= place.size() &&
                            value.compare(value.size() - place.size(), place.size(), place) == 0)
                    << value << " does not end in " << place;
                // Rows outside the range are not looked at.
                ASSERT_OK(row < 16 ? fused.Run(source, blob, 16, n) : fused.Run(source, blob, 0, 16));
                source.Set(row, column, before);
            }
        }
        for (size_t i = size; i < blob.size(); i++) ASSERT_EQ(blob.data()[i], GuardedBuffer::kFill);
        ASSERT_OK(fused.Run(source, blob, 0, n));
        ASSERT_OK(Validate(blob));
    }
}

TEST(QuantizePackErrors, ScalesBeyondTheirTypeAreNotFinite) {
    for (const int4q_scheme &scheme : AllSchemes(32, INT4Q_TYPE_F16)) {
        Source source(INT4Q_TYPE_F32, 20, 70, 70);
        for (int64_t i = 0; i < 20 * 70; i++) source.Set(i / 70, i % 70, i % 2 ? 0.5f : -0.25f);
        ASSERT_TRUE(Check(scheme, source));
        source.Set(17, 40, 2e6f);
        EXPECT_FALSE(Check(scheme, source));
        Fused fused(scheme);
        GuardedBuffer blob(BlobBytes(scheme, 20, 70), Placement::kRight, INT4Q_ALIGNMENT);
        EXPECT_FAILS(fused.Run(source, blob, 0, 20), INT4Q_ERROR_NOT_FINITE, "int4q_quantize_pack_rows", "source");
        EXPECT_NE(std::string(LastError().value).find("row 17, column "), std::string::npos) << LastError().value;
        ASSERT_OK(fused.Run(source, blob, 0, 16));
    }
    // The offset alone may be too large: 70000 + 0..15 has a scale of 1.
    Source source(INT4Q_TYPE_F32, 1, 16, 16);
    for (int64_t i = 0; i < 16; i++) source.Set(0, i, 70000.0f + static_cast<float>(i));
    EXPECT_FALSE(Check(MakeScheme(INT4Q_KIND_OFFSET, 16, INT4Q_TYPE_F16), source));
}

struct QuantizePackCall {
    static constexpr int64_t kStride = 42;

    explicit QuantizePackCall(int32_t kind) : scheme_memory(SmallScheme(kind)) {
        for (int64_t i = 0; i < SmallTensor::kRows * kStride; i++) floats[i] = static_cast<float>(i % 17 - 8);
        for (int i = 0; i < 16; i++) codebook_memory[i] = static_cast<float>(i) - 7.5f;
        std::memset(memory, 0x5a, sizeof memory);
        EXPECT_OK(int4q_blob_size(&scheme_memory, n, k, &blob_bytes));
        Connect();
    }
    QuantizePackCall(const QuantizePackCall &) = delete;
    QuantizePackCall &operator=(const QuantizePackCall &) = delete;

    // A codebook as the scheme's kind wants it.
    void Connect() { codebook = scheme_memory.kind == INT4Q_KIND_CODEBOOK ? codebook_memory : nullptr; }

    int4q_scheme scheme_memory;
    alignas(64) float floats[SmallTensor::kRows * kStride + 1];
    alignas(64) float codebook_memory[17]{};
    alignas(64) unsigned char memory[SmallBlob::kCapacity];
    const int4q_scheme *scheme = &scheme_memory;
    int64_t n = SmallTensor::kRows, k = SmallTensor::kColumns;
    const float *codebook = nullptr;
    void *matrix = floats;
    int4q_type type = INT4Q_TYPE_F32;
    int64_t stride = kStride;
    void *blob = memory;
    uint64_t blob_bytes = 0;
    int64_t begin = 0, end = SmallTensor::kRows;

    int4q_status Run() {
        return int4q_quantize_pack_rows(scheme, n, k, codebook, matrix, type, stride, blob, blob_bytes, begin, end);
    }
    std::string Outputs() const { return BytesOf(memory); }
};

TEST(QuantizePackErrors, Arguments) {
    using C = QuantizePackCall;
    for (int32_t kind : kAllKinds) {
        SCOPED_TRACE(kind);
        BadTable<C> table;
        if (kind == INT4Q_KIND_SYMMETRIC) {
            for (const Bad<int4q_scheme> &bad : BadSchemes()) {
                table.push_back({bad.what, [damage = bad.damage](C &c) { damage(c.scheme_memory), c.Connect(); }, bad.status,
                                 bad.argument, bad.other});
            }
        }
        AddPointer(table, "scheme", &C::scheme, {1, 2, 3});
        AddValues(table, "n", &C::n, {0, -1, -33, kMin64});
        AddValues(table, "k", &C::k, {0, -1, -40, kMin64});
        AddValues(table, "n", &C::n, {kMax64, kMax64 - 15, int64_t{1} << 60}, kOverflow);
        for (int64_t value : {kMax64, kMax64 - 31, int64_t{1} << 60}) {
            table.push_back({"k = source_stride = " + std::to_string(value), [=](C &c) { c.k = c.stride = value; },
                             kOverflow, "k", "source_stride"});
        }
        AddValues(table, "source_stride", &C::k, {C::kStride + 1, int64_t{1} << 20}, kInvalid);
        AddMatrix(table, "source", &C::matrix, &C::type, "source_type", &C::stride, "source_stride", SmallTensor::kColumns);
        AddPointer(table, "blob", &C::blob, {1, 2, 4, 8, 16, 32, 63});
        AddTooSmall(table, "blob_bytes", &C::blob_bytes);
        AddValues(table, "blob_bytes", &C::blob_bytes, {255, 256, 320}, kTooSmall);
        AddValues(table, "blob_bytes", &C::n, {49, 1000, int64_t{1} << 40}, kTooSmall);
        AddRanges(table, SmallTensor::kRows, "row_begin", "row_end");
        for (int64_t begin : {1, 8, 15, 17, 31}) {
            table.push_back({"row_begin " + std::to_string(begin), [=](C &c) { c.begin = begin; }, kInvalid, "row_begin"});
        }
        for (int64_t end : {1, 8, 15, 17, 31}) {
            table.push_back({"row_end " + std::to_string(end), [=](C &c) { c.end = end; }, kInvalid, "row_end"});
        }
        if (kind == INT4Q_KIND_CODEBOOK) {
            AddPointer(table, "codebook", &C::codebook, {1, 2, 3});
            const float infinity = std::numeric_limits<float>::infinity();
            for (float value : {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity}) {
                for (int i : {0, 7, 15}) {
                    table.push_back({"codebook[" + std::to_string(i) + "] = " + std::to_string(value),
                                     [=](C &c) { c.codebook_memory[i] = value; }, kNotFinite, "codebook"});
                }
            }
            for (float zero : {0.0f, -0.0f}) {
                table.push_back({"codebook of " + std::to_string(zero),
                                 [=](C &c) { for (int i = 0; i < 16; i++) c.codebook_memory[i] = zero; }, kInvalid,
                                 "codebook"});
            }
        }
        ExpectRefused<C>("int4q_quantize_pack_rows", [=] { return std::make_unique<C>(kind); }, table);
    }
}

TEST(QuantizePackErrors, EmptyRangesFromALaterRowWriteNothing) {
    QuantizePackCall call(INT4Q_KIND_SYMMETRIC);
    const std::string before = call.Outputs();
    for (int64_t row : {16, 32}) {
        call.begin = call.end = row;
        EXPECT_OK(call.Run());
        EXPECT_TRUE(before == call.Outputs()) << row;
    }
}

// ---- INT4Q_ISA ------------------------------------------------------------------------------------------------------

constexpr char kNonsense[] = "nonsense";

::testing::AssertionResult BlamesTheEnvironment(int4q_status status, const char *function) {
    const int4q_error error = LastError();
    const bool right = status == INT4Q_ERROR_INVALID_ARGUMENT && error.status == status &&
                       std::string(error.function) == function &&
                       std::string(error.argument).find("INT4Q_ISA") != std::string::npos &&
                       std::string(error.value).find(kNonsense) != std::string::npos && *error.expected;
    if (right) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << function << " returned " << int4q_status_string(status)
                                         << "; last error: " << error.message;
}

// Runs in a process of its own whose INT4Q_ISA is nonsense.
void CallEverything() {
    const int64_t n = 20, k = 40;
    const int4q_scheme scheme = MakeScheme(INT4Q_KIND_SYMMETRIC, 16, INT4Q_TYPE_F16);
    const std::vector<float> source(static_cast<size_t>(n * k), 0.5f);
    TensorMemory tensor(scheme, n, k);
    std::memset(tensor->codes, 0x9c, tensor->codes_bytes);
    for (int64_t i = 0; i < n * tensor.groups(); i++) StoreElement(tensor->scales, INT4Q_TYPE_F16, i, 0.5f);
    const std::vector<uint8_t> packed = PackReference(*tensor.get());
    GuardedBuffer blob(packed.size(), Placement::kRight, INT4Q_ALIGNMENT);
    std::memcpy(blob.data(), packed.data(), packed.size());

    int4q_matmul_desc desc;
    std::memset(&desc, 0, sizeof desc);
    desc.struct_size = sizeof desc;
    desc.mode = INT4Q_MODE_INT8;
    desc.m = 2;
    desc.n = n;
    desc.k = k;
    desc.scheme = scheme;
    desc.x_type = desc.y_type = INT4Q_TYPE_F32;
    desc.worker_count = 1;
    int4q_matmul_plan plan;
    std::memset(&plan, 0, sizeof plan);
    plan.struct_size = sizeof plan;
    std::vector<float> rows(static_cast<size_t>(n * k));
    GuardedBuffer again(packed.size(), Placement::kRight, INT4Q_ALIGNMENT);
    const int64_t index = 3;
    int4q_isa isa = -1;
    char text[4000];

    const auto calls = [&](const auto &expect) {
        expect(int4q_matmul_plan_init(&desc, &plan), "int4q_matmul_plan_init");
        expect(int4q_quantize_rows(tensor.get(), source.data(), INT4Q_TYPE_F32, k, 0, n), "int4q_quantize_rows");
        expect(int4q_quantize_pack_rows(&scheme, n, k, nullptr, source.data(), INT4Q_TYPE_F32, k, again.data(), again.size(),
                                        0, n),
               "int4q_quantize_pack_rows");
        expect(int4q_dequantize_rows(tensor.get(), rows.data(), INT4Q_TYPE_F32, k, 0, n), "int4q_dequantize_rows");
        expect(int4q_gather_rows(blob.data(), blob.size(), &index, 1, rows.data(), INT4Q_TYPE_F32, k), "int4q_gather_rows");
        expect(int4q_describe_dispatch(&desc, text, sizeof text, nullptr), "int4q_describe_dispatch");
        expect(int4q_isa_active(&isa), "int4q_isa_active");
    };
    const auto expect_blame = [](int4q_status status, const char *function) {
        EXPECT_TRUE(BlamesTheEnvironment(status, function));
    };
    const auto expect_ok = [](int4q_status status, const char *function) { EXPECT_TRUE(IsOk(status)) << function; };
    calls(expect_blame);

    // What chooses no kernels does not care.
    EXPECT_OK(int4q_isa_detected(&isa));
    EXPECT_OK(int4q_blob_validate(blob.data(), blob.size(), INT4Q_VALIDATE_HEADER));
    EXPECT_OK(int4q_blob_validate(blob.data(), blob.size(), INT4Q_VALIDATE_FULL));
    int4q_blob_info info = EmptyInfo();
    EXPECT_OK(int4q_blob_get_info(blob.data(), blob.size(), &info));
    EXPECT_EQ(BlobBytes(scheme, n, k), packed.size());
    TensorMemory back(scheme, n, k);
    EXPECT_OK(int4q_unpack_rows(blob.data(), blob.size(), back.get(), 0, n));
    EXPECT_OK(int4q_pack_rows(back.get(), again.data(), again.size(), 0, n));
    EXPECT_EQ(std::memcmp(again.data(), packed.data(), packed.size()), 0);
    int4q_pool *pool = nullptr;
    EXPECT_OK(int4q_pool_create(2, &pool));
    EXPECT_OK(int4q_pool_destroy(pool));

    // A limit by call counts instead; afterwards the environment's does again, but not for plans made before.
    {
        IsaLimit limit(INT4Q_ISA_PORTABLE);
        calls(expect_ok);
    }
    const int4q_matmul_plan kept = plan;
    calls(expect_blame);
    GuardedBuffer scratch(kept.scratch_bytes, Placement::kRight, INT4Q_ALIGNMENT);
    int4q_matmul_args args;
    std::memset(&args, 0, sizeof args);
    args.struct_size = sizeof args;
    args.x = source.data();
    args.ldx = k;
    args.blob = blob.data();
    args.blob_bytes = blob.size();
    args.y = rows.data();
    args.ldy = n;
    args.scratch = scratch.data();
    args.scratch_bytes = scratch.size();
    EXPECT_OK(int4q_matmul(&kept, &args, nullptr, nullptr));
}

TEST(IsaEnvironmentErrors, EveryCallThatChoosesKernelsBlamesIt) {
    constexpr char kChild[] = "INT4Q_TEST_CHILD";
    if (std::getenv(kChild)) return CallEverything();
    std::array<char, 4096> self{};
    ASSERT_GT(readlink("/proc/self/exe", self.data(), self.size() - 1), 0);
    const std::string command = "unset GTEST_OUTPUT GTEST_TOTAL_SHARDS GTEST_SHARD_INDEX GTEST_SHARD_STATUS_FILE; "
                                "INT4Q_ISA=" + std::string(kNonsense) + " " + kChild + "=1 '" + self.data() +
                                "' --gtest_filter=IsaEnvironmentErrors.EveryCallThatChoosesKernelsBlamesIt "
                                "--gtest_color=no 2>&1";
    FILE *pipe = popen(command.c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    std::string output;
    std::array<char, 512> part{};
    while (std::fgets(part.data(), part.size(), pipe)) output += part.data();
    const int status = pclose(pipe);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << output;
    EXPECT_NE(output.find("[  PASSED  ] 1 test."), std::string::npos) << output;
}

}  // namespace
}  // namespace int4q_test
