// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// Where the parts of a Gram matrix are in memory, each at a multiple of 64 bytes; `padded` is k rounded up to 16:
///
///     [header] [padded sums] [padded sums of magnitudes] [padded largest magnitudes] [triangle of sums of products]
///
/// All sums are binary64. The triangle takes about 4 k^2 bytes, as a square of binary32 would.
public struct GramLayout {
    public let k: Int64
    public let totalBytes: UInt64
    let sums: Int
    let magnitudes: Int
    let maxima: Int
    let products: Int

    var triangle: TrianglePanels { TrianglePanels(columns: Int(k)) }
    var padded: Int { triangle.columns }

    @inline(never)
    public init(k: Int64, _ name: Text = "k") throws(Failure) {
        try requireAtLeast(k, 1, name)
        self.k = k
        let padded = try CheckedSize(UInt64(k), name).roundedUp(to: 16)
        let doubles = try padded.times(8).roundedUp(to: 64).value, floats = try padded.times(4).roundedUp(to: 64).value
        let products = try TrianglePanels.checkedCount(columns: k, name).times(8)
        totalBytes = try products.plus(SavedBlock.headerBytes + 2 * doubles + floats).value
        sums = Int(SavedBlock.headerBytes)
        magnitudes = sums + Int(doubles)
        maxima = magnitudes + Int(doubles)
        self.products = maxima + Int(floats)
    }
}
