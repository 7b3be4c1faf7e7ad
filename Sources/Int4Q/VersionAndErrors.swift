// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims
import Int4QCore

// Section 1 of the header.

@c @implementation
public func int4q_version() -> Int32 {
    Int32(INT4Q_VERSION_MAJOR) * 1_000_000 + Int32(INT4Q_VERSION_MINOR) * 1000 + Int32(INT4Q_VERSION_PATCH)
}

@c @implementation
public func int4q_abi_version() -> Int32 { Int32(INT4Q_ABI_VERSION) }

@c @implementation
public func int4q_status_string(_ status: int4q_status) -> UnsafePointer<CChar>? {
    statusName(Int(status)).characters
}

private func statusName(_ status: Int) -> Text {
    switch status {
    case Int(INT4Q_OK): "INT4Q_OK"
    case Int(INT4Q_ERROR_NULL_POINTER): "INT4Q_ERROR_NULL_POINTER"
    case Int(INT4Q_ERROR_STRUCT_SIZE): "INT4Q_ERROR_STRUCT_SIZE"
    case Int(INT4Q_ERROR_INVALID_ARGUMENT): "INT4Q_ERROR_INVALID_ARGUMENT"
    case Int(INT4Q_ERROR_SIZE_OVERFLOW): "INT4Q_ERROR_SIZE_OVERFLOW"
    case Int(INT4Q_ERROR_MISALIGNED): "INT4Q_ERROR_MISALIGNED"
    case Int(INT4Q_ERROR_BUFFER_TOO_SMALL): "INT4Q_ERROR_BUFFER_TOO_SMALL"
    case Int(INT4Q_ERROR_NOT_FINITE): "INT4Q_ERROR_NOT_FINITE"
    case Int(INT4Q_ERROR_UNSUPPORTED): "INT4Q_ERROR_UNSUPPORTED"
    case Int(INT4Q_ERROR_CORRUPT): "INT4Q_ERROR_CORRUPT"
    case Int(INT4Q_ERROR_BLOB_VERSION): "INT4Q_ERROR_BLOB_VERSION"
    case Int(INT4Q_ERROR_MISMATCH): "INT4Q_ERROR_MISMATCH"
    case Int(INT4Q_ERROR_OUT_OF_MEMORY): "INT4Q_ERROR_OUT_OF_MEMORY"
    case Int(INT4Q_ERROR_THREAD): "INT4Q_ERROR_THREAD"
    case Int(INT4Q_ERROR_CANCELLED): "INT4Q_ERROR_CANCELLED"
    default: "unknown int4q status"
    }
}

@c @implementation
public func int4q_last_error(_ error: UnsafeMutablePointer<int4q_error>?) -> int4q_status {
    guard let error else { return int4q_status(INT4Q_ERROR_NULL_POINTER) }
    if error.pointee.struct_size != UInt32(MemoryLayout<int4q_error>.stride) { return int4q_status(INT4Q_ERROR_STRUCT_SIZE) }
    guard let text = i4q_thread_error() else { return int4q_status(INT4Q_ERROR_NULL_POINTER) }
    let raw = UnsafeRawPointer(text)
    func field(_ offset: Int?) -> UnsafePointer<CChar> { (raw + (offset ?? 0)).assumingMemoryBound(to: CChar.self) }
    error.pointee.status = text.pointee.status
    error.pointee.function = text.pointee.function ?? Text("").characters
    error.pointee.argument = text.pointee.argument ?? Text("").characters
    error.pointee.value = field(MemoryLayout<i4q_error_text>.offset(of: \.value))
    error.pointee.expected = field(MemoryLayout<i4q_error_text>.offset(of: \.expected))
    error.pointee.message = field(MemoryLayout<i4q_error_text>.offset(of: \.message))
    return int4q_status(INT4Q_OK)
}
