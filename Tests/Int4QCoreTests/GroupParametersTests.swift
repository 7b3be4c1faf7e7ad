// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import XCTest

@testable import Int4QCore

/// Scales, zero points and offsets of groups that were worked out by hand from the header's definitions.
final class GroupParametersTests: XCTestCase {
    private func parameters(_ raw: int4q_scheme, _ min: Float, _ max: Float, largest: Float? = nil, smallest: Float? = nil,
                            codebook: [Float] = [Float](repeating: 1, count: 16)) throws -> GroupParameters {
        let range = GroupRange(min: min, max: max, signedLargest: largest ?? (max >= -min ? max : min),
                               firstSmallest: smallest ?? min)
        let scheme = try Scheme(raw)
        return withUnsafeTemporaryAllocation(byteCount: 256, alignment: 64) { memory in
            codebook.withUnsafeBufferPointer {
                scheme.parameters(for: range, table: scheme.makeTable($0.baseAddress!, at: memory.baseAddress!))
            }
        }
    }

    private func symmetric(_ rule: Int, scale: Int = INT4Q_TYPE_F32, range: Int = INT4Q_RANGE_FULL) -> int4q_scheme {
        rawScheme(INT4Q_KIND_SYMMETRIC, scale: scale, rule: rule, range: range)
    }

    // MARK: Symmetric

    func testSignedMaximumGoesToCodeZero() throws {
        for rule in [INT4Q_SCALE_DEFAULT, INT4Q_SCALE_SIGNED_MAX_8] {
            XCTAssertEqual(try parameters(symmetric(rule), -4, 3).scale, 0.5)
            XCTAssertEqual(try parameters(symmetric(rule), -3, 4).scale, -0.5)
        }
    }

    func testAmaxIsDividedBy7Or7AndAHalf() throws {
        XCTAssertEqual(try parameters(symmetric(INT4Q_SCALE_AMAX_7), -3.5, 1).scale, 0.5)
        XCTAssertEqual(try parameters(symmetric(INT4Q_SCALE_AMAX_7), -1, 3.5).scale, 0.5)
        XCTAssertEqual(try parameters(symmetric(INT4Q_SCALE_AMAX_7_5), -1.875, 1).scale, 0.25)
    }

    func testSymmetricCodesAreCentredAt8AndMayBeRestricted() throws {
        let full = try XCTUnwrap(parameters(symmetric(INT4Q_SCALE_AMAX_7), -7, 1).encoding)
        XCTAssertEqual([full.zero, full.low, full.high], [8, 0, 15])
        let restricted = try XCTUnwrap(parameters(symmetric(INT4Q_SCALE_AMAX_7, range: INT4Q_RANGE_RESTRICTED), -7, 1).encoding)
        XCTAssertEqual([restricted.zero, restricted.low, restricted.high], [8, 1, 15])
    }

    func testScalesAreRoundedToTheirType() throws {
        let f16 = try parameters(symmetric(INT4Q_SCALE_AMAX_7, scale: INT4Q_TYPE_F16), -1, 0.5)
        XCTAssertEqual(f16.scale, (1 + 146 / 1024) / 8) // 8/7 = 1 + 146.29/1024
        XCTAssertEqual(f16.encoding?.scale, f16.scale, "codes are chosen with the stored scale")
        let bf16 = try parameters(symmetric(INT4Q_SCALE_AMAX_7, scale: INT4Q_TYPE_BF16), -1, 0.5)
        XCTAssertEqual(bf16.scale, (1 + 18 / 128) / 8) // 1 + 18.29/128
    }

    func testConstantGroupsComeBackAsTheConstant() throws {
        for rule in [INT4Q_SCALE_AMAX_7, INT4Q_SCALE_AMAX_7_5] {
            let positive = try parameters(symmetric(rule), 3, 3), negative = try parameters(symmetric(rule), -3, -3)
            XCTAssertNil(positive.encoding)
            XCTAssertEqual(positive.scale * Float(Int(positive.onlyCode) - 8), 3)
            XCTAssertEqual(negative.scale * Float(Int(negative.onlyCode) - 8), -3)
            XCTAssertGreaterThan(negative.scale, 0)
        }
        XCTAssertEqual(try parameters(symmetric(INT4Q_SCALE_SIGNED_MAX_8), 3, 3).scale, -0.375)
    }

    func testGroupsOfZerosAndScalesThatVanishBecomeZero() throws {
        for rule in [INT4Q_SCALE_AMAX_7, INT4Q_SCALE_AMAX_7_5, INT4Q_SCALE_SIGNED_MAX_8] {
            for (raw, size): (int4q_scheme, Float) in [(symmetric(rule), 0), (symmetric(rule, scale: INT4Q_TYPE_F16), 1e-9)] {
                let group = try parameters(raw, -size, size)
                XCTAssertEqual(group.scale, 0)
                XCTAssertNil(group.encoding)
                XCTAssertEqual(group.onlyCode, 8)
            }
        }
    }

    // MARK: Asymmetric

    func testAsymmetricRangesIncludeZero() throws {
        let raw = rawScheme(INT4Q_KIND_ASYMMETRIC)
        for (min, max, zero): (Float, Float, UInt8) in [(-5, 10, 5), (3, 15, 0), (-15, -3, 15), (-15, 0, 15), (0, 15, 0)] {
            let group = try parameters(raw, min, max)
            XCTAssertEqual(group.scale, 1, "\(min)...\(max)")
            XCTAssertEqual(group.zeroPoint, zero, "\(min)...\(max)")
            XCTAssertEqual(group.encoding?.zero, Int32(zero), "\(min)...\(max)")
        }
    }

    func testZeroPointsAreRoundedHalfToEven() throws {
        let raw = rawScheme(INT4Q_KIND_ASYMMETRIC)
        XCTAssertEqual(try parameters(raw, -2.5, 12.5).zeroPoint, 2)
        XCTAssertEqual(try parameters(raw, -3.5, 11.5).zeroPoint, 4)
    }

    func testZeroPointsUseTheStoredScaleAndAreClipped() throws {
        // 21 / 15 of binary16's smallest step are stored as one, which leaves 21 for the zero point.
        let step: Float = 0x1p-24
        let group = try parameters(rawScheme(INT4Q_KIND_ASYMMETRIC, scale: INT4Q_TYPE_F16), -21 * step, 0)
        XCTAssertEqual(group.scale, step)
        XCTAssertEqual(group.zeroPoint, 15)
    }

    func testConstantAsymmetricGroupsComeBackAsTheConstant() throws {
        for constant: Float in [3, -3, 0.1] {
            let group = try parameters(rawScheme(INT4Q_KIND_ASYMMETRIC), constant, constant)
            XCTAssertNil(group.encoding)
            XCTAssertEqual(group.scale * Float(Int(group.onlyCode) - Int(group.zeroPoint)), constant)
            XCTAssertGreaterThan(group.scale, 0)
        }
    }

    func testAsymmetricZerosAreZero() throws {
        let group = try parameters(rawScheme(INT4Q_KIND_ASYMMETRIC), 0, 0)
        XCTAssertEqual(group.scale, 0)
        XCTAssertEqual(group.zeroPoint, 0)
        XCTAssertEqual(group.onlyCode, 0)
        XCTAssertNil(group.encoding)
    }

    // MARK: Offset

    func testOffsetIsTheMinimumAndScaleAFifteenthOfTheRange() throws {
        let group = try parameters(rawScheme(INT4Q_KIND_OFFSET), -3, 12)
        XCTAssertEqual(group.scale, 1)
        XCTAssertEqual(group.offset, -3)
        let encoding = try XCTUnwrap(group.encoding)
        XCTAssertEqual([encoding.offset, encoding.scale], [-3, 1])
        XCTAssertEqual([encoding.zero, encoding.low, encoding.high], [0, 0, 15])
    }

    func testOffsetsAreRoundedToTheScalesType() throws {
        let group = try parameters(rawScheme(INT4Q_KIND_OFFSET, scale: INT4Q_TYPE_F16), 2049, 2079)
        XCTAssertEqual(group.offset, 2048)
        XCTAssertEqual(group.encoding?.offset, 2048, "codes are chosen with the stored offset")
        XCTAssertEqual(group.scale, 2)
    }

    func testConstantOffsetGroupsAreTheirOffset() throws {
        let group = try parameters(rawScheme(INT4Q_KIND_OFFSET), 0.1, 0.1)
        XCTAssertEqual(group.scale, 0)
        XCTAssertEqual(group.offset, 0.1)
        XCTAssertEqual(group.onlyCode, 0)
        XCTAssertNil(group.encoding)
    }

    func testAnOffsetOfZeroHasNoSign() throws {
        XCTAssertEqual(try parameters(rawScheme(INT4Q_KIND_OFFSET), -0.0, 15).offset.sign, .plus)
    }

    func testRangesWhoseWidthOverflowsStillHaveAScale() throws {
        let largest = Float.greatestFiniteMagnitude
        let expected = Float(Double(largest) * 2 / 15)
        XCTAssertEqual(try parameters(rawScheme(INT4Q_KIND_OFFSET), -largest, largest).scale, expected)
        XCTAssertEqual(try parameters(rawScheme(INT4Q_KIND_ASYMMETRIC), -largest, largest).scale, expected)
    }

    // MARK: Codebook

    func testCodebookScaleMakesTheLargestMagnitudesMeet() throws {
        var codebook = [Float](repeating: 0.5, count: 16)
        codebook[3] = -3
        let group = try parameters(rawScheme(INT4Q_KIND_CODEBOOK), -6, 2, codebook: codebook)
        XCTAssertEqual(group.scale, 2)
        XCTAssertNotNil(group.encoding?.table)
        let zero = try parameters(rawScheme(INT4Q_KIND_CODEBOOK), 0, 0, codebook: codebook)
        XCTAssertEqual(zero.scale, 0)
        XCTAssertNil(zero.encoding)
    }

    // MARK: ggml

    func testGgmlSymmetricChoosesCodesBeforeTheScaleIsRounded() throws {
        let raw = rawScheme(INT4Q_KIND_SYMMETRIC, scale: INT4Q_TYPE_F16, rounding: INT4Q_ROUNDING_GGML)
        let group = try parameters(raw, -1, 8.001, largest: 8.001)
        XCTAssertEqual(group.scale, -1, "8.001 / 8 is 1 in binary16")
        let encoding = try XCTUnwrap(group.encoding)
        XCTAssertEqual(encoding.reciprocal, 1 / (Float(8.001) / -8))
        XCTAssertNotEqual(encoding.reciprocal, -1)
        XCTAssertEqual([encoding.ggml_bias, encoding.offset], [8.5, 0])
    }

    func testGgmlOffsetChoosesCodesBeforeTheOffsetIsRounded() throws {
        let raw = rawScheme(INT4Q_KIND_OFFSET, scale: INT4Q_TYPE_F16, rounding: INT4Q_ROUNDING_GGML)
        let group = try parameters(raw, 2049, 2079)
        XCTAssertEqual([group.scale, group.offset], [2, 2048])
        let encoding = try XCTUnwrap(group.encoding)
        XCTAssertEqual([encoding.reciprocal, encoding.offset, encoding.ggml_bias], [0.5, 2049, 0.5])
    }

    func testGgmlConstantsHaveAReciprocalOfZero() throws {
        let zeros = try parameters(rawScheme(INT4Q_KIND_SYMMETRIC, rounding: INT4Q_ROUNDING_GGML), 0, 0)
        XCTAssertEqual(zeros.encoding?.reciprocal, 0)
        let constant = try parameters(rawScheme(INT4Q_KIND_OFFSET, rounding: INT4Q_ROUNDING_GGML), 5, 5)
        XCTAssertEqual(constant.encoding?.reciprocal, 0)
        XCTAssertEqual([constant.scale, constant.offset], [0, 5])
    }
}
