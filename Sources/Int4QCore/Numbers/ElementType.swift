// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A type that elements, scales and offsets may have, known to be one of the three.
public struct ElementType {
    public let raw: int4q_type
    public var size: Int { raw == int4q_type(INT4Q_TYPE_F32) ? 4 : 2 }

    public init(_ raw: int4q_type, _ name: Text) throws(Failure) {
        if raw < int4q_type(INT4Q_TYPE_F32) || raw > int4q_type(INT4Q_TYPE_BF16) {
            throw .invalid(name, Int64(raw), expected: "INT4Q_TYPE_F32, INT4Q_TYPE_F16 or INT4Q_TYPE_BF16")
        }
        self.raw = raw
    }

    private init(raw: int4q_type) { self.raw = raw }
    static var f32: ElementType { ElementType(raw: int4q_type(INT4Q_TYPE_F32)) }

    @inline(never)
    public func load(_ pointer: UnsafeRawPointer, _ index: Int) -> Float { loadInline(pointer, index) }

    /// The same for loops in which a call counts.
    @inline(__always)
    func loadInline(_ pointer: UnsafeRawPointer, _ index: Int) -> Float {
        if size == 4 { return (pointer + index &* 4).loadUnaligned(as: Float.self) }
        let bits = (pointer + index &* 2).loadUnaligned(as: UInt16.self)
        return raw == int4q_type(INT4Q_TYPE_F16) ? Float16Bits.float(bits) : BFloat16Bits.float(bits)
    }

    @inline(never)
    public func store(_ value: Float, _ pointer: UnsafeMutableRawPointer, _ index: Int) {
        if size == 4 { (pointer + index &* 4).storeBytes(of: value, as: Float.self); return }
        let bits = raw == int4q_type(INT4Q_TYPE_F16) ? Float16Bits.bits(value) : BFloat16Bits.bits(value)
        (pointer + index &* 2).storeBytes(of: bits, as: UInt16.self)
    }

    /// The value that is left after storing and loading.
    @inline(never)
    public func rounded(_ value: Float) -> Float {
        if size == 4 { return value }
        return raw == int4q_type(INT4Q_TYPE_F16)
            ? Float16Bits.float(Float16Bits.bits(value)) : BFloat16Bits.float(BFloat16Bits.bits(value))
    }
}
