// SPDX-License-Identifier: Apache-2.0

/// Columns of a panel.
let panelWidth = 16

/// Rows of products that are summed in binary32 before the sums go on in binary64: what they lose stays below what one binary32
/// holds, and a pair of panels of this depth stays in the first-level cache.
let chainLength = 128

/// How an upper triangular or symmetric matrix of `panels` * 16 columns stands in memory: column after column in panels of 16, of
/// which panel c has the rows 0..<16 (c + 1), each row 16 elements side by side. The lower part of a square on the diagonal is
/// there, but not used by all.
struct TrianglePanels {
    let panels: Int
    var columns: Int { panels &* panelWidth }

    init(columns k: Int) { panels = (k &+ panelWidth &- 1) / panelWidth }

    /// The elements before a panel.
    @inline(__always) static func offset(_ panel: Int) -> Int { panel &* (panel &+ 1) / 2 &* 256 }
    var count: Int { TrianglePanels.offset(panels) }

    /// Where an element is; row at most 16 * (column / 16) + 15.
    @inline(__always)
    static func place(_ row: Int, _ column: Int) -> Int {
        offset(column / panelWidth) &+ row &* panelWidth &+ column % panelWidth
    }

    /// The same of a symmetric matrix.
    @inline(__always)
    static func symmetricPlace(_ a: Int, _ b: Int) -> Int { a < b ? place(a, b) : place(b, a) }

    /// How many elements so many columns take, free of overflow.
    static func checkedCount(columns k: Int64, _ name: Text) throws(Failure) -> CheckedSize {
        let panels = UInt64((k - 1) / Int64(panelWidth) + 1)
        return try CheckedSize(panels, name, argument: k).times(panels + 1).times(128)
    }
}
