// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

/// What follows the product in one row of a tile: bias, activation, gate, residual, the result's type. Steps that are not
/// there are left out; each is rounded by itself (docs/numerics.md).
func finishRow(_ e: i4q_epilogue, _ totals: UnsafePointer<Float>, count: Int, type: Int64, into destination: UnsafeMutableRawPointer) {
    let source = UnsafeRawPointer(totals)
    var index = 0
    while index < count {
        let left = count &- index
        var values = activate(biased(source.floats(index &* 4), e.bias, e.bias_type, index, left), e.activation)
        if let up = e.up {
            values *= biased(UnsafeRawPointer(up).floats(index &* 4), e.up_bias, e.bias_type, index, left)
        }
        if let residual = e.residual { values += loadElements(residual, e.residual_type, index, count: left) }
        storeElements(values, destination, type, index, count: left)
        index &+= lanes
    }
}

@inline(__always)
private func biased(_ totals: Floats, _ bias: UnsafeRawPointer?, _ type: Int64, _ index: Int, _ count: Int) -> Floats {
    guard let bias else { return totals }
    return totals + loadElements(bias, type, index, count: count)
}
