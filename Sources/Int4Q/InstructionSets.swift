// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 2 of the header.

@c @implementation
public func int4q_isa_detected(_ isa: UnsafeMutablePointer<int4q_isa>?) -> int4q_status {
    attempt("int4q_isa_detected") { () throws(Failure) in
        try require(isa, "isa").pointee = InstructionSet.detected.rawValue
    }
}

@c @implementation
public func int4q_isa_active(_ isa: UnsafeMutablePointer<int4q_isa>?) -> int4q_status {
    attempt("int4q_isa_active") { () throws(Failure) in
        let isa = try require(isa, "isa")
        isa.pointee = try InstructionSetLimit.active().rawValue
    }
}

@c @implementation
public func int4q_isa_set_limit(_ limit: int4q_isa) -> int4q_status {
    attempt("int4q_isa_set_limit") { () throws(Failure) in try InstructionSetLimit.set(limit) }
}

@c @implementation
public func int4q_isa_name(_ isa: int4q_isa) -> UnsafePointer<CChar>? {
    (InstructionSet(rawValue: isa)?.name ?? "unknown").characters
}
