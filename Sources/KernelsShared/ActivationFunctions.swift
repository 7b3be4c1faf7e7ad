// SPDX-License-Identifier: Apache-2.0
import CInt4QShims

// Activation functions on 16 lanes, in one order of operations everywhere, so with the same bits on every machine. Errors
// against binary64 are below 1.2e-7 max(1, |x|). NaN stays NaN.

/// Activations, as `INT4Q_ACTIVATION_*` in the public header.
enum Activation {
    static let none: Int64 = 0
    static let relu: Int64 = 1
    static let geluErf: Int64 = 2
    static let geluTanh: Int64 = 3
    static let silu: Int64 = 4
}

@inline(__always)
func activate(_ x: Floats, _ activation: Int64) -> Floats {
    switch activation {
    case Activation.relu: rectified(x)
    case Activation.geluErf: x * normalDistribution(x)
    case Activation.geluTanh: x * logistic(tanhArgument(x))
    case Activation.silu: x * logistic(x)
    default: x
    }
}

/// Positive values and NaN as they are, +0 for the rest.
@inline(__always)
private func rectified(_ x: Floats) -> Floats { x.replacing(with: Floats(repeating: 0), where: x .<= Floats(repeating: 0)) }

/// 1 / (1 + exp(-x)).
@inline(__always)
private func logistic(_ x: Floats) -> Floats {
    let one = Floats(repeating: 1)
    return one / (one + exponential(-x))
}

/// 2 sqrt(2 / pi) (x + 0.044715 x^3): GELU's approximation is x / (1 + exp(-that)).
@inline(__always)
private func tanhArgument(_ x: Floats) -> Floats {
    x * fusedMultiplyAdd(x * x, Floats(repeating: 0.071354814), Floats(repeating: 1.5957691))
}

/// Phi(x): for x = -a a tail exp(-a^2 / 2) R(1 / (1 + 0.3 a)), where R is a least-squares fit of relative error 7e-8 to
/// erfcx(a / sqrt(2)) / 2 for a up to 14, and its complement for positive x.
@inline(__always)
private func normalDistribution(_ x: Floats) -> Floats {
    let a = floats(fromBits: bits(x) & Words(repeating: 0x7fff_ffff))
    let s = Floats(repeating: 1) / fusedMultiplyAdd(a, Floats(repeating: 0.3), Floats(repeating: 1))
    var r = Floats(repeating: 0.03887092)
    r = fusedMultiplyAdd(r, s, Floats(repeating: -0.17144355))
    r = fusedMultiplyAdd(r, s, Floats(repeating: 0.23310748))
    r = fusedMultiplyAdd(r, s, Floats(repeating: -0.0812823))
    r = fusedMultiplyAdd(r, s, Floats(repeating: 0.14560983))
    r = fusedMultiplyAdd(r, s, Floats(repeating: 0.093472585))
    r = fusedMultiplyAdd(r, s, Floats(repeating: 0.122204594))
    r = fusedMultiplyAdd(r, s, Floats(repeating: 0.1194514))
    r = fusedMultiplyAdd(r, s, Floats(repeating: 9.0963085e-06))
    let tail = exponential(a * a * Floats(repeating: -0.5)) * r
    return (Floats(repeating: 1) - tail).replacing(with: tail, where: x .< Floats(repeating: 0))
}

/// exp(x) for x in -87..88, beyond which the nearer end counts: 2^n exp(r), |r| <= ln(2) / 2, relative error 8e-8.
@inline(__always)
private func exponential(_ x: Floats) -> Floats {
    let low = Floats(repeating: -87), high = Floats(repeating: 88)
    let bounded = x.replacing(with: low, where: x .< low).replacing(with: high, where: x .> high)
    let magic = Floats(repeating: 12_582_912) // 1.5 * 2^23: the sum's unit in the last place is 1
    let shifted = fusedMultiplyAdd(bounded, Floats(repeating: 1.442695), magic)
    let n = shifted - magic
    // ln(2) in two parts, of which the first has few enough bits for exact products.
    var r = fusedMultiplyAdd(n, Floats(repeating: -0.693145751953125), bounded)
    r = fusedMultiplyAdd(n, Floats(repeating: -1.428606765330187e-06), r)
    var y = Floats(repeating: 0.0013751150)
    y = fusedMultiplyAdd(y, r, Floats(repeating: 0.0083689876))
    y = fusedMultiplyAdd(y, r, Floats(repeating: 0.041669544))
    y = fusedMultiplyAdd(y, r, Floats(repeating: 0.16666518))
    y = fusedMultiplyAdd(y, r, Floats(repeating: 0.49999988))
    y = fusedMultiplyAdd(y, r, Floats(repeating: 1))
    y = fusedMultiplyAdd(y, r, Floats(repeating: 1))
    let power = floats(fromBits: (bits(shifted) &- Words(repeating: 0x4b40_0000) &+ Words(repeating: 127)) &<< Words(repeating: 23))
    return y * power
}
