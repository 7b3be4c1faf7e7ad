// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Which kernel, how the work is cut, and why nothing better.
public func describeDispatch(_ shape: MatmulShape, _ writer: inout TextWriter) throws(Failure) {
    let isa = try InstructionSetLimit.active()
    let kernels = isa.kernels
    let plan = try MatmulPlan(shape, kernels)
    let kernel = switch shape.mode {
    case .f32: kernels.tile_f32_name
    case .bf16: kernels.tile_bf16_name
    case .int8: kernels.tile_int8_name
    case .binary: kernels.tile_binary_name
    }
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
    adviseMode(shape, isa, &writer)
    try explainChoice(isa, &writer)
}

/// What another mode would do better.
private func adviseMode(_ shape: MatmulShape, _ isa: InstructionSet, _ writer: inout TextWriter) {
    if shape.mode == .bf16 && isa.kernels.bf16_element_bytes != 2 {
        writer.write(" BF16 mode is F32 mode with rounded activations here, and no faster.")
    }
    if shape.mode == .bf16 && shape.m <= 4 && isa.kernels.roundsWeights(groupSize: shape.layout.groupSize, kind: Int64(shape.scheme.raw.kind)) {
        writer.write(" It dequantizes these weights: for so few rows F32 mode is faster.")
    }
    if shape.mode == .int8 && isa == .amx && shape.layout.groupSize < 64 {
        writer.write(" For many rows BF16 mode is faster at groups this short.")
    }
    if shape.mode == .f32 && isa.rawValue >= InstructionSet.avx512vnni.rawValue { writer.write(" F32 mode needs AVX-512 only, not VNNI.") }
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
            // Named: a choice between two literals would be a String, and bring along that type's runtime.
            let whose: Text = origin == .call ? ": int4q_isa_set_limit()" : ": the environment's INT4Q_ISA"
            writer.write(whose)
            writer.write(" allows at most ")
            writer.write(limit.name)
            writer.write(".")
        }
    }
    if isa == InstructionSet.highest { writer.write(" This library has nothing better.") }
}
