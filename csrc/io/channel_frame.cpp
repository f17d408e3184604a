#include "io/channel_frame.hpp"

#include <bit>
#include <cstring>
#include <type_traits>

#include "core/digest.hpp"
#include "io/channel_options.hpp"

namespace penstock::io {
namespace {

static_assert(std::endian::native == std::endian::little, "frames are copied as they lie");

constexpr std::uint32_t kMagic = 0x31434450;  // "PDC1"
constexpr std::size_t kDigestAt = kFrameBytes - sizeof(std::uint64_t);

enum class Kind : std::uint8_t { none = 0, hello = 1, welcome = 2, part = 3 };
using Zeros = std::array<std::uint8_t, 3>;  // behind it

// Writes and reads fields one after the other.
class Cursor {
 public:
  explicit Cursor(FrameBytes& frame) : frame_(frame) {}

  template <typename Field>
  Cursor& put(const Field& field) {
    static_assert(std::is_trivially_copyable_v<Field>);
    std::memcpy(frame_.data() + at_, &field, sizeof(Field));
    at_ += sizeof(Field);
    return *this;
  }

 private:
  FrameBytes& frame_;
  std::size_t at_ = 0;
};

class Reader {
 public:
  explicit Reader(const FrameBytes& frame) : frame_(frame) {}

  template <typename Field>
  Reader& get(Field& field) {
    static_assert(std::is_trivially_copyable_v<Field>);
    std::memcpy(&field, frame_.data() + at_, sizeof(Field));
    at_ += sizeof(Field);
    return *this;
  }

 private:
  const FrameBytes& frame_;
  std::size_t at_ = 0;
};

Cursor begin(FrameBytes& frame, Kind kind) {
  Cursor cursor(frame);
  cursor.put(kMagic).put(kind).put(Zeros{});
  return cursor;
}

FrameBytes sealed(FrameBytes frame) {
  const std::uint64_t digest = crc64(std::span(frame).first(kDigestAt));
  std::memcpy(frame.data() + kDigestAt, &digest, sizeof(digest));
  return frame;
}

// After the magic and the kind, if they are these.
std::optional<Reader> open(const FrameBytes& frame, Kind wanted) {
  std::uint64_t digest = 0;
  std::memcpy(&digest, frame.data() + kDigestAt, sizeof(digest));
  std::uint32_t magic = 0;
  Kind kind = Kind::none;
  Zeros zeros{};
  Reader reader(frame);
  reader.get(magic).get(kind).get(zeros);
  const bool good =
      magic == kMagic && kind == wanted && digest == crc64(std::span(frame).first(kDigestAt));
  return good ? std::optional(reader) : std::nullopt;
}

}  // namespace

FrameBytes encode(const Hello& hello) {
  FrameBytes frame{};
  begin(frame, Kind::hello)
      .put(hello.connection)
      .put(hello.secret)
      .put(hello.stream)
      .put(hello.streams);
  return sealed(frame);
}

FrameBytes encode(const PartFrame& part) {
  FrameBytes frame{};
  begin(frame, Kind::part)
      .put(part.token)
      .put(part.number)
      .put(part.offset)
      .put(part.bytes)
      .put(part.part_offset)
      .put(part.length)
      .put(part.slot);
  return sealed(frame);
}

FrameBytes encode_welcome(const Token& connection) {
  FrameBytes frame{};
  begin(frame, Kind::welcome).put(connection);
  return sealed(frame);
}

std::optional<Hello> decode_hello(const FrameBytes& frame) {
  auto reader = open(frame, Kind::hello);
  if (!reader) return std::nullopt;
  Hello hello;
  reader->get(hello.connection).get(hello.secret).get(hello.stream).get(hello.streams);
  const bool good = hello.streams <= kStreamsMax && hello.stream < hello.streams;
  return good ? std::optional(hello) : std::nullopt;
}

std::optional<PartFrame> decode_part(const FrameBytes& frame) {
  auto reader = open(frame, Kind::part);
  if (!reader) return std::nullopt;
  PartFrame part;
  reader->get(part.token)
      .get(part.number)
      .get(part.offset)
      .get(part.bytes)
      .get(part.part_offset)
      .get(part.length)
      .get(part.slot);
  // A part without bytes of a piece that has some would end it a second time.
  const bool good = part.length <= kPartBytesMax && part.length <= part.bytes &&
                    part.part_offset <= part.bytes - part.length &&
                    (part.length > 0 || part.bytes == 0);
  return good ? std::optional(part) : std::nullopt;
}

std::optional<Token> decode_welcome(const FrameBytes& frame) {
  auto reader = open(frame, Kind::welcome);
  if (!reader) return std::nullopt;
  Token connection{};
  reader->get(connection);
  return connection;
}

bool equal_in_constant_time(std::span<const std::byte> left,
                            std::span<const std::byte> right) noexcept {
  if (left.size() != right.size()) return false;
  volatile unsigned difference = 0;  // so that no compiler finds a way out of the loop
  for (std::size_t at = 0; at < left.size(); ++at) {
    difference = difference | std::to_integer<unsigned>(left[at] ^ right[at]);
  }
  return difference == 0;
}

std::size_t TokenHash::operator()(const Token& token) const noexcept {
  std::size_t hash = 0;
  std::memcpy(&hash, token.data(), sizeof(hash));
  return hash;
}

}  // namespace penstock::io
