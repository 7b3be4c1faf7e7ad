// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Foundation
import XCTest

@testable import Int4QCore

/// Which slot each row of x gets, and how slots are cut into segments, for many assignments of rows to experts.
final class ExpertRowsTests: XCTestCase {
    private static let sizes: [(rows: Int, experts: Int)] = [
        (1, 1), (1, 5), (2, 1), (2, 2), (3, 2), (7, 3), (16, 4), (17, 64), (64, 8), (127, 2), (128, 1), (128, 8), (129, 1),
        (129, 3), (200, 2), (256, 1), (300, 256), (385, 3), (512, 4), (700, 1), (700, 60), (30, 65536),
    ]

    /// Calls `body` with each size and each way of assigning its rows.
    private func forEachAssignment(_ body: (AssignedRows) throws -> Void) rethrows {
        var random = SplitMix64(state: 21)
        for (rows, experts) in Self.sizes {
            for rowExperts in assignments(rows, experts, &random) { try body(AssignedRows(rowExperts, experts: experts)) }
        }
    }

    private func assignments(_ rows: Int, _ experts: Int, _ random: inout SplitMix64) -> [[Int32]] {
        var all = [[Int32]]()
        for _ in 0..<3 { all.append((0..<rows).map { _ in Int32.random(in: -1..<Int32(experts), using: &random) }) }
        // Most rows to a few experts, in one order or the other; many to none.
        all.append((0..<rows).map { _ in Int32(pow(Double.random(in: 0..<1, using: &random), 4) * Double(experts)) })
        all.append((0..<rows).map { Int32($0 * experts / rows) })
        all.append((0..<rows).map { Int32(($0 * 7919) % experts) }.reversed())
        all.append((0..<rows).map { _ in random.next() % 4 == 0 ? Int32(random.next() % UInt64(experts)) : -1 })
        for expert in Set([0, experts / 2, experts - 1, -1]) { all.append([Int32](repeating: Int32(expert), count: rows)) }
        return all
    }

    func testSlotsAreSortedByExpertAndKeepTheOrderOfRows() {
        var all = Comparisons()
        forEachAssignment { assigned in
            let slots = assigned.takeSlots()
            let expected = assigned.sortedRows
            for (slot, row) in expected.enumerated() {
                all.expect(slots[row] == slot, "\(assigned): row \(row) has slot \(slots[row] ?? -1), expected \(slot)")
                let found = assigned.rows.rowOfSlot[slot]
                all.expect(found == row, "\(assigned): slot \(slot) has row \(found), expected \(row)")
            }
        }
        all.assertAllHeld(atLeast: 50_000)
    }

    func testRowsWithoutAnExpertAreNowhere() {
        var all = Comparisons()
        forEachAssignment { assigned in
            let slots = assigned.takeSlots()
            for row in assigned.rowExperts.indices where assigned.rowExperts[row] < 0 {
                all.expect(slots[row] == nil, "\(assigned): row \(row) has slot \(slots[row] ?? -1)")
            }
            for slot in assigned.sortedRows.count..<assigned.rowExperts.count {
                all.expect(assigned.rows.rowOfSlot[slot] == AssignedRows.untouched, "\(assigned): slot \(slot) was taken")
            }
        }
        all.assertAllHeld(atLeast: 19_000)
    }

    /// Prepare tasks run in any order.
    func testTheOrderInWhichSlotsAreTakenDoesNotMatter() {
        var random = SplitMix64(state: 22)
        forEachAssignment { assigned in
            let slots = assigned.takeSlots()
            let shuffled = AssignedRows(assigned.rowExperts, experts: assigned.experts)
            XCTAssertEqual(shuffled.takeSlots(assigned.rowExperts.indices.shuffled(using: &random)), slots, "\(assigned)")
        }
    }

    func testSegmentsCoverEachExpertsSlotsInOrder() {
        forEachAssignment { assigned in
            let covered = assigned.segments().flatMap { segment in (0..<segment.count).map { _ in segment.expert } }
            XCTAssertEqual(covered, assigned.sortedRows.map { assigned.rowExperts[$0] }, "\(assigned)")
            var next: Int32 = 0
            for segment in assigned.segments() where segment.count > 0 {
                XCTAssertEqual(segment.firstSlot, next, "\(assigned)")
                next += segment.count
            }
        }
    }

    func testSegmentsAreNoLongerThanTilesAndNoMoreThanPlanned() {
        forEachAssignment { assigned in
            let used = assigned.segments().filter { $0.count > 0 }
            XCTAssertTrue(used.allSatisfy { Int($0.count) <= assigned.rows.rowsPerTile }, "\(assigned)")
            XCTAssertLessThanOrEqual(used.count, assigned.mostSegments, "\(assigned)")
            XCTAssertEqual(Int64(assigned.mostSegments), assigned.plan.rowTiles, "\(assigned)")
        }
    }

    /// Each expert's last segment may be as short as one row.
    func testAsManySegmentsAsPlannedCanBeNeeded() {
        let rowExperts = [Int32](repeating: 1, count: 127) + [0] + [Int32](repeating: 1, count: 130)
        let assigned = AssignedRows(rowExperts, experts: 2)
        XCTAssertEqual(assigned.segments().map(\.count), [1, 128, 128, 1])
        XCTAssertEqual(assigned.mostSegments, 4)
    }

    func testSegmentsDoNotDependOnWhatTheMemoryHeld() {
        forEachAssignment { assigned in
            let first = assigned.segments()
            assigned.rows.writeSegments([Int32](repeating: 0, count: assigned.rowExperts.count))
            let second = assigned.segments()
            XCTAssertEqual(first.map(\.expert), second.map(\.expert), "\(assigned)")
            XCTAssertEqual(first.map(\.firstSlot), second.map(\.firstSlot), "\(assigned)")
            XCTAssertEqual(first.map(\.count), second.map(\.count), "\(assigned)")
        }
    }

    func testNothingIsWrittenBeyondItsBytes() {
        forEachAssignment { assigned in
            _ = assigned.takeSlots()
            _ = assigned.segments()
            XCTAssertTrue(assigned.isSurroundedByUntouchedBytes, "\(assigned)")
        }
    }
}

/// Memory for one assignment, with bytes around it that nobody writes.
private final class AssignedRows: CustomStringConvertible {
    static let untouched: Int32 = 0x5a5a_5a5a

    let rowExperts: [Int32]
    let experts: Int
    let plan: MatmulPlan
    let rows: ExpertRows
    private let scratch: AlignedMemory

    init(_ rowExperts: [Int32], experts: Int) {
        var desc = Int4QCoreTests.description(m: Int64(rowExperts.count), n: 1, k: 1, scheme: rawScheme(INT4Q_KIND_SYMMETRIC))
        desc.expert_count = UInt32(experts)
        self.rowExperts = rowExperts
        self.experts = experts
        plan = try! MatmulPlan(MatmulShape(desc), bfloatBytes: 4)
        scratch = AlignedMemory(Int(plan.workersOffset) + 64)
        scratch.base.initializeMemory(as: UInt8.self, repeating: 0x5a, count: scratch.byteCount)
        rows = ExpertRows(plan, in: scratch.base)
    }

    var description: String { "\(rowExperts.count) rows, \(experts) experts, \(rowExperts.prefix(40))..." }

    /// Rows that have an expert, by expert and then by row.
    var sortedRows: [Int] {
        let used = rowExperts.indices.filter { rowExperts[$0] >= 0 }
        return used.sorted { (rowExperts[$0], $0) < (rowExperts[$1], $1) }
    }

    var mostSegments: Int {
        Int(ExpertRows.mostSegments(rows: plan.m, experts: plan.expertCount, rowsPerTile: plan.rowsPerTile))
    }

    /// The slot of each row.
    func takeSlots(_ order: [Int]? = nil) -> [Int?] {
        var slots = [Int?](repeating: nil, count: rowExperts.count)
        for row in order ?? [Int](rowExperts.indices) { slots[row] = rows.takeSlot(of: row, rowExperts) }
        return slots
    }

    func segments() -> [ExpertRows.Segment] {
        rows.writeSegments(rowExperts)
        return (0..<mostSegments).map { rows.segments[$0] }
    }

    var isSurroundedByUntouchedBytes: Bool {
        let bytes = scratch.bytes
        return bytes[0..<Int(plan.expertsOffset)].allSatisfy { $0 == 0x5a } && bytes.suffix(64).allSatisfy { $0 == 0x5a }
    }
}
