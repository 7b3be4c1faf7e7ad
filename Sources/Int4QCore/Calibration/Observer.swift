// SPDX-License-Identifier: Apache-2.0
import CInt4Q

/// A caller's observer whose header was checked. What lies behind the header is believed only as far as memory safety does not
/// depend on it.
public struct Observer {
    public struct Names {
        let memory: StaticString
        let bytes: StaticString
        public init(_ memory: StaticString, _ bytes: StaticString) {
            self.memory = memory
            self.bytes = bytes
        }
        public static var usual: Names { Names("observer", "observer_bytes") }
    }

    public let layout: ObserverLayout
    let memory: UnsafeMutableRawPointer

    /// The header: where its fields are. Little-endian, as everything here.
    private enum Field {
        static var magic: Int { 0 }
        static var version: Int { 8 }
        static var desc: Int { 16 }
        static var totalBytes: Int { 56 }
        static var batches: Int { 64 }
        static var notFinite: Int { 72 }
        static var reserved: Int { 80 }
    }
    private static var magic: UInt64 { 0x0053_424f_5134_4e49 } // "IN4QOBS"
    private static var version: UInt32 { 1 }

    @inline(never)
    public init(_ pointer: UnsafeRawPointer?, bytes: UInt64, _ names: Names) throws(Failure) {
        memory = UnsafeMutableRawPointer(mutating: try require(pointer, names.memory, alignment: Int(INT4Q_ALIGNMENT)))
        try requireBytes(bytes, needed: ObserverParts.headerBytes, names.bytes)
        if memory.load(fromByteOffset: Field.magic, as: UInt64.self) != Observer.magic {
            throw Observer.corrupt(names.memory, "a header", "bytes that start as an observer does")
        }
        let version = memory.load(fromByteOffset: Field.version, as: UInt32.self)
        if version != Observer.version {
            throw Failure(INT4Q_ERROR_BLOB_VERSION, names.memory, .unsigned(UInt64(version)), expected: "version",
                          bound: UInt64(Observer.version))
        }
        do throws(Failure) {
            layout = try ObserverLayout(memory.load(fromByteOffset: Field.desc, as: int4q_observer_desc.self))
        } catch {
            throw Observer.corrupt(names.memory, "a description", "one that int4q_observer_size() accepts")
        }
        if memory.load(fromByteOffset: Field.totalBytes, as: UInt64.self) != layout.totalBytes || !hasZeroedReserve {
            throw Observer.corrupt(names.memory, "a header", "sizes that agree with its description")
        }
        try requireBytes(bytes, needed: layout.totalBytes, names.bytes)
    }

    /// An observer in new memory, which has seen nothing.
    @inline(never)
    public init(_ layout: ObserverLayout, in pointer: UnsafeMutableRawPointer) {
        self.layout = layout
        memory = pointer
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: Int(layout.totalBytes))
        memory.storeBytes(of: Observer.magic, toByteOffset: Field.magic, as: UInt64.self)
        memory.storeBytes(of: Observer.version, toByteOffset: Field.version, as: UInt32.self)
        memory.storeBytes(of: layout.raw, toByteOffset: Field.desc, as: int4q_observer_desc.self)
        memory.storeBytes(of: layout.totalBytes, toByteOffset: Field.totalBytes, as: UInt64.self)
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

    private var hasZeroedReserve: Bool {
        var all = memory.load(fromByteOffset: Field.version + 4, as: UInt32.self)
        for offset in stride(from: Field.reserved, to: Int(ObserverParts.headerBytes), by: 4) {
            all |= memory.load(fromByteOffset: offset, as: UInt32.self)
        }
        return all == 0
    }

    static func corrupt(_ name: StaticString, _ value: StaticString, _ expected: StaticString) -> Failure {
        Failure(INT4Q_ERROR_CORRUPT, name, .text(value), expected: expected)
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
