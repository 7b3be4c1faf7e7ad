// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0
//
// The same sources as CMakeLists.txt, in ordinary Swift: for XCTest and for programs written in Swift. What C, C++ and
// Python use is built by CMake, in Embedded Swift.
import PackageDescription

/// Instruction sets: the flags go to the clang importer, which sets Swift's code generation too.
func kernels(_ name: String, _ machine: [String]) -> Target {
    .target(
        name: name, dependencies: ["CInt4QShims"],
        swiftSettings: [.unsafeFlags(["-O"] + machine.flatMap { ["-Xcc", $0] })])
}

#if arch(x86_64)
let avx2 = ["-mavx2", "-mfma", "-mf16c"]
let avx512vnni = avx2 + ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"]
let machineKernels = [
    kernels("KernelsAVX2", avx2), kernels("KernelsAVXVNNI", avx2 + ["-mavxvnni"]),
    kernels("KernelsAVX512VNNI", avx512vnni), kernels("KernelsAVX512BF16", avx512vnni + ["-mavx512bf16"]),
    kernels("KernelsAVX512VPOPCNTDQ", avx512vnni + ["-mavx512vpopcntdq"]),
    kernels("KernelsAMX", avx512vnni + ["-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"]),
]
#else
let machineKernels: [Target] = []
#endif

let package = Package(
    name: "int4q",
    products: [.library(name: "Int4Q", targets: ["Int4Q"])],
    targets: [
        // MARK: The contract
        .systemLibrary(name: "CInt4Q", path: "include"),

        // MARK: The library, from below upwards
        .target(name: "CInt4QShims", exclude: ["README.md"], cSettings: [.unsafeFlags(["-std=gnu11"])]),
        kernels("KernelsPortable", []),
        .target(
            name: "Int4QCore",
            dependencies: ["CInt4Q", "CInt4QShims", "KernelsPortable"] + machineKernels.map { .target(name: $0.name) }),
        .target(name: "Int4Q", dependencies: ["CInt4Q", "CInt4QShims", "Int4QCore"]),

        // MARK: Tests
        .testTarget(name: "Int4QCoreTests", dependencies: ["Int4Q", "Int4QCore", "CInt4Q", "CInt4QShims"]),
    ] + machineKernels
)
