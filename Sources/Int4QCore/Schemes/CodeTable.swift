// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// How a codebook chooses codes: its values in ascending order, and between two neighbours the largest float that still
/// belongs to the lower one. So each code takes 15 comparisons, whatever the order of codes.
extension Scheme {
    /// Writes the table of a codebook into memory.
    @inline(never)
    func makeTable(_ codebook: UnsafePointer<Float>, at memory: UnsafeMutableRawPointer) -> UnsafePointer<i4q_code_table> {
        let table = memory.bindMemory(to: i4q_code_table.self, capacity: 1)
        table.initialize(to: i4q_code_table())
        let limits = memory.assumingMemoryBound(to: Float.self), steps = (memory + 64).assumingMemoryBound(to: Int32.self)
        for index in 0..<16 { limits[index] = .infinity }

        let order = ascendingCodes(codebook)
        var lower = order[0], count = 0
        table.pointee.first = Int32(lower)
        for index in 1..<16 where codebook[order[index]] > codebook[lower] {
            let upper = order[index]
            limits[count] = limit(codebook, lower, upper)
            steps[count] = Int32(upper) - Int32(lower)
            lower = upper
            count += 1
        }
        table.pointee.divisor = hasUnitScale ? 0 : max(codebook[order[0]].magnitude, codebook[order[15]].magnitude)
        return UnsafePointer(table)
    }

    /// Of equal values the lower code comes first, and is the only one used.
    private func ascendingCodes(_ codebook: UnsafePointer<Float>) -> InlineArray<16, Int> {
        var order = InlineArray<16, Int> { $0 }
        for index in 1..<16 {
            let code = order[index]
            var place = index
            while place > 0 && codebook[order[place - 1]] > codebook[code] {
                order[place] = order[place - 1]
                place -= 1
            }
            order[place] = code
        }
        return order
    }

    /// The largest float that gets the lower one of two neighbours. Ties get the lower code.
    private func limit(_ codebook: UnsafePointer<Float>, _ lower: Int, _ upper: Int) -> Float {
        let takesTies = upper < lower
        if !usesLogarithms {
            // The middle is rounded first: so do others (bitsandbytes), and codes agree to the last.
            let middle = Float((Double(codebook[lower]) + Double(codebook[upper])) / 2)
            return takesTies ? middle.nextDown : middle
        }
        let mean = GeometricMean(codebook[lower], codebook[upper])
        var limit = mean.nearby
        while mean.isBelow(limit, orAt: takesTies) { limit = limit.nextDown }
        while !mean.isBelow(limit.nextUp, orAt: takesTies) { limit = limit.nextUp }
        return limit
    }
}

/// The geometric mean of two neighbouring values of one sign, kept exactly: as its square, with the values' sign. Next to zero
/// it is the mean with half the value; between values of both signs it is zero.
private struct GeometricMean {
    private let square: Double
    let nearby: Float

    init(_ a: Float, _ b: Float) {
        let small = Double(min(a.magnitude, b.magnitude)), large = Double(max(a.magnitude, b.magnitude))
        let magnitude = small == 0 ? large * large / 2 : small * large
        let sign: Double = a < 0 && b > 0 ? 0 : a < 0 ? -1 : 1
        square = sign * magnitude
        nearby = Float(sign * magnitude.squareRoot())
    }

    /// Whether the mean lies below x, or at it.
    func isBelow(_ x: Float, orAt: Bool) -> Bool {
        let value = Double(x) * Double(x.magnitude)
        return value > square || (orAt && value == square)
    }
}
