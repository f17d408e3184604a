// Whether what a store has given out is the object that was asked for.
//
// The header's layout is that of actors/stores/header.py, which writes it, and which says of what
// is not proven here what is wrong with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace penstock {

inline constexpr std::size_t kObjectNameBytes = 32;  // of a key, and of a namespace's digest

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
