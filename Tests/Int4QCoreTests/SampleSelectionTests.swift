// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import XCTest

@testable import Int4QCore

/// Random numbers, random samples, and clusters.
final class SampleSelectionTests: XCTestCase {
    /// The first outputs of the authors' C program for this seed.
    func testTheGeneratorIsSplitMix64() {
        var random = RandomNumbers(seed: 1_234_567)
        for expected: UInt64 in [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423] {
            XCTAssertEqual(random.next(), expected)
        }
    }

    func testIntegersBelowABoundAreAllAsLikely() {
        var random = RandomNumbers(seed: 5)
        var counts = [Int](repeating: 0, count: 6)
        for _ in 0..<60_000 { counts[Int(random.next(below: 6))] += 1 }
        for count in counts { XCTAssertEqual(Double(count), 10_000, accuracy: 6 * 92) } // standard deviation 91.3
        // Three quarters of 2^64: every fourth output would be one too many for some results.
        let bound: UInt64 = 3 << 62
        let above = (0..<30_000).filter { _ in random.next(below: bound) >= 1 << 63 }.count
        XCTAssertEqual(Double(above), 10_000, accuracy: 6 * 82)
    }

    func testFractionsAreBelowOne() {
        var random = RandomNumbers(seed: 6)
        let values = (0..<10_000).map { _ in random.fraction() }
        XCTAssertTrue(values.allSatisfy { $0 >= 0 && $0 < 1 })
        XCTAssertEqual(values.reduce(0, +) / 10_000, 0.5, accuracy: 6 * 0.00289)
    }

    func testAllAreSelectedInOrder() {
        var indices = [Int64](repeating: -1, count: 20)
        selectRandom(count: 20, wanted: 20, seed: 3, &indices)
        XCTAssertEqual(indices, (0..<20).map(Int64.init))
    }

    // MARK: Clusters

    func testPartsOfTheScratchDoNotOverlap() throws {
        for (count, dimensions, clusters) in [(100, 1, 1), (100, 17, 5), (1000, 384, 64), (7, 70_000, 3)] {
            let layout = try ClusteringLayout(count: Int64(count), dimensions: Int64(dimensions), clusters: Int64(clusters))
            let length = (dimensions + 15) / 16 * 16, padded = (clusters + 3) / 4 * 4
            XCTAssertEqual(layout.length, length)
            XCTAssertTrue(layout.blockRows >= 2 && layout.blockRows % 2 == 0)
            let parts = [(layout.distances, 8 * count), (layout.labels, 4 * count), (layout.centroids, 8 * clusters * length),
                         (layout.sums, 8 * clusters * length), (layout.sizes, 8 * clusters), (layout.origin, 4 * length),
                         (layout.points, 4 * padded * length), (layout.halves, 4 * padded),
                         (layout.block, 4 * layout.blockRows * length), (layout.shifted, 4 * layout.blockRows * length),
                         (layout.scores, 4 * layout.blockRows * padded)]
            var end = 0
            for (begin, bytes) in parts {
                XCTAssertEqual(begin % 64, 0)
                XCTAssertGreaterThanOrEqual(begin, end)
                end = begin + bytes
            }
            XCTAssertGreaterThanOrEqual(Int(layout.bytes), end)
        }
    }

    func testSizesThatAreNone() {
        assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "count") { try ClusteringLayout(count: 0, dimensions: 1, clusters: 1) }
        assertFails(INT4Q_ERROR_INVALID_ARGUMENT, "clusters") { try ClusteringLayout(count: 1, dimensions: 1, clusters: 1 << 31) }
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "dimensions") { try ClusteringLayout(count: 2, dimensions: .max, clusters: 1) }
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "clusters") { try ClusteringLayout(count: 8, dimensions: 1 << 59, clusters: 2) }
        assertFails(INT4Q_ERROR_SIZE_OVERFLOW, "count") { try ClusteringLayout(count: .max, dimensions: 1, clusters: 1) }
    }

    /// Two clusters on a line, by hand: 0 1 2 and 10 12, from the first two rows on.
    func testAnIterationByHand() throws {
        let rows = elements([0, 1, 2, 10, 12], INT4Q_TYPE_F32)
        let initial: [Int64] = [0, 1]
        var clustering = int4q_clustering()
        clustering.struct_size = UInt32(MemoryLayout<int4q_clustering>.stride)
        (clustering.clusters, clustering.max_iterations) = (2, 100)
        let layout = try ClusteringLayout(count: 5, dimensions: 1, clusters: 2)
        let scratch = AlignedMemory(Int(layout.bytes))
        var indices = [Int64](repeating: 0, count: 2), sizes = indices, labels = [Int32](repeating: -1, count: 5)
        var result = int4q_representatives()
        result.struct_size = UInt32(MemoryLayout<int4q_representatives>.stride)
        initial.withUnsafeBufferPointer {
            clustering.initial = $0.baseAddress
            let status = int4q_select_representatives(&clustering, rows.base, int4q_type(INT4Q_TYPE_F32), 5, 1, 1, scratch.base,
                                                      layout.bytes, &indices, &sizes, &labels, &result)
            XCTAssertEqual(status, int4q_status(INT4Q_OK))
        }
        // 0 | 1 2 10 12 -> 0 and 6.25: 0 1 2 | 10 12 -> 1 and 11, where no row moves.
        XCTAssertEqual(indices, [1, 3])
        XCTAssertEqual(sizes, [3, 2])
        XCTAssertEqual(labels, [0, 0, 0, 1, 1])
        XCTAssertEqual(result.iterations, 2)
        XCTAssertEqual(result.converged, 1)
        XCTAssertEqual(result.inertia, 4)
    }
}
