// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// W D of blocks of 16 rows, in binary32 with sums of 128 products continued in binary64.
struct CrossProduct {
    let cross: Cross
    /// Of W.
    let columns: Int
    /// In which the columns of W stand; those of the product stand in their own.
    let order: ChannelOrder
    /// That of a DampedGram.
    let scale: Double
    let kernels: i4q_kernels
    /// [chainLength][16]
    let room: UnsafeMutablePointer<Float>

    /// Adds to out[16][16] of each block of rows a panel's product with weights [k][16]; blocks are `stride` bytes apart in both.
    @_optimize(speed) @inline(never)
    func add(_ panel: Int, _ weights: UnsafePointer<Float>, stride: Int, blocks: Int, _ out: UnsafeMutablePointer<Double>) {
        let k = columns
        var depth = 0
        while depth < k {
            let length = min(chainLength, k &- depth)
            for index in 0..<length {
                let source = cross.panel(panel, row: Int(order.columns[depth &+ index]))
                for lane in 0..<panelWidth { room[index &* panelWidth &+ lane] = Float(source[lane] * scale) }
            }
            addProducts(kernels, room, weights + depth &* 16, depth: length, stride: stride, blocks: blocks, out)
            depth &+= chainLength
        }
    }
}

/// Adds products of [depth][16] and of each block's [depth][16] to the block's [16][16]; `stride` is in bytes.
@inline(never)
func addProducts(_ kernels: i4q_kernels, _ left: UnsafePointer<Float>, _ right: UnsafePointer<Float>, depth: Int, stride: Int,
                 blocks: Int, _ out: UnsafeMutablePointer<Double>) {
    var update = i4q_rank_update()
    update.left = left
    update.left_panels = 1
    update.right_stride = Int64(stride / 4)
    update.out_stride = Int64(stride / 8)
    update.depth = Int64(depth)
    var block = 0
    while block < blocks {
        update.right = right + block &* stride / 4
        update.right_panels = Int64(min(2, blocks &- block))
        update.out = out + block &* stride / 8
        kernels.rank_update.unsafelyUnwrapped(&update)
        block &+= 2
    }
}

extension Cross {
    /// That it goes with a Gram matrix, and that what is left of it in binary32 is finite.
    @inline(never)
    func require(_ source: DampedGram, residuals: Int64 = 0) throws(Failure) {
        try requireMatch(source.gram, "options.cross", residuals: residuals)
        let k = Int(layout.k)
        for row in 0..<k {
            for column in 0..<k where !(element(row, column).magnitude * source.scale <= 0x1p80) {
                throw Failure(INT4Q_ERROR_CORRUPT, "options.cross",
                              .element(row: Int64(row), column: Int64(column), Float(element(row, column))),
                              expected: "sums of at most 2^80 times the mean of the Gram matrix's diagonal")
            }
        }
    }
}
