// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A flat block of a caller's memory that can be saved: what observers, Gram and cross matrices have in common. What lies behind the
/// header is believed only as far as memory safety does not depend on it.
///
///     0 magic     8 u32 version, u32 0     16 what it is of     then u64 size of all, i64 counts; zeros to 128
///
/// Little-endian, as everything here.
struct SavedBlock {
    static var headerBytes: UInt64 { 128 }
    static var version: UInt32 { 1 }

    let memory: UnsafeMutableRawPointer
    let bytes: UInt64
    let name: Text
    let bytesName: Text

    /// A block that begins as such blocks do. What follows the version has not been checked.
    @inline(never)
    init(_ pointer: UnsafeRawPointer?, _ bytes: UInt64, _ name: Text, _ bytesName: Text, magic: UInt64,
         _ beginning: Text) throws(Failure) {
        memory = UnsafeMutableRawPointer(mutating: try require(pointer, name, alignment: Int(INT4Q_ALIGNMENT)))
        self.bytes = bytes
        self.name = name
        self.bytesName = bytesName
        try requireBytes(bytes, needed: SavedBlock.headerBytes, bytesName)
        if memory.load(as: UInt64.self) != magic { throw .corrupt(name, "a header", beginning) }
        let version = memory.load(fromByteOffset: 8, as: UInt32.self)
        if version != SavedBlock.version {
            throw Failure(INT4Q_ERROR_BLOB_VERSION, name, .unsigned(UInt64(version)), expected: "version",
                          bound: UInt64(SavedBlock.version))
        }
    }

    /// That all of it is there: its size stands at `place`, and after it as many counts.
    @inline(never)
    func requireWhole(_ total: UInt64, at place: Int, counts: Int, _ expected: Text) throws(Failure) {
        var reserve = memory.load(fromByteOffset: 12, as: UInt32.self)
        for offset in stride(from: place + 8 + counts * 8, to: Int(SavedBlock.headerBytes), by: 4) {
            reserve |= memory.load(fromByteOffset: offset, as: UInt32.self)
        }
        if memory.load(fromByteOffset: place, as: UInt64.self) != total || reserve != 0 { throw .corrupt(name, "a header", expected) }
        try requireBytes(bytes, needed: total, bytesName)
    }

    /// A copy of a checked one.
    init(_ other: SavedBlock, at pointer: UnsafeMutableRawPointer) {
        memory = pointer
        bytes = other.bytes
        name = other.name
        bytesName = other.bytesName
    }

    /// A new one, zeros but for its header.
    @inline(never)
    init(making total: UInt64, at place: Int, magic: UInt64, in pointer: UnsafeMutableRawPointer) {
        memory = pointer
        bytes = total
        name = ""
        bytesName = ""
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: Int(total))
        memory.storeBytes(of: magic, as: UInt64.self)
        memory.storeBytes(of: SavedBlock.version, toByteOffset: 8, as: UInt32.self)
        memory.storeBytes(of: total, toByteOffset: place, as: UInt64.self)
    }
}

extension Failure {
    static func corrupt(_ name: Text, _ value: Text, _ expected: Text) -> Failure {
        Failure(INT4Q_ERROR_CORRUPT, name, .text(value), expected: expected)
    }
}
