// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// A Hadamard matrix, and the way that it is applied.
public struct Rotation {
    let hadamard: Hadamard
    let isInverse: Bool

    @inline(never)
    public init(order: Int64, seed: UInt64, direction: Int32) throws(Failure) {
        hadamard = try Hadamard(order: order, seed: seed)
        isInverse = direction == int32(INT4Q_HADAMARD_INVERSE)
        if !isInverse && direction != int32(INT4Q_HADAMARD_FORWARD) {
            throw .invalid("direction", Int64(direction), expected: "INT4Q_HADAMARD_FORWARD or INT4Q_HADAMARD_INVERSE")
        }
    }

    @inline(never)
    public func requireMultiple(_ value: Int64, _ name: StaticString) throws(Failure) {
        if value % Int64(hadamard.order) != 0 {
            throw Failure(INT4Q_ERROR_MISMATCH, name, .integer(value), expected: "a multiple of the order",
                          bound: UInt64(hadamard.order))
        }
    }
}

/// Whether rows are transformed or columns, and what scratch that takes.
public struct RotatedSide {
    public let isColumns: Bool

    @inline(never)
    public init(_ side: Int32) throws(Failure) {
        isColumns = side == int32(INT4Q_HADAMARD_COLUMNS)
        if !isColumns && side != int32(INT4Q_HADAMARD_ROWS) {
            throw .invalid("side", Int64(side), expected: "INT4Q_HADAMARD_ROWS or INT4Q_HADAMARD_COLUMNS")
        }
    }

    /// A block of a row, unless that can stand in the destination; blocks of 16 columns.
    public func scratchBytes(order: Int, _ type: ElementType) -> UInt64 {
        if isColumns { return UInt64(order) * 64 }
        return type.size == 4 ? 0 : UInt64(order) * 4
    }
}

/// A matrix whose rows or columns are transformed.
public struct MatrixRotation {
    let rotation: Rotation
    let source: Matrix
    let destination: Matrix
    let kernels: i4q_kernels
    let scratch: UnsafeMutablePointer<Float>?

    public init(_ rotation: Rotation, _ source: Matrix, _ destination: Matrix, scratch: UnsafeMutableRawPointer?,
                _ kernels: i4q_kernels) {
        self.rotation = rotation
        self.source = source
        self.destination = destination
        self.scratch = scratch?.assumingMemoryBound(to: Float.self)
        self.kernels = kernels
    }

    private func load(_ row: Int, _ column: Int, _ count: Int, _ floats: UnsafeMutablePointer<Float>) {
        kernels.load.unsafelyUnwrapped(source.row(row) + column &* source.type.size, Int64(source.type.raw), Int64(count), floats)
    }

    private func store(_ floats: UnsafePointer<Float>, _ row: Int, _ column: Int, _ count: Int) {
        kernels.store.unsafelyUnwrapped(floats, Int64(count), Int64(destination.type.raw),
                                        destination.mutableRow(row) + column &* destination.type.size)
    }

    @inline(never)
    public func transform(rows: Range<Int>) {
        let order = rotation.hadamard.order
        for row in rows {
            if let block = destination.type.size == 4 ? nil : scratch {
                var column = 0
                while column < source.columns {
                    load(row, column, order, block)
                    rotation.hadamard.transform(block, count: order, firstColumn: column, inverse: rotation.isInverse)
                    store(block, row, column, order)
                    column &+= order
                }
            } else {
                let floats = destination.mutableRow(row).assumingMemoryBound(to: Float.self)
                if source.row(row) != UnsafeRawPointer(floats) { load(row, 0, source.columns, floats) }
                rotation.hadamard.transform(floats, count: source.columns, inverse: rotation.isInverse)
            }
        }
    }

    /// 16 columns at a time, which stand as rows in scratch.
    @inline(never)
    public func transform(columns: Range<Int>, ofRows rows: Int) {
        guard let scratch else { return }
        let order = rotation.hadamard.order
        StackMemory<1>.use { memory in
            let floats = memory.assumingMemoryBound(to: Float.self)
            var column = columns.lowerBound
            while column < columns.upperBound {
                let count = min(16, columns.upperBound &- column)
                var first = 0
                while first < rows {
                    for row in 0..<order {
                        load(first &+ row, column, count, floats)
                        for index in 0..<count { scratch[index &* order &+ row] = floats[index] }
                    }
                    for index in 0..<count {
                        rotation.hadamard.transform(scratch + index &* order, count: order, firstColumn: first,
                                                    inverse: rotation.isInverse)
                    }
                    for row in 0..<order {
                        for index in 0..<count { floats[index] = scratch[index &* order &+ row] }
                        store(floats, first &+ row, column, count)
                    }
                    first &+= order
                }
                column &+= count
            }
        }
    }
}
