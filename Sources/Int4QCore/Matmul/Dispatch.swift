// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// An instruction set that this library has kernels for.
public enum InstructionSet: Int32 {
    case portable = 0
    case avx2 = 100
    case avxvnni = 150
    case avx512vnni = 200
    case avx512bf16 = 250
    case amx = 300

    public var name: Text {
        switch self {
        case .portable: "portable"
        case .avx2: "avx2"
        case .avxvnni: "avxvnni"
        case .avx512vnni: "avx512vnni"
        case .avx512bf16: "avx512bf16"
        case .amx: "amx"
        }
    }

    /// Whether processor and operating system have it and this build has kernels for it.
    public var isDetected: Bool {
        switch self {
        case .portable: true
        case .avx2: has(Int(I4Q_CPU_AVX2_FMA_F16C))
        case .avxvnni: has(Int(I4Q_CPU_AVXVNNI))
        case .avx512vnni: has(Int(I4Q_CPU_AVX512VNNI))
        case .avx512bf16: has(Int(I4Q_CPU_AVX512BF16))
        case .amx: has(Int(I4Q_CPU_AMX))
        }
    }

    private func has(_ feature: Int) -> Bool { i4q_cpu_features() & UInt32(truncatingIfNeeded: feature) != 0 }

    public static var detected: InstructionSet { best(notAbove: highest) }

    static var highest: InstructionSet { ordered[0] }

    /// From the best downwards.
    static var ordered: InlineArray<6, InstructionSet> { [.amx, .avx512bf16, .avx512vnni, .avxvnni, .avx2, .portable] }

    public static func best(notAbove limit: InstructionSet) -> InstructionSet {
        let sets = ordered
        for index in sets.indices where sets[index].rawValue <= limit.rawValue && sets[index].isDetected { return sets[index] }
        return .portable
    }

    public var kernels: i4q_kernels {
        #if arch(x86_64)
        switch self {
        case .portable: i4q_kernels_portable()
        case .avx2: i4q_kernels_avx2()
        case .avxvnni: i4q_kernels_avxvnni(i4q_kernels_avx2())
        case .avx512vnni: avx512vnni
        case .avx512bf16: i4q_kernels_avx512bf16(avx512vnni)
        case .amx: i4q_kernels_amx(i4q_kernels_avx512bf16(avx512vnni))
        }
        #else
        i4q_kernels_portable()
        #endif
    }

    #if arch(x86_64)
    private var avx512vnni: i4q_kernels {
        var kernels = i4q_kernels_avx512vnni()
        kernels.quantize_batch = i4q_kernels_avx2().quantize_batch
        return has(Int(I4Q_CPU_AVX512VPOPCNTDQ)) ? i4q_kernels_avx512vpopcntdq(kernels) : kernels
    }
    #endif
}

/// The process-wide limit: by call, else by the environment.
public enum InstructionSetLimit {
    public enum Origin { case none, call, environment }

    public static func set(_ raw: int4q_isa) throws(Failure) {
        if raw == int4q_isa(INT4Q_ISA_NO_LIMIT) {
            i4q_atomic_store_u32(i4q_isa_limit_word(), .max)
            return
        }
        guard let limit = InstructionSet(rawValue: raw) else {
            throw .invalid("limit", Int64(raw), expected: "one of INT4Q_ISA_* or INT4Q_ISA_NO_LIMIT")
        }
        i4q_atomic_store_u32(i4q_isa_limit_word(), UInt32(bitPattern: limit.rawValue))
    }

    public static func current() throws(Failure) -> (limit: InstructionSet, origin: Origin) {
        let word = i4q_atomic_load_u32(i4q_isa_limit_word())
        if word != .max, let limit = InstructionSet(rawValue: Int32(bitPattern: word)) { return (limit, .call) }
        guard let name = i4q_isa_environment() else { return (InstructionSet.highest, .none) }
        let sets = InstructionSet.ordered
        for index in sets.indices where matches(name, sets[index].name) { return (sets[index], .environment) }
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "INT4Q_ISA (environment)", .characters(name),
                      expected: "a name that int4q_isa_name() gives")
    }

    public static func active() throws(Failure) -> InstructionSet {
        InstructionSet.best(notAbove: try current().limit)
    }

    private static func matches(_ name: UnsafePointer<CChar>, _ text: Text) -> Bool {
        var index = 0
        while name[index] == text.characters[index] {
            if name[index] == 0 { return true }
            index += 1
        }
        return false
    }
}
