// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A caller's row-major matrix that was checked: pointer, type, alignment, stride, and that its end can be addressed.
public struct Matrix {
    public let base: UnsafeRawPointer
    public let type: ElementType
    public let columns: Int
    public let strideBytes: Int

    public struct Names {
        let pointer: Text
        let stride: Text
        public init(_ pointer: Text, stride: Text) {
            self.pointer = pointer
            self.stride = stride
        }
    }

    public init(_ pointer: UnsafeRawPointer?, _ type: ElementType, rows: Int64, columns: Int64, stride: Int64,
                _ names: Names) throws(Failure) {
        base = try require(pointer, names.pointer, alignment: type.size)
        try requireAtLeast(stride, columns, names.stride)
        let before = try CheckedSize(UInt64(stride), names.stride).times(UInt64(rows - 1))
        let bytes = try before.plus(UInt64(columns)).times(UInt64(type.size))
        if UInt64(UInt(bitPattern: base)).addingReportingOverflow(bytes.value).overflow {
            throw Failure(INT4Q_ERROR_SIZE_OVERFLOW, names.stride, .integer(stride),
                          expected: "a matrix that ends within the address space")
        }
        self.type = type
        self.columns = Int(columns)
        strideBytes = rows == 1 ? 0 : Int(stride) * type.size
    }

    /// Of memory that is the library's own, or within a matrix that was checked.
    init(base: UnsafeRawPointer, type: ElementType, columns: Int, strideBytes: Int) {
        self.base = base
        self.type = type
        self.columns = columns
        self.strideBytes = strideBytes
    }

    public func row(_ index: Int) -> UnsafeRawPointer { base + index &* strideBytes }
    public func mutableRow(_ index: Int) -> UnsafeMutableRawPointer { UnsafeMutableRawPointer(mutating: row(index)) }
}
