// What goes over the wire between two data channels: frames of one size, each followed by the bytes
// of a part of a piece, or by nothing.
//
//   dialer:   Hello(connection, secret, stream of streams)          once per socket
//   listener: Welcome(connection)                                   when all of them have come
//   both:     Part(token, number, slot, offset, bytes, part_offset, length) + length bytes   ...
//
// Little-endian. Every frame ends with its own digest, so that one that is not ours is known before
// anything is believed. Payloads carry none: objects have digests of their own.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace penstock::io {

inline constexpr std::size_t kFrameBytes = 72;

using Token = std::array<std::byte, 16>;
using Secret = std::array<std::byte, 32>;
using FrameBytes = std::array<std::byte, kFrameBytes>;

// The first thing a dialer says on each socket.
struct Hello {
  Token connection{};  // drawn by the dialer: what joins its sockets
  Secret secret{};
  std::uint8_t stream = 0;   // below streams
  std::uint8_t streams = 1;  // 1 to kStreamsMax
};

// `length` bytes of a piece, which as a whole goes to [offset, offset + bytes) of its slot.
struct PartFrame {
  Token token{};
  std::uint64_t number = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t part_offset = 0;  // in the piece; part_offset + length <= bytes
  std::uint32_t length = 0;       // at most kPartBytesMax
  std::uint32_t slot = 0;

  [[nodiscard]] bool is_last() const noexcept { return part_offset + length == bytes; }
};

[[nodiscard]] FrameBytes encode(const Hello& hello);
[[nodiscard]] FrameBytes encode(const PartFrame& part);
[[nodiscard]] FrameBytes encode_welcome(const Token& connection);

// Nothing: another kind of frame, damaged, or with a field out of its range.
[[nodiscard]] std::optional<Hello> decode_hello(const FrameBytes& frame);
[[nodiscard]] std::optional<PartFrame> decode_part(const FrameBytes& frame);
[[nodiscard]] std::optional<Token> decode_welcome(const FrameBytes& frame);

// Takes as long whatever the first difference.
[[nodiscard]] bool equal_in_constant_time(std::span<const std::byte> left,
                                          std::span<const std::byte> right) noexcept;

// A token is random throughout.
struct TokenHash {
  std::size_t operator()(const Token& token) const noexcept;
};

}  // namespace penstock::io
