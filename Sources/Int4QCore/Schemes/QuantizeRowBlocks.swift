// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

extension Scheme {
    /// Whether the kernel that quantizes 16 rows at once knows the rules; it does not know tables of single rows.
    var roundsInBlocks: Bool { !usesGgmlRounding && !usesMlxRounding && !hasRowCodebooks }

    /// For the kernel: rows and columns of a matrix, to a block whose parameters stand at these places.
    func blockQuantization(_ source: Matrix, rows: Range<Int>, columns: Range<Int>, groupSize: Int, block: UnsafeMutableRawPointer,
                           scales: Int, zeros: Int, table: UnsafePointer<i4q_code_table>?,
                           scratch: UnsafeMutableRawPointer) -> i4q_block_quantization {
        i4q_block_quantization(
            source: source.row(rows.lowerBound) + columns.lowerBound * source.type.size, source_type: Int64(source.type.raw),
            row_bytes: Int64(source.strideBytes), row_count: Int64(rows.count), k: Int64(columns.count), group_size: Int64(groupSize),
            group_count: Int64((columns.count - 1) / groupSize + 1), kind: Int64(raw.kind),
            is_signed: scaleRule == Int(INT4Q_SCALE_SIGNED_MAX_8) ? 1 : 0,
            divisor: table?.pointee.divisor ?? (scaleRule == Int(INT4Q_SCALE_AMAX_7) ? 7 : 7.5), low: isRestricted ? 1 : 0,
            scale_type: Int64(scaleType.raw), scales_offset: Int64(scales), zeros_offset: Int64(zeros),
            block: block.assumingMemoryBound(to: UInt8.self), table: table, scratch: scratch)
    }
}

/// Quantizes 16 rows of a tensor at once, a piece of their columns at a time, through a block as blobs have them.
///
///     piece:  [codes 2048] [scales 1024] [zero points or offsets 1024]
struct RowBlockQuantizer {
    private static var rows: Int { 16 }
    private static var columns: Int { 256 }
    private static var scales: Int { 2048 }
    private static var zeros: Int { 3072 }

    let quantizer: RowQuantizer<TensorSink>
    let memory: QuantizingMemory

    private var tensor: QuantizedTensor { quantizer.sink.tensor }
    private var source: Matrix { quantizer.source }
    private var groupSize: Int { min(tensor.layout.groupSize, RowBlockQuantizer.columns) }

    static func canTake(_ tensor: QuantizedTensor) -> Bool {
        tensor.scheme.roundsInBlocks && (!tensor.scheme.isPerRow || tensor.layout.k <= columns)
    }

    func quantize(_ rows: Range<Int>) throws(Failure) {
        var row = rows.lowerBound
        while row < rows.upperBound {
            let end = min(row + RowBlockQuantizer.rows, rows.upperBound)
            try quantizeBlock(row..<end)
            row = end
        }
    }

    private func quantizeBlock(_ rows: Range<Int>) throws(Failure) {
        var column = 0
        while column < source.columns {
            let end = min(column + RowBlockQuantizer.columns, source.columns)
            try quantize(rows, column..<end)
            column = end
        }
    }

    /// Groups that need care come last, so that nothing is written over them.
    private func quantize(_ rows: Range<Int>, _ columns: Range<Int>) throws(Failure) {
        var quantization = tensor.scheme.blockQuantization(
            source, rows: rows, columns: columns, groupSize: groupSize, block: memory.block, scales: RowBlockQuantizer.scales,
            zeros: RowBlockQuantizer.zeros, table: quantizer.table, scratch: memory.scratch)
        let groups = Int(quantization.group_count)
        var group = 0, careful: UInt32 = 0
        while group < groups {
            group = Int(quantizer.kernels.quantize_block.unsafelyUnwrapped(&quantization, Int64(group)))
            if group < groups { careful |= 1 &<< UInt32(group) }
            group += 1
        }
        copyCodes(rows, columns)
        let first = columns.lowerBound / groupSize
        copyParameters(rows, first, groups)
        if careful == 0 { return }
        for group in 0..<groups where careful & 1 &<< UInt32(group) != 0 {
            for row in rows { try quantizer.quantize(row, first + group) }
        }
    }

    private func copyCodes(_ rows: Range<Int>, _ columns: Range<Int>) {
        var unpacking = i4q_code_unpacking(
            block: memory.block.assumingMemoryBound(to: UInt8.self), code_rows: Int64((columns.count + 7) / 8), row_count: Int64(rows.count),
            row_bytes: Int64((columns.count + 1) / 2), codes: tensor.codesRow(rows.lowerBound) + columns.lowerBound / 2,
            stride: Int64(tensor.layout.codesRowBytes), scratch: memory.scratch)
        quantizer.kernels.unpack_codes.unsafelyUnwrapped(&unpacking)
    }

    private func copyParameters(_ rows: Range<Int>, _ first: Int, _ groups: Int) {
        let size = tensor.scheme.scaleType.size
        for row in rows {
            let lane = row - rows.lowerBound, target = tensor.groupIndex(row, first)
            copy(memory.block + RowBlockQuantizer.scales, lane, groups, size, to: tensor.scales + target * size)
            if let offsets = tensor.offsets { copy(memory.block + RowBlockQuantizer.zeros, lane, groups, size, to: offsets + target * size) }
            if let zeroPoints = tensor.zeroPoints {
                copy(memory.block + RowBlockQuantizer.zeros, lane, groups, 1, to: UnsafeMutableRawPointer(zeroPoints + target))
            }
        }
    }

    /// A lane's numbers of some groups.
    private func copy(_ source: UnsafeRawPointer, _ lane: Int, _ groups: Int, _ size: Int, to target: UnsafeMutableRawPointer) {
        for group in 0..<groups {
            let from = source + (group &* RowBlockQuantizer.rows &+ lane) &* size, to = target + group &* size
            switch size {
            case 4: to.storeBytes(of: from.load(as: UInt32.self), as: UInt32.self)
            case 2: to.storeBytes(of: from.load(as: UInt16.self), as: UInt16.self)
            default: to.storeBytes(of: from.load(as: UInt8.self), as: UInt8.self)
            }
        }
    }
}
