// SPDX-License-Identifier: Apache-2.0

/// XXH64 with seed 0 (Yann Collet, github.com/Cyan4973/xxHash, doc/xxhash_spec.md): fast without special instructions,
/// and every language has it, so that others can check blobs.
@_optimize(speed)
public func checksum(_ bytes: UnsafeRawPointer, count: Int) -> UInt64 {
    var index = 0
    var hash: UInt64
    if count >= 32 {
        // Four chains of multiplications, each in a register of its own.
        var first = Prime.one &+ Prime.two, second = Prime.two, third: UInt64 = 0, fourth = 0 &- Prime.one
        while count - index >= 32 {
            first = round(first, word64(bytes, index))
            second = round(second, word64(bytes, index &+ 8))
            third = round(third, word64(bytes, index &+ 16))
            fourth = round(fourth, word64(bytes, index &+ 24))
            index &+= 32
        }
        hash = rotate(first, 1) &+ rotate(second, 7) &+ rotate(third, 12) &+ rotate(fourth, 18)
        hash = merge(merge(merge(merge(hash, first), second), third), fourth)
    } else {
        hash = Prime.five
    }
    hash = absorbTail(hash &+ UInt64(count), bytes, index, count)
    hash = (hash ^ hash >> 33) &* Prime.two
    hash = (hash ^ hash >> 29) &* Prime.three
    return hash ^ hash >> 32
}

private func absorbTail(_ start: UInt64, _ bytes: UnsafeRawPointer, _ from: Int, _ count: Int) -> UInt64 {
    var hash = start
    var index = from
    while count - index >= 8 {
        hash = rotate(hash ^ round(0, word64(bytes, index)), 27) &* Prime.one &+ Prime.four
        index &+= 8
    }
    if count - index >= 4 {
        let word = UInt64(UInt32(littleEndian: (bytes + index).loadUnaligned(as: UInt32.self)))
        hash = rotate(hash ^ word &* Prime.one, 23) &* Prime.two &+ Prime.three
        index &+= 4
    }
    while index < count {
        let byte = UInt64((bytes + index).load(as: UInt8.self))
        hash = rotate(hash ^ byte &* Prime.five, 11) &* Prime.one
        index &+= 1
    }
    return hash
}

private enum Prime {
    static let one: UInt64 = 0x9e37_79b1_85eb_ca87
    static let two: UInt64 = 0xc2b2_ae3d_27d4_eb4f
    static let three: UInt64 = 0x1656_67b1_9e37_79f9
    static let four: UInt64 = 0x85eb_ca77_c2b2_ae63
    static let five: UInt64 = 0x27d4_eb2f_1656_67c5
}

@inline(__always)
private func word64(_ bytes: UnsafeRawPointer, _ index: Int) -> UInt64 {
    UInt64(littleEndian: (bytes + index).loadUnaligned(as: UInt64.self))
}

@inline(__always)
private func rotate(_ value: UInt64, _ count: UInt64) -> UInt64 { value &<< count | value &>> (64 &- count) }

@inline(__always)
private func round(_ lane: UInt64, _ word: UInt64) -> UInt64 { rotate(lane &+ word &* Prime.two, 31) &* Prime.one }

@inline(__always)
private func merge(_ hash: UInt64, _ lane: UInt64) -> UInt64 { (hash ^ round(0, lane)) &* Prime.one &+ Prime.four }
