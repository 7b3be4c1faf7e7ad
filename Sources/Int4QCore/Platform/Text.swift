// SPDX-License-Identifier: Apache-2.0

/// A literal, zero-terminated as C's are, in one register where StaticString takes three: names of arguments go along with almost
/// every call.
public struct Text: ExpressibleByStringLiteral, @unchecked Sendable {
    public typealias StringLiteralType = StaticString
    public typealias ExtendedGraphemeClusterLiteralType = StaticString
    public typealias UnicodeScalarLiteralType = StaticString

    public let characters: UnsafePointer<CChar>

    @_transparent
    public init(stringLiteral text: StaticString) {
        characters = UnsafeRawPointer(text.utf8Start).assumingMemoryBound(to: CChar.self)
    }
}
