// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// The one symbol of this module that others call.
@c @implementation
public func i4q_kernels_portable() -> i4q_kernels {
    makeTable(f32: "portable-f32-fma", int8: "portable-int8")
}
