// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// The one symbol of this module that others call: AVX2's kernels with INT8 products of its own.
@c @implementation
public func i4q_kernels_avxvnni(_ base: i4q_kernels) -> i4q_kernels {
    var kernels = base
    kernels.tile_int8_name = constant("avxvnni-int8-dpbusd")
    kernels.tile_int8 = { product, tile in
        multiply(Int8Shapes<LinearDot>.self, Int8Shapes<TableDot>.self, bytes: Int8Shapes<ByteDot>.self, few: FewShapes.self,
                 product.unsafelyUnwrapped.pointee, tile.unsafelyUnwrapped.pointee)
    }
    return kernels
}
