// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Where up to 16 rows stand in scratch that are quantized on trial:
///
///     [errors, padded][16] [products and sums] [weights, 16][columns] [parts of a tensor]
struct TrialRows {
    let scheme: Scheme
    /// Of the longest rows.
    private let columns: Int
    private let form: Int
    private let weights: Int
    private let codes: Int
    private let scales: Int
    private let zeroPoints: Int
    private let offsets: Int
    let bytes: Int

    init(_ scheme: Scheme, columns k: Int64) throws(Failure) {
        try requireChannels(k) // so that no size overflows, whatever their number
        let layout = try TensorLayout(scheme, n: 16, k: k)
        self.scheme = scheme
        columns = Int(k)
        form = ((columns + 15) & ~15) * 64
        weights = form + wholeLines(GramForm.productBytes)
        codes = weights + wholeLines(columns * 64)
        scales = codes + wholeLines(Int(layout.codesBytes))
        zeroPoints = scales + wholeLines(Int(layout.scalesBytes))
        offsets = zeroPoints + wholeLines(Int(layout.zeroPointsBytes))
        bytes = offsets + wholeLines(Int(layout.offsetsBytes))
    }

    func form(_ gram: Gram, _ memory: UnsafeMutableRawPointer, _ kernels: i4q_kernels) -> GramForm {
        GramForm(gram, errors: memory, products: memory + form, kernels)
    }

    /// Rows of at most `columns`.
    func matrix(_ memory: UnsafeMutableRawPointer, _ columns: Int) -> Matrix {
        Matrix(base: UnsafeRawPointer(memory + weights), type: .f32, columns: columns, strideBytes: columns * 4)
    }

    @inline(never)
    func tensor(_ memory: UnsafeMutableRawPointer, rows: Int, columns: Int,
                codebook: UnsafePointer<Float>?) throws(Failure) -> QuantizedTensor {
        var raw = int4q_tensor()
        raw.struct_size = UInt32(MemoryLayout<int4q_tensor>.stride)
        raw.scheme = scheme.raw
        raw.n = Int64(rows)
        raw.k = Int64(columns)
        raw.codes = memory + codes
        raw.codes_bytes = UInt64(bytes)
        raw.scales = memory + scales
        raw.scales_bytes = UInt64(bytes)
        raw.zero_points = memory + zeroPoints
        raw.zero_points_bytes = UInt64(bytes)
        raw.offsets = memory + offsets
        raw.offsets_bytes = UInt64(bytes)
        raw.codebook = codebook
        return try QuantizedTensor(raw)
    }
}

/// Rounded up to 64.
func wholeLines(_ bytes: Int) -> Int { (bytes + 63) & ~63 }

/// What is to be quantized, and how: as in int4q_quantize_pack_rows().
public struct QuantizationTrial {
    let scheme: Scheme
    let codebooks: CallersCodebooks?
    let n: Int64
    let source: Matrix
    let gram: Gram
    let kernels: i4q_kernels

    @inline(never)
    public init(_ scheme: Scheme, _ codebook: UnsafePointer<Float>?, n: Int64, _ source: Matrix, _ gram: Gram,
                _ kernels: i4q_kernels) throws(Failure) {
        if scheme.hasGivenScales {
            throw .invalid("scheme.scale_rule", Int64(scheme.raw.scale_rule), expected: "another INT4Q_SCALE_* here: none are given")
        }
        self.scheme = scheme
        codebooks = try CallersCodebooks(scheme, codebook, n: n, "codebook")
        self.n = n
        self.source = source
        self.gram = gram
        self.kernels = kernels
        try gram.requireColumns(Int64(source.columns), "a Gram matrix of k,")
    }

    func codebook(_ row: Int64) -> UnsafePointer<Float>? { codebooks?.row(Int(row)) }
}
