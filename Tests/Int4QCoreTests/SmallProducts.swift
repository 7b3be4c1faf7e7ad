// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import XCTest

/// A quantized matrix in memory of its own, zeroed at first.
final class TestTensor {
    var raw = int4q_tensor()
    private var memory: [AlignedMemory] = []

    init(_ scheme: int4q_scheme, n: Int64, k: Int64, codebook: [Float]? = nil) {
        var scheme = scheme, sizes = int4q_tensor_layout()
        sizes.struct_size = UInt32(MemoryLayout<int4q_tensor_layout>.stride)
        XCTAssertEqual(int4q_tensor_sizes(&scheme, n, k, &sizes), 0)
        raw.struct_size = UInt32(MemoryLayout<int4q_tensor>.stride)
        (raw.scheme, raw.n, raw.k) = (scheme, n, k)
        (raw.codes, raw.codes_bytes) = (allocate(sizes.codes_bytes), sizes.codes_bytes)
        (raw.scales, raw.scales_bytes) = (allocate(sizes.scales_bytes), sizes.scales_bytes)
        (raw.zero_points, raw.zero_points_bytes) = (allocate(sizes.zero_points_bytes), sizes.zero_points_bytes)
        (raw.offsets, raw.offsets_bytes) = (allocate(sizes.offsets_bytes), sizes.offsets_bytes)
        if let codebook {
            memory.append(elements(codebook, INT4Q_TYPE_F32))
            raw.codebook = UnsafePointer(memory[memory.count - 1].pointer(to: Float.self))
        }
    }

    private func allocate(_ bytes: UInt64) -> UnsafeMutableRawPointer? {
        if bytes == 0 { return nil }
        memory.append(AlignedMemory(Int(bytes)))
        return memory[memory.count - 1].base
    }

    /// Codes, scales, zero points and offsets, one behind the other.
    var bytes: [UInt8] { memory.flatMap(\.bytes) }

    func quantize(_ source: AlignedMemory, _ type: Int, stride: Int64) -> int4q_status {
        int4q_quantize_rows(&raw, source.base, int4q_type(type), stride, 0, raw.n)
    }

    func dequantize(into destination: AlignedMemory, _ type: Int) -> int4q_status {
        int4q_dequantize_rows(&raw, destination.base, int4q_type(type), raw.k, 0, raw.n)
    }

    /// The blob.
    func packed() -> AlignedMemory {
        let blob = emptyBlob(raw.scheme, n: raw.n, k: raw.k)
        XCTAssertEqual(int4q_pack_rows(&raw, blob.base, UInt64(blob.byteCount), 0, raw.n), 0)
        return blob
    }
}

func emptyBlob(_ scheme: int4q_scheme, n: Int64, k: Int64) -> AlignedMemory {
    var scheme = scheme, bytes: UInt64 = 0
    XCTAssertEqual(int4q_blob_size(&scheme, n, k, &bytes), 0)
    return AlignedMemory(Int(bytes))
}

/// A planned product and its memory. Rows of x and y follow one another without gaps.
final class MatmulCall {
    var plan = int4q_matmul_plan()
    var args = int4q_matmul_args()
    let y: AlignedMemory
    private let inputs: [AlignedMemory]
    private let scratch: AlignedMemory

    init(_ desc: int4q_matmul_desc, blob: AlignedMemory, x: AlignedMemory) {
        var desc = desc
        XCTAssertEqual(int4q_matmul_plan_init(&desc, &plan), 0)
        y = AlignedMemory(Int(desc.m * desc.n) * elementSize(Int(desc.y_type)))
        inputs = [blob, x]
        scratch = AlignedMemory(Int(plan.scratch_bytes))
        args.struct_size = UInt32(MemoryLayout<int4q_matmul_args>.stride)
        (args.x, args.ldx) = (UnsafeRawPointer(x.base), desc.k)
        (args.blob, args.blob_bytes) = (UnsafeRawPointer(blob.base), UInt64(blob.byteCount))
        (args.y, args.ldy) = (y.base, desc.n)
        (args.scratch, args.scratch_bytes) = (scratch.base, plan.scratch_bytes)
    }

    func run(_ parallelFor: int4q_parallel_for? = nil, host: UnsafeMutableRawPointer? = nil) -> int4q_status {
        int4q_matmul(&plan, &args, parallelFor, host)
    }
}
