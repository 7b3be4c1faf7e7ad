// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// The one symbol of this module that others call: AVX-512 BF16's kernels with products in tiles.
@c @implementation
public func i4q_kernels_amx(_ base: i4q_kernels) -> i4q_kernels {
    var kernels = base
    // Longer groups' sums are scaled in the time that their products take.
    kernels.bf16_rounds_groups_below = 128
    // Rows of x that share what is unpacked, and columns that share a piece of x while it is in the second-level cache.
    kernels.largest_tile_rows = 512
    kernels.largest_tile_blocks = 16
    kernels.interleaves_rows = 1
    kernels.tile_bf16_name = constant("amx-bf16-tdpbf16ps")
    kernels.tile_bf16 = { product, tile in
        multiplyBF16Tiles(product.unsafelyUnwrapped.pointee, tile.unsafelyUnwrapped.pointee)
    }
    kernels.tile_int8_name = constant("amx-int8-tdpbssd")
    kernels.tile_int8 = { product, tile in
        // A table of functions has no place for those below it; asking for theirs is a few stores.
        if !paysInt8Tiles(product.unsafelyUnwrapped.pointee, tile.unsafelyUnwrapped.pointee) {
            i4q_kernels_avx512vnni().tile_int8.unsafelyUnwrapped(product, tile)
            return
        }
        multiplyInt8Tiles(product.unsafelyUnwrapped.pointee, tile.unsafelyUnwrapped.pointee)
    }
    return kernels
}
