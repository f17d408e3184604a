#include "core/object_header.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>
#include <string_view>

#include "core/digest.hpp"

namespace penstock {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kMagic = "PENSTOCK";
constexpr std::uint16_t kVersion = 1;
constexpr std::uint64_t kBlockBytes = 4096;

// Where its fields begin.
constexpr std::size_t kVersionAt = 8;
constexpr std::size_t kFlagsAt = 10;
constexpr std::size_t kLengthAt = 12;
constexpr std::size_t kKeyAt = 16;
constexpr std::size_t kSpaceAt = 48;
constexpr std::size_t kTenantAt = 80;
constexpr std::size_t kLogicalAt = 96;
constexpr std::size_t kStoredAt = 104;
constexpr std::size_t kRunsAt = 112;
constexpr std::size_t kTransformAt = 116;
constexpr std::size_t kTransformBytes = 16;
constexpr std::size_t kDigestAt = 164;
constexpr std::size_t kRunDigestsAt = 172;

using Bytes = std::span<const std::byte>;

template <typename T>
T field(Bytes header, std::size_t at) noexcept {
  T value{};
  std::memcpy(&value, header.data() + at, sizeof value);
  return value;
}

template <typename T>
void set_field(std::span<std::byte> header, std::size_t at, T value) noexcept {
  std::memcpy(header.data() + at, &value, sizeof value);
}

std::uint64_t whole_blocks(std::uint64_t bytes) noexcept {
  return bytes / kBlockBytes * kBlockBytes + (bytes % kBlockBytes == 0 ? 0 : kBlockBytes);
}

bool is_whole(Bytes header, std::uint32_t runs) noexcept {
  const std::size_t end = kRunDigestsAt + std::size_t{runs} * sizeof(std::uint64_t);
  const std::uint64_t length = header_bytes(runs);
  return length <= header.size() && std::memcmp(header.data(), kMagic.data(), kMagic.size()) == 0 &&
         field<std::uint16_t>(header, kVersionAt) == kVersion &&
         field<std::uint16_t>(header, kFlagsAt) == 0 &&
         field<std::uint32_t>(header, kLengthAt) == length &&
         field<std::uint32_t>(header, kRunsAt) == runs &&
         field<std::uint64_t>(header, end) == crc64(header.first(end));
}

bool is_asked_for(Bytes header, const AskedObject& asked) noexcept {
  const Bytes transform = header.subspan(kTransformAt, kTransformBytes);
  return std::ranges::equal(header.subspan(kKeyAt, kObjectNameBytes), asked.key) &&
         std::ranges::equal(header.subspan(kSpaceAt, kObjectNameBytes), asked.space) &&
         field<std::uint64_t>(header, kLogicalAt) == asked.logical_bytes &&
         std::ranges::all_of(transform, [](std::byte one) { return one == std::byte{0}; });
}

// Cut in unequal runs, nobody can say.
bool runs_agree(const ProvenObject& object, std::uint64_t bytes) noexcept {
  const std::size_t runs = object.run_digests.size();
  return runs == 0 || bytes % runs != 0 ||
         crc64_join_runs(object.run_digests, bytes / runs) == object.digest;
}

}  // namespace

std::uint64_t header_bytes(std::uint64_t runs) noexcept {
  return whole_blocks(kRunDigestsAt + (runs + 1) * sizeof(std::uint64_t));
}

void write_header(const NewObject& object, std::span<std::byte> target) noexcept {
  const std::size_t runs = object.run_digests.size() / sizeof(std::uint64_t);
  assert(target.size() == header_bytes(runs));
  std::memcpy(target.data(), kMagic.data(), kMagic.size());
  set_field(target, kVersionAt, kVersion);
  set_field(target, kLengthAt, static_cast<std::uint32_t>(target.size()));
  std::ranges::copy(object.key, target.begin() + kKeyAt);
  std::ranges::copy(object.space, target.begin() + kSpaceAt);
  std::ranges::copy(object.tenant, target.begin() + kTenantAt);
  set_field(target, kLogicalAt, object.logical_bytes);
  set_field(target, kStoredAt, object.logical_bytes);
  set_field(target, kRunsAt, static_cast<std::uint32_t>(runs));
  set_field(target, kDigestAt, object.digest);
  std::ranges::copy(object.run_digests, target.begin() + kRunDigestsAt);
  const std::size_t end = kRunDigestsAt + object.run_digests.size();
  set_field(target, end, crc64(Bytes(target).first(end)));
}

std::optional<ProvenObject> prove(const AskedObject& asked, const ReadObject& read) {
  if (!is_whole(read.header, asked.runs) || !is_asked_for(read.header, asked)) return {};
  const auto stored = field<std::uint64_t>(read.header, kStoredAt);
  if (asked.logical_bytes > read.payload.size() || stored > read.payload_bytes ||
      whole_blocks(stored) > read.payload_bytes) {
    return {};
  }
  ProvenObject found{.digest = field<std::uint64_t>(read.header, kDigestAt), .run_digests = {}};
  if (crc64(read.payload.first(asked.logical_bytes)) != found.digest) return {};
  found.run_digests.resize(asked.runs);
  if (asked.runs > 0) {
    std::memcpy(found.run_digests.data(), read.header.data() + kRunDigestsAt,
                asked.runs * sizeof(std::uint64_t));
  }
  if (!runs_agree(found, asked.logical_bytes)) return {};
  return found;
}

}  // namespace penstock
