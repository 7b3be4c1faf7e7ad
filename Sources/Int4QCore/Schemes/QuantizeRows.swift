// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Quantizes rows of a matrix, a group at a time, through a buffer that holds the largest fixed group.
public struct RowQuantizer {
    /// Floats handled at once; a group of up to this length is loaded only once.
    static let chunk = 256

    let tensor: QuantizedTensor
    let source: Matrix
    let kernels: i4q_kernels
    let floats: UnsafeMutablePointer<Float>

    public static func quantize(_ tensor: QuantizedTensor, _ source: Matrix, rows: Range<Int64>,
                                _ kernels: i4q_kernels) throws(Failure) {
        let failure = withUnsafeTemporaryAllocation(byteCount: chunk * 4, alignment: 64) { buffer in
            let floats = buffer.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: Float.self)
            let quantizer = RowQuantizer(tensor: tensor, source: source, kernels: kernels, floats: floats)
            return quantizer.run(rows)
        }
        if let failure { throw failure }
    }

    private func run(_ rows: Range<Int64>) -> Failure? {
        do throws(Failure) {
            for row in rows {
                for group in 0..<Int(tensor.layout.groupsPerRow) { try quantize(Int(row), group) }
            }
            return nil
        } catch { return error }
    }

    private func quantize(_ row: Int, _ group: Int) throws(Failure) {
        let begin = group * tensor.layout.groupSize
        let end = min(begin + tensor.layout.groupSize, source.columns)
        let range = try findRange(row, begin, end)
        let parameters = tensor.scheme.parameters(for: range, codebook: tensor.codebook)
        try store(parameters, row, group, begin)
        encode(parameters, row, begin, end)
    }

    private func load(_ row: Int, _ begin: Int, _ count: Int) {
        let pointer = source.row(row) + begin * source.type.size
        kernels.load.unsafelyUnwrapped(pointer, Int64(source.type.raw), Int64(count), floats)
    }

    // MARK: Range

    private func findRange(_ row: Int, _ begin: Int, _ end: Int) throws(Failure) -> GroupRange {
        var range = GroupRange(min: .infinity, max: -.infinity)
        var index = begin
        while index < end {
            let count = min(end - index, RowQuantizer.chunk)
            load(row, index, count)
            var part = i4q_group_range()
            kernels.group_range.unsafelyUnwrapped(floats, Int64(count), &part)
            if part.first_not_finite >= 0 {
                let column = Int64(index) + part.first_not_finite
                throw Failure(INT4Q_ERROR_NOT_FINITE, "source",
                              .element(row: Int64(row), column: column, floats[Int(part.first_not_finite)]),
                              expected: "finite weights")
            }
            range.min = min(range.min, part.min)
            range.max = max(range.max, part.max)
            index += count
        }
        findFirsts(&range, row, begin, end)
        return range
    }

    /// The sign of the first element of largest magnitude, where both signs occur; and, for ggml, of the first smallest,
    /// where that is a zero.
    private func findFirsts(_ range: inout GroupRange, _ row: Int, _ begin: Int, _ end: Int) {
        let largest = range.largestMagnitude
        range.signedLargest = range.max == largest ? largest : -largest
        range.firstSmallest = range.min
        if range.max == -range.min { range.signedLargest = first(row, begin, end) { $0.magnitude == largest } }
        if range.min == 0 { range.firstSmallest = first(row, begin, end) { $0 == 0 } }
    }

    private func first(_ row: Int, _ begin: Int, _ end: Int, where matches: (Float) -> Bool) -> Float {
        for index in begin..<end {
            let value = source.type.load(source.row(row), index)
            if matches(value) { return value }
        }
        return 0
    }

    // MARK: Codes

    private func store(_ parameters: GroupParameters, _ row: Int, _ group: Int, _ column: Int) throws(Failure) {
        let index = tensor.groupIndex(row, group)
        let type = tensor.scheme.scaleType
        try requireFits(parameters.scale, row, column)
        try requireFits(parameters.offset, row, column)
        type.store(parameters.scale, tensor.scales, index)
        if let zeroPoints = tensor.zeroPoints { zeroPoints[index] = parameters.zeroPoint }
        if let offsets = tensor.offsets { type.store(parameters.offset, offsets, index) }
    }

    private func requireFits(_ value: Float, _ row: Int, _ column: Int) throws(Failure) {
        if value.isFinite { return }
        throw Failure(INT4Q_ERROR_NOT_FINITE, "source", .element(row: Int64(row), column: Int64(column), value),
                      expected: "a group whose scale and offset fit scheme.scale_type")
    }

    private func encode(_ parameters: GroupParameters, _ row: Int, _ begin: Int, _ end: Int) {
        let codes = tensor.codesRow(row)
        guard var encoding = parameters.encoding else {
            fill(codes, parameters.onlyCode, begin, end)
            return
        }
        let isLoaded = end - begin <= RowQuantizer.chunk
        var index = begin
        while index < end {
            let count = min(end - index, RowQuantizer.chunk)
            if !isLoaded { load(row, index, count) }
            kernels.encode.unsafelyUnwrapped(&encoding, floats, Int64(count), codes + index / 2)
            index += count
        }
    }

    private func fill(_ codes: UnsafeMutablePointer<UInt8>, _ code: UInt8, _ begin: Int, _ end: Int) {
        for index in begin / 2..<end / 2 { codes[index] = code | code << 4 }
        if end & 1 == 1 { codes[end / 2] = code }
    }
}
