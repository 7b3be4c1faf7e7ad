// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import XCTest

@testable import Int4QCore

/// int4q_error_bound() on products of one or two terms, where each rounding can be counted by hand. u = 2^-24 is what one
/// operation in binary32 loses of its result.
final class ErrorBoundTests: XCTestCase {
    private let u = 0x1p-24
    private let worst = INT4Q_BOUND_WORST_CASE, probable = INT4Q_BOUND_PROBABLE

    /// The bound's allowance for products of roundings and for its own arithmetic.
    private func assertBound(_ term: TinyProduct, _ expected: Double, _ kind: Int = INT4Q_BOUND_WORST_CASE,
                             file: StaticString = #filePath, line: UInt = #line) {
        let bound = term.bound(kind)
        XCTAssertGreaterThanOrEqual(bound, expected, file: file, line: line)
        XCTAssertLessThanOrEqual(bound, expected * (1 + 0x1p-9), file: file, line: line)
    }

    // MARK: F32 mode

    func testOneTermIsRoundedAsADotProductAndWithItsScale() {
        // y = 0.5 * (3 * 5)
        assertBound(TinyProduct(x: [3], codes: [13], scale: 0.5), u * 7.5 + u * 7.5)
        assertBound(TinyProduct(x: [-3], codes: [13], scale: 0.5), u * 7.5 + u * 7.5)
        assertBound(TinyProduct(x: [3], codes: [3], scale: -0.5), u * 7.5 + u * 7.5)
    }

    func testEachPartialSumOfTwoTermsIsRounded() {
        // 3 * 5 = 15, 15 - 2 * 4 = 7
        assertBound(TinyProduct(x: [3, -2], codes: [13, 12], scale: 0.5), 0.5 * u * (15 + 7) + u * 3.5)
        // Roundings on the way to nothing: 15, 15 - 15 = 0.
        assertBound(TinyProduct(x: [3, -5], codes: [13, 11], scale: 0.5), 0.5 * u * 15)
    }

    func testGroupsAreAddedUp() {
        // The first group: 3 * 5 and 15 zeros, each of which counts as a rounding, times 0.5; the second: 2 * 4 times 0.25.
        let x = [3] + [Float](repeating: 0, count: 15) + [2], codes = [UInt8](repeating: 13, count: 16) + [12]
        var product = TinyProduct(x: x, codes: codes, scale: 0.5)
        product.group = 16
        product.scales = [0.5, 0.25]
        assertBound(product, 0.5 * u * (15 * 16) + u * 7.5 + 0.25 * u * 8 + u * 9.5)
    }

    func testZeroPointsAddTheRoundingsOfTheSum() {
        // w = 0.5 * (13 - 10) = 0.5 * (5 - 2): y = 7.5 - 3. The sum of x is one term and four folds; centre and sum are joined
        // to the dot product by two operations that see both; then the total.
        let product = TinyProduct(kind: INT4Q_KIND_ASYMMETRIC, x: [3], codes: [13], scale: 0.5, zeroPoint: 10)
        assertBound(product, u * (7.5 + 5 * 3 + 2 * (7.5 + 3) + 7.5 + 4.5))
        let centred = TinyProduct(kind: INT4Q_KIND_ASYMMETRIC, x: [3], codes: [13], scale: 0.5, zeroPoint: 8)
        assertBound(centred, u * (7.5 + 7.5))
    }

    func testOffsetsDoSoToo() {
        // w = 0.5 * 13 - 1 = 0.5 * 5 + 3: y = 7.5 + 9
        let product = TinyProduct(kind: INT4Q_KIND_OFFSET, x: [3], codes: [13], scale: 0.5, offset: -1)
        assertBound(product, u * (7.5 + 5 * 9 + 2 * (7.5 + 9) + 7.5 + 16.5))
    }

    func testCodebookValuesAreExact() {
        var product = TinyProduct(kind: INT4Q_KIND_CODEBOOK, x: [3], codes: [2], scale: 0.5)
        product.codebook[2] = 0.7
        assertBound(product, 2 * u * 0.5 * 3 * Double(Float(0.7)))
    }

    // MARK: What the modes round before

    func testBF16LosesUpTo2ToTheMinus8OfEachActivation() {
        var product = TinyProduct(x: [3, -2], codes: [13, 12], scale: 0.5)
        product.mode = INT4Q_MODE_BF16
        assertBound(product, 0x1p-8 * 0.5 * (15 + 8))
    }

    /// 1 + 2^-8 is half-way between two bfloat16, and becomes 1. What the activation loses is multiplied by what it has become, at
    /// most the value and its own loss.
    func testBF16LosesAsMuchOfACodebookWhereItIsRounded() {
        var product = TinyProduct(kind: INT4Q_KIND_CODEBOOK, x: [3], codes: [2], scale: 0.5)
        product.codebook[2] = 0x1.01p0
        product.mode = INT4Q_MODE_BF16
        for set in machineSets {
            let lostOfCodebook = set.kernels.bf16_element_bytes == 2 ? 0x1p-8 * 1.5 * (1 + 0x1p-8) : 0
            limited(to: set) { assertBound(product, 0x1p-8 * 1.5 * 0x1.01p0 + lostOfCodebook) }
        }
    }

    func testINT8LosesUpToHalfAStepOfEachActivation() {
        var product = TinyProduct(x: [3, -2], codes: [13, 12], scale: 0.5)
        product.mode = INT4Q_MODE_INT8
        assertBound(product, 3.0 / 127 / 2 * 0.5 * (5 + 4))
        product = TinyProduct(kind: INT4Q_KIND_ASYMMETRIC, x: [3, -2], codes: [13, 12], scale: 0.5, zeroPoint: 10)
        product.mode = INT4Q_MODE_INT8
        assertBound(product, 3.0 / 127 / 2 * 0.5 * (3 + 2))
        product = TinyProduct(kind: INT4Q_KIND_OFFSET, x: [3, -2], codes: [13, 12], scale: 0.5, offset: -1)
        product.mode = INT4Q_MODE_INT8
        assertBound(product, 3.0 / 127 / 2 * (5.5 + 5))
    }

    /// The levels are 4 / 127 apart; the value is half-way between two. The activation's half step is multiplied by a level.
    func testINT8LosesHalfALevelOfACodebook() {
        var product = TinyProduct(kind: INT4Q_KIND_CODEBOOK, x: [3], codes: [2], scale: 0.5)
        product.codebook = [4] + [Float](repeating: 0, count: 15)
        product.codebook[2] = 32.5 * 4 / 127
        product.mode = INT4Q_MODE_INT8
        assertBound(product, 3.0 / 127 / 2 * 0.5 * (32.5 * 4 / 127 + 4.0 / 254) + 3 * 0.5 * 4 / 254)
    }

    func testINT8LosesAllOfAGroupThatCountsAsZeros() {
        var product = TinyProduct(x: [0x1p-101, -0x1p-102], codes: [13, 12], scale: 0.5)
        product.mode = INT4Q_MODE_INT8
        assertBound(product, 0x1p-101 * 2.5 + 0x1p-102 * 2)
    }

    func testStaticScalesLoseWhatTheyClip() {
        var product = TinyProduct(x: [300, 2], codes: [13, 12], scale: 0.5)
        product.mode = INT4Q_MODE_INT8
        product.steps = [1]
        assertBound(product, (300 - 127 + 0.5) * 2.5 + 0.5 * 2)
    }

    // MARK: The result's type

    func testTheResultIsRoundedToItsType() {
        var product = TinyProduct(x: [3], codes: [13], scale: 0.5)
        product.yType = INT4Q_TYPE_F16
        assertBound(product, 2 * u * 7.5 + 0x1p-11 * 7.5 + 0x1p-25)
        product.yType = INT4Q_TYPE_BF16
        assertBound(product, 2 * u * 7.5 + 0x1p-8 * 7.5)
    }

    func testNothingIsLostOfZerosButWhatCannotBeSeen() {
        for mode in [INT4Q_MODE_F32, INT4Q_MODE_BF16, INT4Q_MODE_INT8] {
            var product = TinyProduct(x: [0, -0.0], codes: [13, 12], scale: 0.5)
            product.mode = mode
            XCTAssertLessThan(product.bound(worst), 0x1p-120)
            XCTAssertGreaterThanOrEqual(product.bound(worst), 0)
        }
    }

    // MARK: Infinity

    func testRowsThatAreNotFiniteHaveNoBound() {
        for mode in [INT4Q_MODE_F32, INT4Q_MODE_BF16, INT4Q_MODE_INT8] {
            for bad: Float in [.nan, .infinity, -.infinity] {
                var product = TinyProduct(x: [1, bad], codes: [13, 8], scale: 0.5)
                product.mode = mode
                XCTAssertEqual(product.bound(worst), .infinity)
                XCTAssertEqual(product.bound(probable), .infinity)
            }
        }
    }

    func testResultsBeyondTheirTypeHaveNoBound() {
        var product = TinyProduct(x: [30000], codes: [13], scale: 0.5)
        XCTAssertTrue(product.bound(worst).isFinite)
        product.yType = INT4Q_TYPE_F16
        XCTAssertEqual(product.bound(worst), .infinity)
        product.x = [20000]
        XCTAssertTrue(product.bound(worst).isFinite)
        XCTAssertEqual(TinyProduct(x: [0x1p127], codes: [13], scale: 0.5).bound(worst), .infinity)
    }

    func testSumsThatOverflowOnTheWayHaveNoBound() {
        XCTAssertEqual(TinyProduct(x: [0x1p126, -0x1p126], codes: [15, 15], scale: 0x1p-20).bound(worst), .infinity)
        XCTAssertTrue(TinyProduct(x: [0x1p124, -0x1p124], codes: [15, 15], scale: 0x1p-20).bound(worst).isFinite)
    }

    /// Where the result is not finite, or far off, although the exact one is neither.
    func testWhatOverflowsOrIsFlushedOnTheWayIsNotForgotten() {
        for (name, product) in TinyProduct.treacherous {
            for set in machineSets {
                limited(to: set) {
                    let error = abs(Double(product.result()) - product.exact()), bound = product.bound(worst)
                    XCTAssertTrue(error <= bound || bound == .infinity, "\(set.name): \(name): y is \(product.result()), exactly "
                        + "\(product.exact()), the bound is \(bound)")
                }
            }
        }
    }

    // MARK: Probable

    /// 7.6 times the root of the sum of squares: less than the sum from 58 equal ones on.
    func testTheProbableBoundGrowsWithTheRootOfTheirNumber() {
        let half = 1.0 / 127 / 2
        for (k, expected) in [(1, half), (2, 2 * half), (49, 49 * half), (64, 7.6 * 8 * half), (256, 7.6 * 16 * half)] {
            var product = TinyProduct(x: [Float](repeating: 1, count: k), codes: [UInt8](repeating: 9, count: k), scale: 1)
            (product.mode, product.group) = (INT4Q_MODE_INT8, 256)
            // Roundings of binary32 come with it: less than 2 % of a step here.
            XCTAssertEqual(product.bound(probable), expected, accuracy: expected * 0.02, "k \(k)")
            assertBound(product, half * Double(k))
        }
    }

    func testTheProbableBoundIsNeverAboveTheWorstCase() {
        var random = SplitMix64(state: 61)
        for index in 0..<300 {
            let product = TinyProduct.random(index, &random)
            XCTAssertLessThanOrEqual(product.bound(probable), product.bound(worst), "\(product)")
        }
    }

    // MARK: What it is for

    func testNoProductOfTwoTermsIsFartherOff() {
        var random = SplitMix64(state: 62)
        for set in machineSets {
            limited(to: set) {
                for index in 0..<1000 {
                    let product = TinyProduct.random(index, &random)
                    let error = abs(Double(product.result()) - product.exact())
                    // The two products of exact() are exact, their sum is not.
                    let slack = abs(product.exact()) * 0x1p-50
                    XCTAssertLessThanOrEqual(error, product.bound(worst) + slack, "\(set.name): \(product)")
                }
            }
        }
    }
}

/// y = x * w with one row and one column, and at most two groups.
private struct TinyProduct: CustomStringConvertible {
    var kind: Int
    var group = 32
    var mode = INT4Q_MODE_F32
    var yType = INT4Q_TYPE_F32
    var x: [Float]
    var codes: [UInt8]
    var scales: [Float]
    var zeroPoint: UInt8
    var offset: Float
    var codebook: [Float] = [-8] + [Float](repeating: 1, count: 15)
    var steps: [Float]?

    init(kind: Int = INT4Q_KIND_SYMMETRIC, x: [Float], codes: [UInt8], scale: Float, zeroPoint: UInt8 = 0, offset: Float = 0) {
        (self.kind, self.x, self.codes, scales, self.zeroPoint, self.offset) = (kind, x, codes, [scale], zeroPoint, offset)
    }

    /// Of every kind, mode and result type in turn.
    static func random(_ index: Int, _ random: inout SplitMix64) -> TinyProduct {
        let kind = [INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK][index % 4]
        var product = TinyProduct(
            kind: kind, x: (0..<2).map { _ in random.float(exponents: -3...3) },
            codes: (0..<2).map { _ in UInt8(random.next() % 16) }, scale: random.float(exponents: -3...3),
            zeroPoint: UInt8(random.next() % 16), offset: random.float(exponents: -3...3))
        product.mode = [INT4Q_MODE_F32, INT4Q_MODE_INT8, INT4Q_MODE_BF16][index / 4 % 3]
        product.yType = elementTypes[index / 12 % 3]
        product.codebook = (0..<16).map { _ in random.float(exponents: -4...0) }
        if product.mode == INT4Q_MODE_INT8 && index / 36 % 2 == 1 { product.steps = [random.float(exponents: -7...0).magnitude] }
        return product
    }

    static var treacherous: [(name: String, product: TinyProduct)] {
        func make(_ mode: Int, _ kind: Int, x: [Float], codes: [UInt8], scale: Float, zeroPoint: UInt8 = 0, offset: Float = 0,
                  _ codebook: [Float] = []) -> TinyProduct {
            var product = TinyProduct(kind: kind, x: x, codes: codes, scale: scale, zeroPoint: zeroPoint, offset: offset)
            product.mode = mode
            product.codebook.replaceSubrange(0..<codebook.count, with: codebook)
            return product
        }
        let f32 = INT4Q_MODE_F32, int8 = INT4Q_MODE_INT8, bf16 = INT4Q_MODE_BF16
        let symmetric = INT4Q_KIND_SYMMETRIC, asymmetric = INT4Q_KIND_ASYMMETRIC
        let offset = INT4Q_KIND_OFFSET, table = INT4Q_KIND_CODEBOOK
        let most = Float.greatestFiniteMagnitude
        // Three in one partial sum.
        var x = [Float](repeating: 0, count: 33)
        (x[0], x[16], x[32]) = (0x1p127, 0x1p127, -0x1p127)
        var sums = make(f32, asymmetric, x: x, codes: [UInt8](repeating: 8, count: 33), scale: 1, zeroPoint: 8)
        sums.group = 64
        var centre = make(int8, offset, x: [0], codes: [0], scale: 0x1p25)
        centre.steps = [0x1p100]
        return [
            ("x rounds to infinity, w is 0", make(bf16, symmetric, x: [most], codes: [8], scale: 1)),
            ("a partial sum overflows", sums),
            ("(8 * scale + offset) * step overflows, x is 0", centre),
            ("the sum times its zero point overflows", make(f32, asymmetric, x: [0x1p126], codes: [8], scale: 0x1p-126)),
            ("8 * scale + offset overflows", make(f32, offset, x: [0x1p-30], codes: [1], scale: 0x1p126, offset: -0x1p126)),
            ("8 * scale + offset overflows", make(int8, offset, x: [0x1p-30], codes: [1], scale: 0x1p126, offset: -0x1p126)),
            ("scale * step overflows, w is 0", make(int8, symmetric, x: [0x1p107], codes: [8], scale: 0x1p30)),
            ("scale * codebook step overflows, x is 0", make(int8, table, x: [0], codes: [0], scale: 0x1p100, [0, 0x1p100])),
            ("a codebook value rounds to infinity, x is 0", make(bf16, table, x: [0], codes: [1], scale: 1, [0, most])),
            ("a denormal codebook value", make(bf16, table, x: [0x1p120], codes: [0], scale: 1, [0x1p-130])),
            ("a denormal x, w is 0", make(bf16, offset, x: [0x1p-130], codes: [7], scale: -0x1p100, offset: 7 * 0x1p100)),
            ("a denormal x, w is 0", make(bf16, asymmetric, x: [0x1p-130], codes: [7], scale: 0x1p100, zeroPoint: 7)),
        ]
    }

    var description: String {
        "kind \(kind), mode \(mode), y of type \(yType), x \(x), codes \(codes), scale \(scales), "
            + "zero point \(zeroPoint), offset \(offset), codebook \(codebook), steps \(steps ?? [])"
    }

    // MARK: Through the public functions

    func bound(_ kind: Int) -> Double {
        var bound = -1.0
        withCall { XCTAssertEqual(int4q_error_bound(&$0.plan, &$0.args, Int32(kind), &bound, 1), 0) }
        return bound
    }

    func result() -> Float {
        var result: Float = .nan
        withCall {
            XCTAssertEqual($0.run(), 0)
            result = element($0.y, yType, 0)
        }
        return result
    }

    private func withCall(_ body: (MatmulCall) -> Void) {
        let scheme = rawScheme(kind, group: group)
        var desc = Int4QCoreTests.description(mode: mode, m: 1, n: 1, k: Int64(x.count), scheme: scheme)
        desc.y_type = int4q_type(yType)
        if steps != nil { desc.flags = UInt32(INT4Q_MATMUL_STATIC_SCALES) }
        let call = MatmulCall(desc, blob: tensor(scheme).packed(), x: elements(x, INT4Q_TYPE_F32))
        let table = elements(steps ?? [], INT4Q_TYPE_F32)
        if steps != nil { call.args.x_scales = UnsafePointer(table.pointer(to: Float.self)) }
        withExtendedLifetime(table) { body(call) }
    }

    private func tensor(_ scheme: int4q_scheme) -> TestTensor {
        let tensor = TestTensor(scheme, n: 1, k: Int64(x.count), codebook: kind == INT4Q_KIND_CODEBOOK ? codebook : nil)
        let bytes = tensor.raw.codes.assumingMemoryBound(to: UInt8.self)
        for (index, code) in codes.enumerated() { bytes[index / 2] |= code << (4 * UInt8(index % 2)) }
        for (index, scale) in scales.enumerated() { tensor.raw.scales.assumingMemoryBound(to: Float.self)[index] = scale }
        tensor.raw.zero_points?.storeBytes(of: zeroPoint, as: UInt8.self)
        tensor.raw.offsets?.storeBytes(of: offset, as: Float.self)
        return tensor
    }

    // MARK: In binary64

    /// Of one group.
    func exact() -> Double {
        zip(x, codes).reduce(0) { $0 + Double($1.0) * weight($1.1) }
    }

    private func weight(_ code: UInt8) -> Double {
        let scale = Double(scales[0])
        switch kind {
        case INT4Q_KIND_SYMMETRIC: return scale * (Double(code) - 8)
        case INT4Q_KIND_ASYMMETRIC: return scale * (Double(code) - Double(zeroPoint))
        case INT4Q_KIND_OFFSET: return scale * Double(code) + Double(offset)
        default: return scale * Double(codebook[Int(code)])
        }
    }
}
