// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

extension Scheme {
    /// Whether the kernel that quantizes 16 rows at once knows the rules; it does not know tables of single rows, nor codes that are
    /// no nibbles.
    var roundsInBlocks: Bool {
        width.isNibble && !usesGgmlRounding && !hasRowCodebooks && !hasGivenScales && scaleRule != Int(INT4Q_SCALE_POWER_OF_TWO)
    }

    /// For the kernel: what it is to know of the scheme.
    func blockQuantization(groupSize: Int, table: UnsafePointer<i4q_code_table>?) -> i4q_block_quantization {
        var quantization = i4q_block_quantization()
        quantization.kind = Int64(raw.kind)
        quantization.group_size = Int64(groupSize)
        quantization.is_signed = scaleRule == Int(INT4Q_SCALE_SIGNED_MAX_8) ? 1 : 0
        quantization.divisor = table?.pointee.divisor ?? (scaleRule == Int(INT4Q_SCALE_AMAX_7) ? 7 : 7.5)
        quantization.low = isRestricted ? 1 : 0
        quantization.scale_type = Int64(scaleType.raw)
        quantization.table = table
        quantization.is_mlx = usesMlxRounding ? 1 : 0
        return quantization
    }
}

extension i4q_block_quantization {
    /// The rows and columns to be taken, the block and the places of its parameters.
    mutating func take(_ source: Matrix, _ rows: Range<Int>, _ columns: Range<Int>, block: UnsafeMutableRawPointer, scales: Int, zeros: Int,
                       scratch: UnsafeMutableRawPointer) {
        self.source = source.row(rows.lowerBound) + columns.lowerBound * source.type.size
        source_type = Int64(source.type.raw)
        row_bytes = Int64(source.strideBytes)
        row_count = Int64(rows.count)
        k = Int64(columns.count)
        group_count = (k - 1) / group_size + 1
        self.block = block.assumingMemoryBound(to: UInt8.self)
        scales_offset = Int64(scales)
        zeros_offset = Int64(zeros)
        self.scratch = scratch
    }
}

/// Quantizes what the kernel leaves: one group of a row.
protocol CarefulQuantizer {
    func quantize(_ row: Int, _ group: Int) throws(Failure)
}

extension RowQuantizer: CarefulQuantizer {}

/// A tensor's parts, as memory.
struct RowBlockTarget {
    let layout: TensorLayout
    let codes: UnsafeMutablePointer<UInt8>
    let scaleSize: Int
    let scales: UnsafeMutableRawPointer
    let offsets: UnsafeMutableRawPointer?
    let zeroPoints: UnsafeMutablePointer<UInt8>?
}

/// Quantizes 16 rows of a tensor at once, a piece of their columns at a time, through a block as blobs have them.
///
///     piece:  [codes 2048] [scales 1024] [zero points or offsets 1024]
struct RowBlockQuantizer<Careful: CarefulQuantizer> {
    private static var rows: Int { 16 }
    private static var scales: Int { 2048 }
    private static var zeros: Int { 3072 }

    let careful: Careful
    let target: RowBlockTarget
    let source: Matrix
    let kernels: i4q_kernels
    let memory: QuantizingMemory
    let scheme: i4q_block_quantization

    private var groupSize: Int { Int(scheme.group_size) }

    func quantize(_ rows: Range<Int>) throws(Failure) {
        var row = rows.lowerBound
        while row < rows.upperBound {
            let end = min(row + RowBlockQuantizer.rows, rows.upperBound)
            var column = 0
            while column < source.columns {
                let last = min(column + QuantizingMemory.blockColumns, source.columns)
                try quantize(row..<end, column..<last)
                column = last
            }
            row = end
        }
    }

    /// Groups that need care come last, so that nothing is written over them.
    @inline(never)
    private func quantize(_ rows: Range<Int>, _ columns: Range<Int>) throws(Failure) {
        var quantization = scheme
        quantization.take(source, rows, columns, block: memory.block, scales: RowBlockQuantizer.scales, zeros: RowBlockQuantizer.zeros,
                          scratch: memory.scratch)
        let groups = Int(quantization.group_count)
        var group = 0, left: UInt32 = 0
        while group < groups {
            group = Int(kernels.quantize_block.unsafelyUnwrapped(&quantization, Int64(group)))
            if group < groups { left |= 1 &<< UInt32(group) }
            group += 1
        }
        copyCodes(rows, columns)
        let first = columns.lowerBound / groupSize
        copyParameters(rows, first, groups)
        if left == 0 { return }
        for group in 0..<groups where left & 1 &<< UInt32(group) != 0 {
            for row in rows { try careful.quantize(row, first + group) }
        }
    }

    private func copyCodes(_ rows: Range<Int>, _ columns: Range<Int>) {
        let stride = Int(target.layout.codesRowBytes)
        var unpacking = i4q_code_unpacking(
            block: memory.block.assumingMemoryBound(to: UInt8.self), code_rows: Int64((columns.count + 7) / 8),
            row_count: Int64(rows.count), row_bytes: Int64((columns.count + 1) / 2),
            codes: target.codes + rows.lowerBound &* stride + columns.lowerBound / 2, stride: Int64(stride), scratch: memory.scratch)
        kernels.unpack_codes.unsafelyUnwrapped(&unpacking)
    }

    private func copyParameters(_ rows: Range<Int>, _ first: Int, _ groups: Int) {
        let scales = memory.block + RowBlockQuantizer.scales, zeros = memory.block + RowBlockQuantizer.zeros, size = target.scaleSize
        for row in rows {
            let lane = row - rows.lowerBound, index = row &* Int(target.layout.groupsPerRow) &+ first
            copy(scales, lane, groups, size, to: target.scales + index * size)
            if let offsets = target.offsets { copy(zeros, lane, groups, size, to: offsets + index * size) }
            if let zeroPoints = target.zeroPoints { copy(zeros, lane, groups, 1, to: UnsafeMutableRawPointer(zeroPoints + index)) }
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
