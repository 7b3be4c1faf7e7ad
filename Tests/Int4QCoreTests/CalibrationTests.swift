// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Foundation
import Int4Q
import XCTest

@testable import Int4QCore

/// The core of calibration, on examples small enough to be worked out by hand.
final class CalibrationTests: XCTestCase {
    // MARK: Analytic clipping

    private func aciq(_ distribution: Int, _ bits: Int32, scale: Double = 1) throws -> (clip: Double, error: Double) {
        var clip = 0.0, error = 0.0
        try AnalyticClipping(distribution: Int32(distribution), bits: bits).write(scale: scale, &clip, &error)
        return (clip, error)
    }

    func testClipsAndErrorsOfFourBits() throws {
        let laplace = try aciq(Int(INT4Q_DISTRIBUTION_LAPLACE), 4), gauss = try aciq(Int(INT4Q_DISTRIBUTION_GAUSS), 4)
        XCTAssertEqual(laplace.clip, 5.0286, accuracy: 5e-5)
        XCTAssertEqual(laplace.error, 0.04602, accuracy: 5e-6)
        XCTAssertEqual(gauss.clip, 2.5591, accuracy: 5e-5)
        XCTAssertEqual(gauss.error, 0.010493, accuracy: 5e-7)
    }

    /// The derivative of 2 exp(-a) + a^2 / (3 4^M) is zero where 3 4^M exp(-a) = a.
    func testLaplaceClipsSolveTheirEquation() throws {
        for bits in 1...16 {
            let clip = try aciq(Int(INT4Q_DISTRIBUTION_LAPLACE), Int32(bits)).clip
            XCTAssertEqual(3 * pow(4, Double(bits)) * exp(-clip), clip, accuracy: 1e-12 * clip)
        }
    }

    func testScalesMultiplyClipsAndSquareErrors() throws {
        let one = try aciq(Int(INT4Q_DISTRIBUTION_GAUSS), 3), three = try aciq(Int(INT4Q_DISTRIBUTION_GAUSS), 3, scale: 3)
        XCTAssertEqual(three.clip, 3 * one.clip)
        XCTAssertEqual(three.error, 9 * one.error, accuracy: 1e-15)
        XCTAssertThrowsError(try AnalyticClipping(distribution: 3, bits: 4))
        XCTAssertThrowsError(try AnalyticClipping(distribution: 1, bits: 17))
    }

    // MARK: Bins

    /// 2^exponent is the least power of two above the largest magnitude.
    func testBinsReachBeyondTheLargestMagnitude() {
        let cases: [(low: Float, high: Float, exponent: Int)] = [
            (0, 1, 1), (-1, 0.5, 1), (0, 0.75, 0), (-0.5, 0.25, 0), (0, Float(1).nextDown, 0), (-3, 2, 2), (0, 0, -100),
            (0, .leastNonzeroMagnitude, -100), (0, 0x1p-101, -100), (0, 0x1p-100, -99), (-.greatestFiniteMagnitude, 1, 128),
            (.infinity, -.infinity, -100),
        ]
        for (low, high, exponent) in cases {
            XCTAssertEqual(BinWidth(low: low, high: high).exponent, exponent, "\(low) ... \(high)")
        }
        let width = BinWidth(low: -3, high: 2)
        XCTAssertEqual(width.width(bins: 16), 0.25)
        XCTAssertEqual(width.scale(bins: 16), 4)
        XCTAssertEqual(BinWidth(low: 0, high: 0).scale(bins: 65536), 0x1p116)
    }

    /// Four bins of either sign; neighbours join away from zero.
    func testWideningJoinsNeighbours() {
        let counts: [Int64] = [1, 2, 3, 4, 5, 6, 7, 8]
        func widened(_ doublings: Int) -> [Int64] {
            var copy = counts
            widenBins(&copy, bins: 4, doublings: doublings)
            return copy
        }
        XCTAssertEqual(widened(-1), counts)
        XCTAssertEqual(widened(0), counts)
        XCTAssertEqual(widened(1), [0, 0, 3, 7, 11, 15, 0, 0])
        XCTAssertEqual(widened(2), [0, 0, 0, 10, 26, 0, 0, 0])
        XCTAssertEqual(widened(228), [0, 0, 0, 10, 26, 0, 0, 0])
    }

    // MARK: Entropy

    private func entropy(_ counts: [Int64], quantizedBins: Int64) throws -> int4q_range {
        let scratch = try EntropyScratch(bins: Int64(counts.count))
        let memory = UnsafeMutableRawPointer.allocate(byteCount: Int(scratch.bytes), alignment: 64)
        defer { memory.deallocate() }
        return try counts.withUnsafeBufferPointer { counts in
            var raw = int4q_histogram()
            raw.struct_size = UInt32(MemoryLayout<int4q_histogram>.stride)
            raw.counts = counts.baseAddress
            raw.bins = Int64(counts.count)
            (raw.lowest, raw.width, raw.low, raw.high) = (-2, 1, -2, 2)
            var search = try EntropySearch(try Histogram(raw), quantizedBins: quantizedBins, memory, scratch)
            return search.search()
        }
    }

    /// Two merged bins of a uniform distribution are that distribution.
    func testAUniformHistogramIsKeptWhole() throws {
        let range = try entropy([1, 1, 1, 1], quantizedBins: 2)
        XCTAssertEqual(range.low_edge, 0)
        XCTAssertEqual(range.high_edge, 4)
        XCTAssertEqual(range.score, 0, accuracy: 1e-15)
    }

    /// All four bins: p = 8 1 1 1, and the first two merge into 9 / 2 = 4 (rounded down) each, so q = 4 4 1 1. The slice of three
    /// has p = 9 1 1 and q = 1 1 1, which is farther off: 9/11 ln(27/11) + 2/11 ln(3/11) = 0.498.
    func testAnUnevenHistogram() throws {
        let range = try entropy([8, 1, 1, 1], quantizedBins: 2)
        let first = 8.0 / 11 * log(80.0 / 44), second = 1.0 / 11 * log(10.0 / 44), rest = 2.0 / 11 * log(10.0 / 11)
        XCTAssertEqual(range.score, first + second + rest, accuracy: 1e-12)
        XCTAssertEqual(range.low_edge, 0)
        XCTAssertEqual(range.high_edge, 4)
    }

    // MARK: Observers

    private final class Memory {
        let observer: Observer
        private let pointer: UnsafeMutableRawPointer

        init(bins: Int64 = 16) throws {
            var desc = int4q_observer_desc()
            desc.struct_size = UInt32(MemoryLayout<int4q_observer_desc>.stride)
            desc.observed = UInt32(INT4Q_OBSERVE_MOMENTS) | UInt32(INT4Q_OBSERVE_HISTOGRAM)
            desc.axis = Int32(INT4Q_AXIS_TENSOR)
            desc.bins = bins
            let layout = try ObserverLayout(desc)
            pointer = UnsafeMutableRawPointer.allocate(byteCount: Int(layout.totalBytes), alignment: 64)
            observer = Observer(layout, in: pointer)
        }
        deinit { pointer.deallocate() }

        func push(_ values: [Float]) {
            let status = int4q_observer_push(pointer, observer.layout.totalBytes, values, int4q_type(INT4Q_TYPE_F32), 1,
                                             Int64(values.count), Int64(values.count))
            XCTAssertEqual(status, int4q_status(INT4Q_OK))
        }
        /// Of bins that are not empty, counted from zero: bin -1 is the first negative one.
        var bins: [Int: Int64] {
            let bins = observer.layout.bins, counts = observer.histogram(0)
            return Dictionary(uniqueKeysWithValues: (0..<(2 * bins)).filter { counts[$0] != 0 }.map { ($0 - bins, counts[$0]) })
        }
    }

    /// 0.5 and -0.25 alone have bins of 1/16; with 3 they are of 1/4.
    func testMergingWidensBins() throws {
        let small = try Memory(), large = try Memory()
        small.push([0.5, -0.25, .nan])
        large.push([3])
        XCTAssertEqual(small.bins, [8: 1, -5: 1])
        XCTAssertEqual(large.bins, [12: 1])
        for (into, from) in [(small, large), (large, small)] {
            let copy = try Memory()
            try copy.observer.merge(into.observer)
            try copy.observer.merge(from.observer)
            try copy.observer.validate("copy")
            XCTAssertEqual(copy.bins, [2: 1, -2: 1, 12: 1])
            XCTAssertEqual(copy.observer.counts[0], 3)
            XCTAssertEqual(copy.observer.lows[0], -0.25)
            XCTAssertEqual(copy.observer.highs[0], 3)
            XCTAssertEqual(copy.observer.sums[0], 3.25)
            XCTAssertEqual(copy.observer.magnitudes[0], 3.75)
            XCTAssertEqual(copy.observer.squares[0], 9.3125)
            XCTAssertEqual(copy.observer.batches, 2)
            XCTAssertEqual(copy.observer.notFinite, 1)
        }
        XCTAssertThrowsError(try small.observer.merge(try Memory(bins: 32).observer))
    }

    func testAChangedCountIsNoticed() throws {
        let memory = try Memory()
        memory.push([0.5, -0.25])
        try memory.observer.validate("observer")
        memory.observer.histogram(0)[16 + 7] += 1
        XCTAssertThrowsError(try memory.observer.validate("observer"))
    }
}
