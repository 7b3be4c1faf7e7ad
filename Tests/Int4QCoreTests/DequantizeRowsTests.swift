// SPDX-License-Identifier: Apache-2.0
import Int4Q
import XCTest

/// Single groups of 16 through the public functions.
final class DequantizeRowsTests: XCTestCase {
    private func dequantized(_ scheme: int4q_scheme, codes: [UInt8], scale: Float, zeroPoint: UInt8 = 0, offset: Float = 0,
                             codebook: [Float] = [Float](repeating: 1, count: 16)) -> [Float] {
        var codes = codes, scale = scale, zeroPoint = zeroPoint, offset = offset
        var result = [Float](repeating: .nan, count: codes.count * 2)
        codebook.withUnsafeBufferPointer { table in
            codes.withUnsafeMutableBytes { codes in
                withUnsafeMutablePointer(to: &scale) { scale in
                    withUnsafeMutablePointer(to: &zeroPoint) { zeroPoint in
                        withUnsafeMutablePointer(to: &offset) { offset in
                            var tensor = int4q_tensor(
                                struct_size: UInt32(MemoryLayout<int4q_tensor>.stride), reserved: 0, scheme: scheme, n: 1,
                                k: Int64(codes.count * 2), codes: codes.baseAddress, codes_bytes: UInt64(codes.count),
                                scales: scale, scales_bytes: 4, zero_points: zeroPoint, zero_points_bytes: 1,
                                offsets: offset, offsets_bytes: 4, codebook: table.baseAddress)
                            let status = int4q_dequantize_rows(&tensor, &result, int4q_type(INT4Q_TYPE_F32), 16, 0, 1)
                            XCTAssertEqual(status, int4q_status(INT4Q_OK))
                        }
                    }
                }
            }
        }
        return result
    }

    /// Codes 0..15 in order, low nibble first.
    private let everyCode: [UInt8] = [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe]

    func testEachKindsFormula() {
        let codes = (0..<16).map(Float.init)
        XCTAssertEqual(dequantized(rawScheme(INT4Q_KIND_SYMMETRIC, group: 16), codes: everyCode, scale: 0.5),
                       codes.map { 0.5 * ($0 - 8) })
        XCTAssertEqual(dequantized(rawScheme(INT4Q_KIND_ASYMMETRIC, group: 16), codes: everyCode, scale: 2, zeroPoint: 3),
                       codes.map { 2 * ($0 - 3) })
        XCTAssertEqual(dequantized(rawScheme(INT4Q_KIND_OFFSET, group: 16), codes: everyCode, scale: 0.25, offset: -7),
                       codes.map { 0.25 * $0 - 7 })
        let codebook = codes.map { $0 * $0 - 50 }
        XCTAssertEqual(dequantized(rawScheme(INT4Q_KIND_CODEBOOK, group: 16), codes: everyCode, scale: 3, codebook: codebook),
                       codebook.map { 3 * $0 })
    }

    func testOffsetsAreAddedWithOneRounding() {
        // 15 (1 + 2^-23) - 15 = 15 * 2^-23, of which a rounded product would leave 2^-19.
        let scheme = rawScheme(INT4Q_KIND_OFFSET, group: 16)
        XCTAssertEqual(dequantized(scheme, codes: everyCode, scale: 0x1.000002p0, offset: -15)[15], 15 * 0x1p-23)
    }

    /// w = s * q + o: -1 * 0 + 0 is +0 in IEEE 754, fused or not.
    func testAnOffsetOfZeroIsAddedToo() {
        let scheme = rawScheme(INT4Q_KIND_OFFSET, group: 16)
        XCTAssertEqual(dequantized(scheme, codes: everyCode, scale: -1, offset: 0)[0].sign, .plus)
    }
}
