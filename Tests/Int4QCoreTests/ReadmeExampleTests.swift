// SPDX-License-Identifier: Apache-2.0
import Int4Q
import XCTest

/// The README's Swift example, run as it stands there.
final class ReadmeExampleTests: XCTestCase {
    private struct Int4QError: Error, CustomStringConvertible { let description: String }

    private func check(_ status: int4q_status) throws {
        if status == INT4Q_OK { return }
        var error = int4q_error()
        error.struct_size = UInt32(MemoryLayout<int4q_error>.size)
        _ = int4q_last_error(&error)
        throw Int4QError(description: String(cString: error.message))
    }

    private func allocate(_ bytes: UInt64) -> UnsafeMutableRawPointer {
        .allocate(byteCount: Int(bytes), alignment: Int(INT4Q_ALIGNMENT))
    }

    func testQuantizePackMultiply() throws {
        let (m, n, k): (Int64, Int64, Int64) = (3, 100, 300)
        var random = SplitMix64(state: 2026)
        let weights = (0..<n * k).map { _ in Float.random(in: -1...1, using: &random) }
        let x = (0..<m * k).map { _ in Float.random(in: -1...1, using: &random) }

        // README begin
        // Quantize weights[n][k]: ggml's Q4_0 convention, a binary16 scale for each 32 weights.
        var scheme = int4q_scheme()
        scheme.kind = Int32(INT4Q_KIND_SYMMETRIC)
        scheme.group_size = 32
        scheme.scale_type = int4q_type(INT4Q_TYPE_F16)
        var sizes = int4q_tensor_layout()
        sizes.struct_size = UInt32(MemoryLayout<int4q_tensor_layout>.size)
        try check(int4q_tensor_sizes(&scheme, n, k, &sizes))

        var tensor = int4q_tensor()
        tensor.struct_size = UInt32(MemoryLayout<int4q_tensor>.size)
        (tensor.scheme, tensor.n, tensor.k) = (scheme, n, k)
        (tensor.codes, tensor.codes_bytes) = (allocate(sizes.codes_bytes), sizes.codes_bytes)
        (tensor.scales, tensor.scales_bytes) = (allocate(sizes.scales_bytes), sizes.scales_bytes)
        try check(int4q_quantize_rows(&tensor, weights, int4q_type(INT4Q_TYPE_F32), k, 0, n))

        // Pack into the layout that the kernels read.
        var blobBytes: UInt64 = 0
        try check(int4q_blob_size(&scheme, n, k, &blobBytes))
        let blob = allocate(blobBytes)
        try check(int4q_pack_rows(&tensor, blob, blobBytes, 0, n))

        // Multiply: y[m][n] = x[m][k] * weights^T, on this thread.
        var desc = int4q_matmul_desc()
        desc.struct_size = UInt32(MemoryLayout<int4q_matmul_desc>.size)
        (desc.mode, desc.m, desc.n, desc.k) = (int4q_compute_mode(INT4Q_MODE_F32), m, n, k)
        (desc.scheme, desc.worker_count) = (scheme, 1)
        (desc.x_type, desc.y_type) = (int4q_type(INT4Q_TYPE_F32), int4q_type(INT4Q_TYPE_F32))
        var plan = int4q_matmul_plan()
        try check(int4q_matmul_plan_init(&desc, &plan))

        var y = [Float](repeating: 0, count: Int(m * n))
        let scratch = allocate(plan.scratch_bytes)
        try x.withUnsafeBufferPointer { x in
            try y.withUnsafeMutableBufferPointer { y in
                var args = int4q_matmul_args()
                args.struct_size = UInt32(MemoryLayout<int4q_matmul_args>.size)
                (args.x, args.ldx) = (UnsafeRawPointer(x.baseAddress), k)
                (args.blob, args.blob_bytes) = (UnsafeRawPointer(blob), blobBytes)
                (args.y, args.ldy) = (UnsafeMutableRawPointer(y.baseAddress), n)
                (args.scratch, args.scratch_bytes) = (scratch, plan.scratch_bytes)
                try check(int4q_matmul(&plan, &args, nil, nil))
            }
        }
        // README end

        defer { [tensor.codes, tensor.scales, blob, scratch].forEach { $0?.deallocate() } }
        var restored = [Float](repeating: 0, count: Int(n * k))
        try check(int4q_dequantize_rows(&tensor, &restored, int4q_type(INT4Q_TYPE_F32), k, 0, n))
        for (weight, value) in zip(weights, restored) {
            // A scale is at most 1/8, and the largest code is 7 steps from the middle, not 8.
            XCTAssertEqual(value, weight, accuracy: 0.126)
        }
        assertProduct(y, x, restored, Int(n), Int(k))
    }

    /// Against the sums in Double: binary32 keeps k + 2 roundings of at most 2^-24 of the sum of magnitudes.
    private func assertProduct(_ y: [Float], _ x: [Float], _ weights: [Float], _ n: Int, _ k: Int) {
        XCTAssertGreaterThan(y.map(\.magnitude).max()!, 1)
        for (index, value) in y.enumerated() {
            let row = index / n * k, column = index % n * k
            let products = (0..<k).map { Double(x[row + $0]) * Double(weights[column + $0]) }
            let bound = products.reduce(0) { $0 + $1.magnitude } * Double(k + 2) * 0x1p-24
            XCTAssertEqual(Double(value), products.reduce(0, +), accuracy: bound)
        }
    }
}
