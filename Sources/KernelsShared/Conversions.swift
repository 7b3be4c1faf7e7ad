// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

@inline(__always)
func elementBytes(_ type: Int64) -> Int { type == ElementType.f32 ? 4 : 2 }

/// Loads up to 16 elements; lanes from `count` on are zero. Reads no byte beyond them.
@inline(__always)
func loadElements(_ source: UnsafeRawPointer, _ type: Int64, _ index: Int, count: Int) -> Floats {
    count >= lanes ? loadElements(source, type, index) : loadTail(source, type, index, count: count)
}

/// 16 elements.
@inline(__always)
func loadElements(_ source: UnsafeRawPointer, _ type: Int64, _ index: Int) -> Floats {
    if type == ElementType.f32 { return source.floats(index &* 4) }
    let halves = (source + index &* 2).loadUnaligned(as: Halves.self)
    return type == ElementType.f16 ? widenHalves(halves) : widenBFloats(halves)
}

@inline(never)
func loadTail(_ source: UnsafeRawPointer, _ type: Int64, _ index: Int, count: Int) -> Floats {
    if type == ElementType.f32 {
        var values = Floats(repeating: 0)
        for i in 0..<count { values[i] = source.float((index &+ i) &* 4) }
        return values
    }
    var halves = Halves(repeating: 0)
    for i in 0..<count { halves[i] = (source + (index &+ i) &* 2).loadUnaligned(as: UInt16.self) }
    return type == ElementType.f16 ? widenHalves(halves) : widenBFloats(halves)
}

/// Writes lanes 0..<count as elements. Writes no byte beyond them.
@inline(__always)
func storeElements(_ values: Floats, _ destination: UnsafeMutableRawPointer, _ type: Int64, _ index: Int, count: Int) {
    if type == ElementType.f32 {
        storeLanes(values, destination + index &* 4, count: count)
    } else {
        let halves = type == ElementType.f16 ? narrowToHalves(values) : narrowToBFloats(values)
        storeLanes(halves, destination + index &* 2, count: count)
    }
}

@inline(__always)
private func storeLanes<Vector: SIMD>(_ vector: Vector, _ destination: UnsafeMutableRawPointer, count: Int) {
    if count >= lanes { destination.storeBytes(of: vector, as: Vector.self); return }
    withUnsafeBytes(of: vector) { bytes in
        let size = count &* MemoryLayout<Vector.Scalar>.size
        destination.copyMemory(from: bytes.baseAddress.unsafelyUnwrapped, byteCount: size)
    }
}

func loadRow(_ source: UnsafeRawPointer, type: Int64, count: Int, into floats: UnsafeMutablePointer<Float>) {
    let output = UnsafeMutableRawPointer(floats)
    var index = 0
    while index < count {
        let values = loadElements(source, type, index, count: count &- index)
        storeElements(values, output, ElementType.f32, index, count: count &- index)
        index &+= lanes
    }
}

func storeRow(_ floats: UnsafePointer<Float>, count: Int, type: Int64, into destination: UnsafeMutableRawPointer) {
    let source = UnsafeRawPointer(floats)
    var index = 0
    while index < count {
        let values = loadElements(source, ElementType.f32, index, count: count &- index)
        storeElements(values, destination, type, index, count: count &- index)
        index &+= lanes
    }
}
