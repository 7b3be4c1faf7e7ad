// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// The one symbol of this module that others call: a table of AVX-512's with BINARY products of its own.
@c @implementation
public func i4q_kernels_avx512vpopcntdq(_ base: i4q_kernels) -> i4q_kernels {
    var kernels = base
    kernels.tile_binary_name = constant("avx512vpopcntdq-binary")
    kernels.tile_binary = { product, tile in coverTile(BinaryShapes.self, product.unsafelyUnwrapped.pointee, tile.unsafelyUnwrapped.pointee) }
    return kernels
}
