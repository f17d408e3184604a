// Headers of objects on stores: made, and whether what a store has given out is the object that was
// asked for.
//
// Their layout is that of actors/stores/header.py, which writes them one by one, and which says of
// what is not proven here what is wrong with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace penstock {

inline constexpr std::size_t kObjectNameBytes = 32;  // of a key, and of a namespace's digest
inline constexpr std::size_t kTenantBytes = 16;

/// An object as it is saved: without a transform.
struct NewObject {
  std::span<const std::byte, kObjectNameBytes> key;
  std::span<const std::byte, kObjectNameBytes> space;
  std::span<const std::byte, kTenantBytes> tenant;
  std::uint64_t logical_bytes = 0;
  std::uint64_t digest = 0;
  std::span<const std::byte> run_digests;  // packed
};

/// How long the header of an object of so many runs is, padding included.
[[nodiscard]] std::uint64_t header_bytes(std::uint64_t runs) noexcept;

/// Its header, into all of `target`: header_bytes() of zeros.
void write_header(const NewObject& object, std::span<std::byte> target) noexcept;

/// What was asked for.
struct AskedObject {
  std::span<const std::byte, kObjectNameBytes> key;
  std::span<const std::byte, kObjectNameBytes> space;
  std::uint64_t logical_bytes = 0;
  std::uint32_t runs = 0;
};

/// What was read: the header's room, the payload's, and how many bytes of that one there were.
struct ReadObject {
  std::span<const std::byte> header;
  std::span<const std::byte> payload;
  std::uint64_t payload_bytes = 0;
};

/// What its header says of an object that is whole.
struct ProvenObject {
  std::uint64_t digest = 0;
  std::vector<std::uint64_t> run_digests;
};

/// Empty unless all of it is good: a whole header of this version, of this object as it was asked
/// for and without a transform, all of its payload, and digests of runs and bytes that agree.
[[nodiscard]] std::optional<ProvenObject> prove(const AskedObject& asked, const ReadObject& read);

}  // namespace penstock
