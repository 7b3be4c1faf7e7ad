// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import XCTest

@testable import Int4QCore

final class SchemeTests: XCTestCase {
    func testEveryKindGroupSizeAndTypeIsAccepted() {
        for kind in [INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK] {
            for group in [16, 32, 64, 128, 256, Int(INT4Q_GROUP_PER_ROW)] {
                for type in [INT4Q_TYPE_F32, INT4Q_TYPE_F16, INT4Q_TYPE_BF16] {
                    XCTAssertNoThrow(try Scheme(rawScheme(kind, group: group, scale: type)))
                }
            }
        }
    }

    func testUnknownKindsAreRefused() {
        for kind in [0, 7, -1] { assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.kind") { try Scheme(rawScheme(kind)) } }
    }

    func testOtherGroupSizesAreRefused() {
        for group in [0, 8, 31, 48, 512, -2, Int(Int32.max)] {
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.group_size") {
                try Scheme(rawScheme(INT4Q_KIND_SYMMETRIC, group: group))
            }
        }
    }

    func testUnknownScaleTypesAreRefused() {
        for type in [0, 4, -1] {
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.scale_type") {
                try Scheme(rawScheme(INT4Q_KIND_SYMMETRIC, scale: type))
            }
        }
    }

    func testScaleRulesAreForSymmetricAlone() {
        for rule in [INT4Q_SCALE_AMAX_7, INT4Q_SCALE_AMAX_7_5, INT4Q_SCALE_SIGNED_MAX_8] {
            XCTAssertNoThrow(try Scheme(rawScheme(INT4Q_KIND_SYMMETRIC, rule: rule)))
            for kind in [INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK] {
                assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.scale_rule") { try Scheme(rawScheme(kind, rule: rule)) }
            }
        }
        for rule in [-1, 4, 7] {
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.scale_rule") {
                try Scheme(rawScheme(INT4Q_KIND_SYMMETRIC, rule: rule))
            }
        }
    }

    func testUnitScalesAndLogarithmsAreForCodebooksAlone() {
        for rule in [INT4Q_SCALE_DEFAULT, INT4Q_SCALE_ONE] {
            for rounding in [INT4Q_ROUNDING_NEAREST_EVEN, INT4Q_ROUNDING_NEAREST_LOG] {
                XCTAssertNoThrow(try Scheme(rawScheme(INT4Q_KIND_CODEBOOK, rule: rule, rounding: rounding)))
            }
        }
        for kind in [INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET] {
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.scale_rule") { try Scheme(rawScheme(kind, rule: INT4Q_SCALE_ONE)) }
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.rounding") {
                try Scheme(rawScheme(kind, rounding: INT4Q_ROUNDING_NEAREST_LOG))
            }
        }
        for rule in [-1, 5] {
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.scale_rule") {
                try Scheme(rawScheme(INT4Q_KIND_CODEBOOK, rule: rule))
            }
        }
        for rounding in [-1, 4, INT4Q_ROUNDING_GGML, INT4Q_ROUNDING_MLX] {
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.rounding") {
                try Scheme(rawScheme(INT4Q_KIND_CODEBOOK, rounding: rounding))
            }
        }
    }

    func testTheRestrictedRangeIsForAmaxScalesAlone() {
        for rule in [INT4Q_SCALE_AMAX_7, INT4Q_SCALE_AMAX_7_5] {
            XCTAssertNoThrow(try Scheme(rawScheme(INT4Q_KIND_SYMMETRIC, rule: rule, range: INT4Q_RANGE_RESTRICTED)))
        }
        for rule in [INT4Q_SCALE_DEFAULT, INT4Q_SCALE_SIGNED_MAX_8] {
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.code_range") {
                try Scheme(rawScheme(INT4Q_KIND_SYMMETRIC, rule: rule, range: INT4Q_RANGE_RESTRICTED))
            }
        }
        for kind in [INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK] {
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.code_range") {
                try Scheme(rawScheme(kind, range: INT4Q_RANGE_RESTRICTED))
            }
        }
        for range in [-1, 2] {
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.code_range") {
                try Scheme(rawScheme(INT4Q_KIND_SYMMETRIC, range: range))
            }
        }
    }

    func testGgmlRoundingIsForGgmlsSchemesAlone() {
        for rule in [INT4Q_SCALE_DEFAULT, INT4Q_SCALE_SIGNED_MAX_8] {
            XCTAssertNoThrow(try Scheme(rawScheme(INT4Q_KIND_SYMMETRIC, rule: rule, rounding: INT4Q_ROUNDING_GGML)))
        }
        XCTAssertNoThrow(try Scheme(rawScheme(INT4Q_KIND_OFFSET, rounding: INT4Q_ROUNDING_GGML)))
        let refused = [rawScheme(INT4Q_KIND_ASYMMETRIC, rounding: INT4Q_ROUNDING_GGML),
                       rawScheme(INT4Q_KIND_CODEBOOK, rounding: INT4Q_ROUNDING_GGML),
                       rawScheme(INT4Q_KIND_SYMMETRIC, rule: INT4Q_SCALE_AMAX_7, rounding: INT4Q_ROUNDING_GGML),
                       rawScheme(INT4Q_KIND_SYMMETRIC, rounding: 2), rawScheme(INT4Q_KIND_SYMMETRIC, rounding: -1)]
        for raw in refused { assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.rounding") { try Scheme(raw) } }
    }

    func testCodebooksOfRowsAreForCodebooksAlone() throws {
        XCTAssertTrue(try Scheme(rawScheme(INT4Q_KIND_CODEBOOK, scope: INT4Q_CODEBOOK_PER_ROW)).hasRowCodebooks)
        XCTAssertFalse(try Scheme(rawScheme(INT4Q_KIND_CODEBOOK)).hasRowCodebooks)
        let refused = [rawScheme(INT4Q_KIND_SYMMETRIC, scope: 1), rawScheme(INT4Q_KIND_ASYMMETRIC, scope: 1),
                       rawScheme(INT4Q_KIND_OFFSET, scope: 1), rawScheme(INT4Q_KIND_CODEBOOK, scope: 2),
                       rawScheme(INT4Q_KIND_CODEBOOK, scope: -1)]
        for raw in refused { assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.codebook_scope") { try Scheme(raw) } }
    }

    func testFewBitsHaveLongGroupsAndTheirOwnRules() {
        for kind in [INT4Q_KIND_BINARY, INT4Q_KIND_TERNARY] {
            for group in [32, 64, 128, 256, Int(INT4Q_GROUP_PER_ROW)] { XCTAssertNoThrow(try Scheme(rawScheme(kind, group: group))) }
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.group_size") { try Scheme(rawScheme(kind, group: 16)) }
            for rule in [INT4Q_SCALE_AMAX_7_5, INT4Q_SCALE_SIGNED_MAX_8, INT4Q_SCALE_ONE, INT4Q_SCALE_POWER_OF_TWO] {
                assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.scale_rule") { try Scheme(rawScheme(kind, rule: rule)) }
            }
        }
        XCTAssertNoThrow(try Scheme(rawScheme(INT4Q_KIND_TERNARY, rule: INT4Q_SCALE_AMAX_7)))
        assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.scale_rule") { try Scheme(rawScheme(INT4Q_KIND_BINARY, rule: INT4Q_SCALE_AMAX_7)) }
    }

    func testGivenScalesAreForEveryKindButForOtherProjectsRoundings() throws {
        for kind in [INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK, INT4Q_KIND_BINARY, INT4Q_KIND_TERNARY] {
            XCTAssertTrue(try Scheme(rawScheme(kind, rule: INT4Q_SCALE_GIVEN)).hasGivenScales)
        }
        for (kind, rounding) in [(INT4Q_KIND_SYMMETRIC, INT4Q_ROUNDING_GGML), (INT4Q_KIND_OFFSET, INT4Q_ROUNDING_GGML),
                                 (INT4Q_KIND_OFFSET, INT4Q_ROUNDING_MLX)] {
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.rounding") {
                try Scheme(rawScheme(kind, rule: INT4Q_SCALE_GIVEN, rounding: rounding))
            }
        }
    }

    func testEachReservedWordMustBeZero() {
        for index in 0..<4 {
            var raw = rawScheme(INT4Q_KIND_SYMMETRIC)
            withUnsafeMutableBytes(of: &raw.reserved) { $0.storeBytes(of: Int32(1), toByteOffset: 4 * index, as: Int32.self) }
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "scheme.reserved") { try Scheme(raw) }
        }
    }

    func testAGroupPerRowIsAsLongAsTheRow() throws {
        XCTAssertEqual(try Scheme(rawScheme(INT4Q_KIND_SYMMETRIC, group: Int(INT4Q_GROUP_PER_ROW))).groupSize(k: 300), 300)
        XCTAssertEqual(try Scheme(rawScheme(INT4Q_KIND_SYMMETRIC, group: 64)).groupSize(k: 300), 64)
    }
}
