// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// The one symbol of this module that others call.
@c @implementation
public func i4q_kernels_avx512vnni() -> i4q_kernels {
    makeTable(f32: "avx512-f32-fma", int8: "avx512vnni-int8-dpbusd")
}
