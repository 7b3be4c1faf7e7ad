// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// The one symbol of this module that others call: AVX-512 VNNI's kernels with BF16 products of its own.
@c @implementation
public func i4q_kernels_avx512bf16(_ base: i4q_kernels) -> i4q_kernels {
    var kernels = base
    kernels.tile_bf16_name = constant("avx512bf16-dpbf16ps")
    kernels.bf16_element_bytes = 2
    kernels.prepare_bf16 = { prepareBFloats($0.unsafelyUnwrapped.pointee) }
    kernels.tile_bf16 = { product, tile in
        coverTile(BF16Shapes.self, product.unsafelyUnwrapped.pointee, tile.unsafelyUnwrapped.pointee)
    }
    return kernels
}
