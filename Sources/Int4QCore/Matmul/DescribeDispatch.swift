// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Which kernel, how the work is cut, and why nothing better.
public func describeDispatch(_ shape: MatmulShape, _ writer: inout TextWriter) throws(Failure) {
    let isa = try InstructionSetLimit.active()
    let plan = try MatmulPlan(shape)
    let isF32 = shape.mode == .f32
    let kernel = isF32 ? isa.kernels.tile_f32_name : isa.kernels.tile_int8_name
    writer.write("Kernel ")
    writer.write(kernel.unsafelyUnwrapped)
    writer.write(" (instruction set ")
    writer.write(isa.name)
    writer.write("): ")
    writer.write(plan.tileCount)
    writer.write(" tiles of at most ")
    writer.write(plan.rowsInTile)
    writer.write(" rows by ")
    writer.write(plan.columnsInTile)
    writer.write(" columns for ")
    writer.write(Int64(shape.workerCount))
    writer.write(" workers.")
    if isF32 && isa == .avx512vnni { writer.write(" F32 mode needs AVX-512 only, not VNNI.") }
    try explainChoice(isa, &writer)
}

private func explainChoice(_ isa: InstructionSet, _ writer: inout TextWriter) throws(Failure) {
    let (limit, origin) = try InstructionSetLimit.current()
    let sets = InstructionSet.ordered
    for index in sets.indices where sets[index].rawValue > isa.rawValue {
        let better = sets[index]
        writer.write(" Not ")
        writer.write(better.name)
        if !better.isDetected {
            writer.write(": the processor or the operating system does not offer it.")
        } else {
            writer.write(origin == .call ? ": int4q_isa_set_limit() allows at most " : ": the environment's INT4Q_ISA allows at most ")
            writer.write(limit.name)
            writer.write(".")
        }
    }
    if isa == .avx512vnni { writer.write(" This library has nothing better.") }
}
