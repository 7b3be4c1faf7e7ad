// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// The one symbol of this module that others call.
@c @implementation
public func i4q_kernels_avx2() -> i4q_kernels {
    makeTable(f32: "avx2-f32-fma", int8: "avx2-int8-maddubs")
}
