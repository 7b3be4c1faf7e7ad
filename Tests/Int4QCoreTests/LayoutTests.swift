// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import XCTest

@testable import Int4QCore

/// Sizes worked out by hand from the figure in BlobLayout.
final class BlobLayoutTests: XCTestCase {
    private let perRow = Int(INT4Q_GROUP_PER_ROW)

    private func layout(_ kind: Int, _ group: Int, _ scale: Int, n: Int64, k: Int64) throws -> BlobLayout {
        try BlobLayout(Scheme(rawScheme(kind, group: group, scale: scale)), n: n, k: k)
    }

    func testASingleElement() throws {
        let l = try layout(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16, n: 1, k: 1)
        XCTAssertEqual([l.kPadded, l.groupSize, l.groupCount, l.blockCount], [32, 32, 1, 1])
        // 4 code rows; 16 halves, padded from 32 to 64 bytes.
        XCTAssertEqual([l.scalesOffset, l.zerosOffset, l.blockBytes], [256, 0, 320])
        XCTAssertEqual([l.checksumsOffset, l.blocksOffset, l.totalBytes], [256, 320, 640])
    }

    func testZeroPointsTakeOneByte() throws {
        let l = try layout(INT4Q_KIND_ASYMMETRIC, 128, INT4Q_TYPE_F32, n: 17, k: 300)
        XCTAssertEqual([l.kPadded, l.groupSize, l.groupCount, l.blockCount], [320, 128, 3, 2])
        // 40 code rows; 48 floats; 48 bytes, padded to 64.
        XCTAssertEqual([l.scalesOffset, l.zerosOffset, l.blockBytes], [2560, 2752, 2816])
        XCTAssertEqual([l.checksumsOffset, l.blocksOffset, l.totalBytes], [256, 320, 320 + 2 * 2816])
    }

    func testOffsetsTakeAsMuchAsScales() throws {
        let l = try layout(INT4Q_KIND_OFFSET, 16, INT4Q_TYPE_BF16, n: 160, k: 33)
        XCTAssertEqual([l.kPadded, l.groupSize, l.groupCount, l.blockCount], [64, 16, 3, 10])
        // 8 code rows; 48 halves, padded from 96 to 128 bytes, twice.
        XCTAssertEqual([l.scalesOffset, l.zerosOffset, l.blockBytes], [512, 640, 768])
        // 10 checksums, padded from 80 to 128 bytes.
        XCTAssertEqual([l.checksumsOffset, l.blocksOffset, l.totalBytes], [256, 384, 384 + 10 * 768])
    }

    func testCodebookWithoutPadding() throws {
        let l = try layout(INT4Q_KIND_CODEBOOK, 64, INT4Q_TYPE_F32, n: 128, k: 64)
        XCTAssertEqual([l.kPadded, l.groupSize, l.groupCount, l.blockCount], [64, 64, 1, 8])
        XCTAssertEqual([l.scalesOffset, l.zerosOffset, l.blockBytes], [512, 0, 576])
        XCTAssertEqual([l.checksumsOffset, l.blocksOffset, l.totalBytes], [256, 320, 320 + 8 * 576])
    }

    func testAGroupPerRowIsAsLongAsThePaddedRow() throws {
        let l = try layout(INT4Q_KIND_SYMMETRIC, perRow, INT4Q_TYPE_F32, n: 16, k: 100)
        XCTAssertEqual([l.kPadded, l.groupSize, l.groupCount], [128, 128, 1])
    }

    func testLongRowsAreCutInto65536() throws {
        for (k, padded, size, count): (Int64, Int64, Int64, Int64) in [
            (65535, 65536, 65536, 1), (65536, 65536, 65536, 1), (65537, 65568, 65536, 2), (200_000, 200_000, 65536, 4),
        ] {
            let l = try layout(INT4Q_KIND_ASYMMETRIC, perRow, INT4Q_TYPE_F32, n: 1, k: k)
            XCTAssertEqual([l.kPadded, l.groupSize, l.groupCount], [padded, size, count], "k = \(k)")
            XCTAssertEqual(l.zerosOffset, UInt64(padded) * 8 + UInt64(count) * 64, "k = \(k)")
        }
        // Fixed groups are short enough.
        XCTAssertEqual(try layout(INT4Q_KIND_SYMMETRIC, 256, INT4Q_TYPE_F32, n: 1, k: 200_000).groupCount, 782)
    }

    func testBlocksFollowOneAnother() throws {
        let l = try layout(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16, n: 40, k: 32)
        let base = try XCTUnwrap(UnsafeRawPointer(bitPattern: 4096))
        XCTAssertEqual((0..<3).map { l.block($0, in: base) - base }, [320, 640, 960])
    }

    func testEmptyMatricesAreRefused() {
        for bad: Int64 in [0, -1, .min] {
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "n") { try layout(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F32, n: bad, k: 1) }
            assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "k") { try layout(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F32, n: 1, k: bad) }
        }
    }

    func testSizesBeyond63BitsAreRefused() throws {
        let tooLarge: [(n: Int64, k: Int64)] = [(1, .max), (1, 1 << 60), (.max, 1), (1 << 40, 1 << 40), (.max, .max)]
        for (n, k) in tooLarge {
            XCTAssertThrowsError(try layout(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16, n: n, k: k), "\(n) x \(k)") { error in
                XCTAssertEqual((error as? Failure)?.status, int4q_status(INT4Q_ERROR_SIZE_OVERFLOW))
            }
        }
        // 2^58 blocks of 320 bytes are beyond, 2^54 are not.
        XCTAssertNoThrow(try layout(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16, n: 1 << 58, k: 1))
    }
}

final class TensorLayoutTests: XCTestCase {
    private func layout(_ kind: Int, _ group: Int, _ scale: Int, n: Int64, k: Int64) throws -> TensorLayout {
        try TensorLayout(Scheme(rawScheme(kind, group: group, scale: scale)), n: n, k: k)
    }

    func testRowsOfOddLengthEndInAHalfFilledByte() throws {
        let l = try layout(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16, n: 3, k: 65)
        XCTAssertEqual([l.codesRowBytes, l.codesBytes], [33, 99])
        XCTAssertEqual(l.groupsPerRow, 3)
        XCTAssertEqual([l.scalesBytes, l.zeroPointsBytes, l.offsetsBytes], [18, 0, 0])
    }

    func testZeroPointsAndOffsetsBelongToTheirKinds() throws {
        let asymmetric = try layout(INT4Q_KIND_ASYMMETRIC, 16, INT4Q_TYPE_F32, n: 2, k: 32)
        XCTAssertEqual([asymmetric.scalesBytes, asymmetric.zeroPointsBytes, asymmetric.offsetsBytes], [16, 4, 0])
        let offset = try layout(INT4Q_KIND_OFFSET, 16, INT4Q_TYPE_BF16, n: 2, k: 32)
        XCTAssertEqual([offset.scalesBytes, offset.zeroPointsBytes, offset.offsetsBytes], [8, 0, 8])
    }

    func testALongRowIsStillOneGroupHere() throws {
        let l = try layout(INT4Q_KIND_ASYMMETRIC, Int(INT4Q_GROUP_PER_ROW), INT4Q_TYPE_F32, n: 5, k: 200_000)
        XCTAssertEqual(l.groupsPerRow, 1)
        XCTAssertEqual([l.codesBytes, l.scalesBytes, l.zeroPointsBytes], [500_000, 20, 5])
    }

    func testSizesBeyond63BitsAreRefused() {
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "n") { try layout(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F32, n: 4, k: .max) }
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "n") { try layout(INT4Q_KIND_SYMMETRIC, 16, INT4Q_TYPE_F32, n: .max, k: 1) }
    }
}
