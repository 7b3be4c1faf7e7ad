// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// The one symbol of this module that others call.
@c @implementation
public func i4q_kernels_avx512vnni() -> i4q_kernels {
    var kernels = i4q_kernels()
    kernels.fillPreparing()
    kernels.fillElementwise()
    kernels.rank_update = { MatrixUpdate.run($0.unsafelyUnwrapped.pointee) }
    kernels.tile_f32_name = constant("avx512-f32-fma")
    kernels.tile_f32 = { product, tile in
        multiply(F32Shapes<LinearCodes>.self, F32Shapes<TableCodes>.self, RowProduct.self, product.unsafelyUnwrapped.pointee,
                 tile.unsafelyUnwrapped.pointee)
    }
    // BF16 mode: F32's products of rounded activations.
    kernels.tile_bf16_name = kernels.tile_f32_name
    kernels.tile_bf16 = kernels.tile_f32
    kernels.tile_int8_name = constant("avx512vnni-int8-dpbusd")
    kernels.tile_int8 = { product, tile in
        multiply(Int8Shapes<LinearDot>.self, Int8Shapes<TableDot>.self, bytes: Int8Shapes<ByteDot>.self, few: FewShapes.self,
                 product.unsafelyUnwrapped.pointee, tile.unsafelyUnwrapped.pointee)
    }
    kernels.tile_binary_name = constant("avx512-binary")
    kernels.tile_binary = { product, tile in coverTile(BinaryShapes.self, product.unsafelyUnwrapped.pointee, tile.unsafelyUnwrapped.pointee) }
    return kernels
}
