// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Which weights are outliers: a caller's fit that was checked, or one made from moments.
public struct OutlierFit {
    let mean: Double
    let lowest: Float
    let highest: Float

    @inline(never)
    public init(_ raw: int4q_outlier_fit) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_outlier_fit.self, "fit.struct_size")
        try requireZero(raw.reserved, "fit.reserved")
        if !(raw.lowest <= raw.highest) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "fit.lowest", .element(row: 0, column: 0, raw.lowest),
                          expected: "a number that is at most fit.highest")
        }
        if !raw.mean.isFinite {
            throw Failure(INT4Q_ERROR_NOT_FINITE, "fit.mean", .element(row: 0, column: 0, Float(raw.mean)),
                          expected: "a finite mean")
        }
        mean = raw.mean
        lowest = raw.lowest
        highest = raw.highest
    }

    private init(all: Void) {
        mean = 0
        lowest = -.infinity
        highest = .infinity
    }

    /// Without outliers.
    public static var none: OutlierFit { OutlierFit(all: ()) }

    /// What stands in an outlier's place in the dense part.
    var filler: Float { min(max(Float(mean), lowest), highest) }

    @inline(__always)
    func isOutlier(_ value: Float) -> Bool { value < lowest || value > highest }
}

/// Mean and variance of a matrix from those of its rows (Chan, Golub and LeVeque 1979), row by row.
public struct NormalFit {
    private var mean = 0.0
    private var squares = 0.0
    private var count = 0.0

    public init(_ moments: UnsafePointer<Double>, n: Int64, k: Int64) throws(Failure) {
        for row in 0..<Int(n) {
            let rowMean = moments[2 * row], rowSquares = moments[2 * row + 1]
            if !rowMean.isFinite || !rowSquares.isFinite || rowSquares < 0 {
                let isMean = !rowMean.isFinite
                throw Failure(INT4Q_ERROR_NOT_FINITE, "moments",
                              .element(row: Int64(row), column: isMean ? 0 : 1, Float(isMean ? rowMean : rowSquares)),
                              expected: "what int4q_outliers_moments() writes")
            }
            add(rowMean, rowSquares, Double(k))
        }
    }

    private mutating func add(_ rowMean: Double, _ rowSquares: Double, _ rowCount: Double) {
        let total = count + rowCount
        let distance = rowMean - mean
        mean += distance * (rowCount / total)
        let between = distance * distance * (count * rowCount / total)
        squares += rowSquares + between
        count = total
    }

    private var sigma: Double { (squares / count).squareRoot() }

    public func write(logDensity: Double, to fit: UnsafeMutablePointer<int4q_outlier_fit>) {
        write(limit: NormalFit.limit(sigma, logDensity), to: fit)
    }

    /// Outliers by z-score.
    public func write(z: Double, to fit: UnsafeMutablePointer<int4q_outlier_fit>) { write(limit: z * sigma, to: fit) }

    @inline(never)
    private func write(limit: Double, to fit: UnsafeMutablePointer<int4q_outlier_fit>) {
        fit.pointee.mean = mean
        fit.pointee.sigma = sigma
        fit.pointee.limit = limit
        fit.pointee.lowest = NormalFit.rounded(mean - limit, up: true)
        fit.pointee.highest = NormalFit.rounded(mean + limit, up: false)
        if fit.pointee.lowest > fit.pointee.highest { // nothing binary32 within the limit: the mean's neighbour counts as within
            fit.pointee.lowest = fit.pointee.highest
        }
    }

    /// Where the logarithm of the density, -z^2 / 2 - ln(sigma sqrt(2 pi)), falls below.
    private static func limit(_ sigma: Double, _ logDensity: Double) -> Double {
        if sigma == 0 { return .infinity }
        let halfSquare = -logDensity - (i4q_log(sigma) + 0.9189385332046727) // ln sqrt(2 pi)
        return halfSquare > 0 ? sigma * (2 * halfSquare).squareRoot() : 0
    }

    private static func rounded(_ bound: Double, up: Bool) -> Float {
        let nearest = Float(bound)
        if up { return Double(nearest) < bound ? nearest.nextUp : nearest }
        return Double(nearest) > bound ? nearest.nextDown : nearest
    }
}
