// SPDX-License-Identifier: Apache-2.0

/// bitsandbytes' signed dynamic map: seven decades, the largest with 64 values, each further one with half as many; both
/// signs; 0 and 1. Value i of a decade of c values is the middle of the i-th of c equal parts of 0.1...1, times its power of
/// ten. Rounded as PyTorch does it.
public struct DynamicMap {
    static var count: Int { 256 }
    private static var zero: Int { 127 }

    public static func write(to map: UnsafeMutablePointer<Float>) {
        map[zero] = 0
        map[count - 1] = 1
        for decade in 0..<7 {
            let values = 1 << decade
            for index in 0..<values {
                let value = power(decade) * ((edge(index, values) + edge(index + 1, values)) / 2)
                map[zero + values + index] = value
                map[zero - values - index] = -value
            }
        }
    }

    /// The `values + 1` edges from 0.1 to 1, counted from the nearer end, with one rounding: PyTorch's linspace on a processor
    /// with fused multiply-add. (The product is exact in binary64.)
    private static func edge(_ index: Int, _ values: Int) -> Float {
        let step = Double((1 - Float(0.1)) / Float(values))
        return index < (values + 1) / 2 ? Float(Double(Float(0.1)) + step * Double(index)) : Float(1 - step * Double(values - index))
    }

    private static func power(_ decade: Int) -> Float {
        switch decade {
        case 0: 1e-6
        case 1: 1e-5
        case 2: 1e-4
        case 3: 1e-3
        case 4: 1e-2
        case 5: 1e-1
        default: 1
        }
    }
}

/// Where one value of the map ends and the next one begins: 255 midpoints and infinity. To find a value's place among them
/// -1...1 is cut into 1024 cells, each with the number of midpoints in the cells before.
struct DynamicMapEdges {
    static var bytes: Int { DynamicMap.count * 4 + cells }
    private static var cells: Int { 1024 }

    let midpoints: UnsafeMutablePointer<Float>
    private let before: UnsafeMutablePointer<UInt8>

    init(_ map: UnsafePointer<Float>, in memory: UnsafeMutableRawPointer) {
        midpoints = memory.assumingMemoryBound(to: Float.self)
        before = (memory + DynamicMap.count * 4).assumingMemoryBound(to: UInt8.self)
        for index in 0..<DynamicMap.count - 1 { midpoints[index] = 0.5 * (map[index] + map[index + 1]) }
        midpoints[DynamicMap.count - 1] = .infinity
        var code = 0
        for cell in 0..<DynamicMapEdges.cells {
            while code < DynamicMap.count - 1 && DynamicMapEdges.cell(midpoints[code]) < cell { code += 1 }
            before[cell] = UInt8(truncatingIfNeeded: code)
        }
    }

    /// Never smaller for a larger value.
    @inline(__always)
    private static func cell(_ value: Float) -> Int {
        Int(min(max((value + 1) * 512, 0), 1023))
    }

    /// How many midpoints lie below the value: the nearest value's index, halfway the lower one.
    @inline(__always)
    func code(_ value: Float) -> UInt8 {
        var code = Int(before[DynamicMapEdges.cell(value)])
        code &+= midpoints[code] < value ? 1 : 0
        while midpoints[code] < value { code &+= 1 } // rare but next to zero, where the map is dense
        return UInt8(truncatingIfNeeded: code)
    }
}

/// The same for bitsandbytes' rule: where codes begin among its 65536 steps from -1 to 1, cut into 1024 cells of 64.
struct DynamicMapSteps {
    static var bytes: Int { DynamicMap.count * 4 + cells }
    private static var cells: Int { 1024 }

    private let begins: UnsafeMutablePointer<Int32>
    private let before: UnsafeMutablePointer<UInt8>

    init(_ edges: DynamicMapEdges, in memory: UnsafeMutableRawPointer) {
        begins = memory.assumingMemoryBound(to: Int32.self)
        before = (memory + DynamicMap.count * 4).assumingMemoryBound(to: UInt8.self)
        for code in 0..<DynamicMap.count - 1 { begins[code] = DynamicMapSteps.firstStep(above: edges.midpoints[code]) }
        begins[DynamicMap.count - 1] = .max
        var code = 0
        for cell in 0..<DynamicMapSteps.cells {
            while begins[code] < Int32(cell * 64) { code += 1 }
            before[cell] = UInt8(truncatingIfNeeded: code)
        }
    }

    /// What a step stands for, with bitsandbytes' roundings.
    private static func value(_ step: Int32) -> Float { -1 + Float(2 * step) / 65535 }

    private static func firstStep(above midpoint: Float) -> Int32 {
        var step = Int32((midpoint + 1) * 32767.5)
        while step > 0 && value(step) > midpoint { step -= 1 }
        while value(step) <= midpoint { step += 1 }
        return step
    }

    /// The code of the step nearest to the value.
    @inline(__always)
    func code(_ value: Float) -> UInt8 {
        let clipped = min(max(value, -1), 1)
        let step = Int32(((clipped + 1) * 0.5) * 65535 + 0.5)
        var code = Int(before[Int(step &>> 6)])
        code &+= begins[code] <= step ? 1 : 0
        while begins[code] <= step { code &+= 1 }
        return UInt8(truncatingIfNeeded: code)
    }
}
