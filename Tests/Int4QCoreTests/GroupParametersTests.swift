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

    // MARK: Eight bits

    private func wide(_ kind: Int, rule: Int = INT4Q_SCALE_DEFAULT, range: Int = INT4Q_RANGE_FULL) -> int4q_scheme {
        rawScheme(kind, rule: rule, range: range, bits: 8)
    }

    func testEightBitsAreCentredAt128() throws {
        for rule in [INT4Q_SCALE_DEFAULT, INT4Q_SCALE_AMAX_7] {
            let group = try parameters(wide(INT4Q_KIND_SYMMETRIC, rule: rule), -127, 3)
            XCTAssertEqual(group.scale, 1)
            let encoding = try XCTUnwrap(group.encoding)
            XCTAssertEqual([encoding.zero, encoding.low, encoding.high], [128, 0, 255])
        }
        XCTAssertEqual(try parameters(wide(INT4Q_KIND_SYMMETRIC, rule: INT4Q_SCALE_AMAX_7_5), -255, 3).scale, 2)
        XCTAssertEqual(try parameters(wide(INT4Q_KIND_SYMMETRIC, rule: INT4Q_SCALE_SIGNED_MAX_8), -128, 3).scale, 1)
        XCTAssertEqual(try parameters(wide(INT4Q_KIND_SYMMETRIC, rule: INT4Q_SCALE_SIGNED_MAX_8), -3, 128).scale, -1)
        XCTAssertEqual(try parameters(wide(INT4Q_KIND_SYMMETRIC, range: INT4Q_RANGE_RESTRICTED), -127, 3).encoding?.low, 1)
    }

    func testEightBitsHave255Steps() throws {
        let asymmetric = try parameters(wide(INT4Q_KIND_ASYMMETRIC), -55, 200)
        XCTAssertEqual(asymmetric.scale, 1)
        XCTAssertEqual(asymmetric.zeroPoint, 55)
        XCTAssertEqual(asymmetric.encoding?.high, 255)
        let offset = try parameters(wide(INT4Q_KIND_OFFSET), 100, 610)
        XCTAssertEqual([offset.scale, offset.offset], [2, 100])
        XCTAssertEqual(offset.encoding?.high, 255)
    }

    func testConstantsAndZerosOfEightBits() throws {
        let one = try parameters(wide(INT4Q_KIND_SYMMETRIC), -3, -3)
        XCTAssertEqual(one.scale, 3)
        XCTAssertEqual(one.onlyCode, 127)
        XCTAssertNil(one.encoding)
        XCTAssertEqual(try parameters(wide(INT4Q_KIND_SYMMETRIC), 0, 0).onlyCode, 128)
    }

    // MARK: Powers of two

    func testPowersOfTwoAreNotBelowTheQuotient() throws {
        for (bits, half): (Int, Float) in [(4, 7), (8, 127)] {
            let raw = rawScheme(INT4Q_KIND_SYMMETRIC, rule: INT4Q_SCALE_POWER_OF_TWO, bits: bits)
            for exponent in [-149, -148, -140, -127, -126, -125, -100, -3, 0, 1, 100, 119] {
                let power = Float(sign: .plus, exponent: exponent, significand: 1)
                XCTAssertEqual(try parameters(raw, -half * power, 0).scale, power, "2^\(exponent)")
                // Next to a denormal's seven- or 127-fold the quotient is rounded to it again.
                if exponent < -100 { continue }
                XCTAssertEqual(try parameters(raw, 0, 1.01 * half * power).scale, 2 * power, "2^\(exponent)")
                XCTAssertEqual(try parameters(raw, 0, 0.99 * half * power).scale, power, "2^\(exponent)")
            }
            XCTAssertEqual(try parameters(raw, 0, 3 * half * Float.leastNonzeroMagnitude).scale, 4 * Float.leastNonzeroMagnitude)
            XCTAssertEqual(try parameters(raw, half, half).scale, 1, "a constant has no rule of its own")
            XCTAssertEqual(try parameters(raw, 0, 0).scale, 0)
        }
    }

    // MARK: One and two bits

    private func few(_ kind: Int, rule: Int = INT4Q_SCALE_DEFAULT, scale: Int = INT4Q_TYPE_F32, _ range: GroupRange) throws -> GroupParameters {
        let scheme = try Scheme(rawScheme(kind, scale: scale, rule: rule)), memory = AlignedMemory(256)
        return scheme.parameters(for: range, table: makeSignTable(at: memory.base))
    }

    func testMeansOfMagnitudesAreScales() throws {
        let range = GroupRange(min: -5, max: 3, meanMagnitude: 1.75)
        for kind in [INT4Q_KIND_BINARY, INT4Q_KIND_TERNARY] {
            XCTAssertEqual(try few(kind, range).scale, 1.75)
            XCTAssertEqual(try few(kind, scale: INT4Q_TYPE_BF16, GroupRange(min: -5, max: 3, meanMagnitude: 0x1.01p0)).scale, 1)
        }
        XCTAssertEqual(try few(INT4Q_KIND_TERNARY, rule: INT4Q_SCALE_AMAX_7, range).scale, 5)
        let ternary = try XCTUnwrap(few(INT4Q_KIND_TERNARY, range).encoding)
        XCTAssertEqual([ternary.zero, ternary.low, ternary.high], [1, 0, 2])
        let binary = try XCTUnwrap(few(INT4Q_KIND_BINARY, range).encoding)
        XCTAssertEqual(binary.scale, 1, "signs do not ask for the scale")
        let zeros = try few(INT4Q_KIND_TERNARY, GroupRange(min: 0, max: 0))
        XCTAssertNil(zeros.encoding)
        XCTAssertEqual(zeros.onlyCode, 1)
    }

    // MARK: The caller's

    func testGivenParametersAreKept() throws {
        let memory = AlignedMemory(256), range = GroupRange(min: -5, max: 3)
        func given(_ kind: Int, bits: Int = 0, scale: Float) throws -> GroupParameters {
            try Scheme(rawScheme(kind, rule: INT4Q_SCALE_GIVEN, bits: bits))
                .parameters(GivenParameters(scale: scale, zeroPoint: 9, offset: -2), range, table: makeSignTable(at: memory.base))
        }
        for (kind, bits, zero): (Int, Int, Int32) in [
            (INT4Q_KIND_SYMMETRIC, 0, 8), (INT4Q_KIND_SYMMETRIC, 8, 128), (INT4Q_KIND_ASYMMETRIC, 0, 9), (INT4Q_KIND_ASYMMETRIC, 8, 9),
            (INT4Q_KIND_OFFSET, 0, 0), (INT4Q_KIND_OFFSET, 8, 0),
        ] {
            let group = try given(kind, bits: bits, scale: 0.3)
            XCTAssertEqual(group.encoding?.scale, 0.3)
            XCTAssertEqual(group.encoding?.zero, zero)
            XCTAssertEqual(group.encoding?.high, bits == 8 ? 255 : 15)
            XCTAssertEqual(group.encoding?.offset, kind == INT4Q_KIND_OFFSET ? -2 : 0)
            let none = try given(kind, bits: bits, scale: 0)
            XCTAssertNil(none.encoding)
            XCTAssertEqual(Int32(none.onlyCode), zero)
        }
        XCTAssertEqual(try given(INT4Q_KIND_TERNARY, scale: 0).onlyCode, 1)
        XCTAssertNotNil(try given(INT4Q_KIND_BINARY, scale: 0).encoding, "signs, whatever the scale")
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
