// SPDX-License-Identifier: Apache-2.0
import CInt4QShims
import Int4QCore

/// The kernels that calls made now use; one copy of the code for many entry points.
@inline(never)
func activeKernels() throws(Failure) -> i4q_kernels { try InstructionSetLimit.active().kernels }
