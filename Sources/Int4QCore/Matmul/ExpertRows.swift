// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// Which rows of x go to which expert, sorted: prepared rows stand in slots, those of one expert side by side, and
/// segments of slots are what row tiles are to a plain product. Lives in a product's scratch memory:
///
///     [row of each slot: m int32] [rows of each expert: expertCount int32] [segments]        padded to 64
///
/// Each row's slot follows from row_experts alone, so prepare tasks need not wait for one another; task 0 writes the
/// segments.
struct ExpertRows {
    struct Segment {
        var expert: Int32 = 0
        var firstSlot: Int32 = 0
        var count: Int32 = 0
    }

    let rowOfSlot: UnsafeMutablePointer<Int32>
    let counts: UnsafeMutablePointer<Int32>
    let segments: UnsafeMutablePointer<Segment>
    let rows: Int
    let expertCount: Int
    let rowsPerTile: Int

    /// Each expert's rows end in a segment that may be shorter than a tile.
    static func mostSegments(rows: Int64, experts: Int64, rowsPerTile: Int64) -> Int64 { min(rows, experts) + rows / rowsPerTile }

    static func bytes(rows: Int64, experts: Int64, rowsPerTile: Int64) -> Int64 {
        let segments = mostSegments(rows: rows, experts: experts, rowsPerTile: rowsPerTile)
        return (rows * 4 + experts * 4 + segments * Int64(MemoryLayout<Segment>.stride) + 63) & ~63
    }

    init(_ plan: MatmulPlan, in scratch: UnsafeMutableRawPointer) {
        let base = scratch + Int(plan.expertsOffset)
        rows = Int(plan.m)
        expertCount = Int(plan.expertCount)
        rowsPerTile = Int(plan.rowsPerTile)
        rowOfSlot = base.assumingMemoryBound(to: Int32.self)
        counts = rowOfSlot + rows
        segments = UnsafeMutableRawPointer(counts + expertCount).assumingMemoryBound(to: Segment.self)
    }

    /// Where the prepared row goes: after all rows of lower experts and the earlier ones of its own. Nil: nowhere.
    func takeSlot(of row: Int, _ rowExperts: UnsafePointer<Int32>) -> Int? {
        let expert = rowExperts[row]
        if expert < 0 { return nil }
        var slot = 0
        for other in 0..<row where rowExperts[other] >= 0 && rowExperts[other] <= expert { slot &+= 1 }
        for other in row..<rows where rowExperts[other] >= 0 && rowExperts[other] < expert { slot &+= 1 }
        rowOfSlot[slot] = Int32(truncatingIfNeeded: row)
        return slot
    }

    func writeSegments(_ rowExperts: UnsafePointer<Int32>) {
        counts.initialize(repeating: 0, count: expertCount)
        for row in 0..<rows where rowExperts[row] >= 0 { counts[Int(rowExperts[row])] &+= 1 }
        var slot = 0, used = 0
        for expert in 0..<expertCount {
            var left = Int(counts[expert])
            while left > 0 {
                let count = min(left, rowsPerTile)
                segments[used] = Segment(expert: Int32(truncatingIfNeeded: expert), firstSlot: Int32(truncatingIfNeeded: slot),
                                         count: Int32(truncatingIfNeeded: count))
                slot &+= count
                left &-= count
                used &+= 1
            }
        }
        let most = Int(ExpertRows.mostSegments(rows: Int64(rows), experts: Int64(expertCount), rowsPerTile: Int64(rowsPerTile)))
        while used < most {
            segments[used] = Segment()
            used &+= 1
        }
    }
}
