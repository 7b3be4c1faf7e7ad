// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A caller's observer whose header was checked.
public struct Observer {
    public struct Names {
        let memory: Text
        let bytes: Text
        public init(_ memory: Text, _ bytes: Text) {
            self.memory = memory
            self.bytes = bytes
        }
        public static var usual: Names { Names("observer", "observer_bytes") }
    }

    public let layout: ObserverLayout
    let memory: UnsafeMutableRawPointer

    /// The header: where its fields are.
    private enum Field {
        static var desc: Int { 16 }
        static var totalBytes: Int { 56 }
        static var batches: Int { 64 }
        static var notFinite: Int { 72 }
    }
    private static var magic: UInt64 { 0x0053_424f_5134_4e49 } // "IN4QOBS"

    @inline(never)
    public init(_ pointer: UnsafeRawPointer?, bytes: UInt64, _ names: Names) throws(Failure) {
        let block = try SavedBlock(pointer, bytes, names.memory, names.bytes, magic: Observer.magic,
                                   "bytes that start as an observer does")
        memory = block.memory
        do throws(Failure) {
            layout = try ObserverLayout(memory.load(fromByteOffset: Field.desc, as: int4q_observer_desc.self))
        } catch {
            throw .corrupt(names.memory, "a description", "one that int4q_observer_size() accepts")
        }
        try block.requireWhole(layout.totalBytes, at: Field.totalBytes, counts: 2, "sizes that agree with its description")
    }

    /// An observer in new memory, which has seen nothing.
    @inline(never)
    public init(_ layout: ObserverLayout, in pointer: UnsafeMutableRawPointer) {
        self.layout = layout
        memory = SavedBlock(making: layout.totalBytes, at: Field.totalBytes, magic: Observer.magic, in: pointer).memory
        memory.storeBytes(of: layout.raw, toByteOffset: Field.desc, as: int4q_observer_desc.self)
        for slot in 0..<layout.slots {
            lows[slot] = .infinity
            highs[slot] = -.infinity
        }
        if layout.hasAverage {
            clearBatch()
            for slot in 0..<layout.slots {
                averageLows[slot] = .infinity
                averageHighs[slot] = -.infinity
            }
        }
    }
}

extension Observer {
    var batches: Int64 {
        get { memory.load(fromByteOffset: Field.batches, as: Int64.self) }
        nonmutating set { memory.storeBytes(of: newValue, toByteOffset: Field.batches, as: Int64.self) }
    }
    var notFinite: Int64 {
        get { memory.load(fromByteOffset: Field.notFinite, as: Int64.self) }
        nonmutating set { memory.storeBytes(of: newValue, toByteOffset: Field.notFinite, as: Int64.self) }
    }

    private func part<T>(_ offset: Int, _ type: T.Type) -> UnsafeMutablePointer<T> {
        (memory + offset).assumingMemoryBound(to: type)
    }
    var counts: UnsafeMutablePointer<Int64> { part(layout.parts.counts, Int64.self) }
    /// The extremes of an empty slot are the wrong way round.
    var lows: UnsafeMutablePointer<Float> { part(layout.parts.lows, Float.self) }
    var highs: UnsafeMutablePointer<Float> { part(layout.parts.highs, Float.self) }
    var averageLows: UnsafeMutablePointer<Double> { part(layout.parts.averageLows, Double.self) }
    var averageHighs: UnsafeMutablePointer<Double> { part(layout.parts.averageHighs, Double.self) }
    var batchLows: UnsafeMutablePointer<Float> { part(layout.parts.batchLows, Float.self) }
    var batchHighs: UnsafeMutablePointer<Float> { part(layout.parts.batchHighs, Float.self) }
    var sums: UnsafeMutablePointer<Double> { part(layout.parts.sums, Double.self) }
    var magnitudes: UnsafeMutablePointer<Double> { part(layout.parts.magnitudes, Double.self) }
    var squares: UnsafeMutablePointer<Double> { part(layout.parts.squares, Double.self) }
    /// A slot's 2 * bins counts, in ascending order of values.
    func histogram(_ slot: Int) -> UnsafeMutablePointer<Int64> {
        part(layout.parts.histograms, Int64.self) + slot &* (2 &* layout.bins)
    }

    /// Between two batches the extremes of the batch are those of an empty one.
    func clearBatch() {
        for slot in 0..<layout.slots {
            batchLows[slot] = .infinity
            batchHighs[slot] = -.infinity
        }
    }
}
