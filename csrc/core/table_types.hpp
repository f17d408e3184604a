// The words of the L1 table: keys, ids, extents, answers, refusals.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>

namespace penstock {

// A refusal by the table. The refused call changed nothing. The text says what was wrong and what
// to do.
class TableError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Another thread than that of the first call.
class WrongThread : public TableError {
 public:
  using TableError::TableError;
};

// No such geometry, or a chunk was written under another one.
class GeometryUnknown : public TableError {
 public:
  using TableError::TableError;
};

// A session or instance that is not attached, or a session that is attached already.
class SessionUnknown : public TableError {
 public:
  using TableError::TableError;
};

// A ticket that never was, is another instance's, or is over.
class TicketUnknown : public TableError {
 public:
  using TableError::TableError;
};

// Another session holds a lease for this rank.
class RankTaken : public TableError {
 public:
  using TableError::TableError;
};

// The instance holds back too much memory in overdue leases.
class QuarantineFull : public TableError {
 public:
  using TableError::TableError;
};

// A bound on leases, tickets, or readers of one object.
class TableFull : public TableError {
 public:
  using TableError::TableError;
};

// A live lease or ticket has this id.
class IdTaken : public TableError {
 public:
  using TableError::TableError;
};

// Packed keys, or a parent key, that cannot be.
class BadKeys : public TableError {
 public:
  using TableError::TableError;
};

// Any other argument outside its range.
class BadArgument : public TableError {
 public:
  using TableError::TableError;
};

inline constexpr std::size_t kKeyBytes = 32;

// A chunk's name: a SHA-256 digest.
struct Key {
  std::array<std::uint64_t, 4> words;

  bool operator==(const Key&) const = default;
};

// Packed keys in somebody else's memory, at any alignment, in prompt order.
class KeyBatch {
 public:
  // Throws BadKeys unless the bytes are whole keys.
  explicit KeyBatch(std::span<const std::byte> packed) : packed_(packed) {
    if (packed.size() % kKeyBytes != 0) {
      throw BadKeys(std::to_string(packed.size()) +
                    " bytes of packed keys: give a multiple of 32 bytes");
    }
  }

  [[nodiscard]] std::size_t size() const { return packed_.size() / kKeyBytes; }
  [[nodiscard]] bool empty() const { return packed_.empty(); }
  [[nodiscard]] Key operator[](std::size_t index) const {
    Key key;
    std::memcpy(&key, packed_.data() + index * kKeyBytes, kKeyBytes);
    return key;
  }
  [[nodiscard]] KeyBatch range(std::size_t first, std::size_t count) const {
    return KeyBatch(packed_.subspan(first * kKeyBytes, count * kKeyBytes));
  }

 private:
  std::span<const std::byte> packed_;
};

// The name of a lease or ticket: 16 random bytes, drawn by the caller and always compared whole.
struct Id {
  std::array<std::uint64_t, 2> words;

  bool operator==(const Id&) const = default;
};

}  // namespace penstock

template <>
struct std::hash<penstock::Id> {
  std::size_t operator()(const penstock::Id& id) const noexcept { return id.words[0]; }
};

namespace penstock {

// The place of a chunk's record; given anew when the record is freed.
using ChunkId = std::uint32_t;
inline constexpr ChunkId kNoChunk = UINT32_MAX;

// The place of an object's record: 0 is the one inside its chunk's record, others are numbered
// from 1.
struct ObjectRef {
  ChunkId chunk = kNoChunk;
  std::uint32_t object = 0;

  [[nodiscard]] bool none() const { return chunk == kNoChunk; }
};

// Consecutive pages of the arena. No pages: no run.
struct PageRun {
  std::uint32_t first = 0;
  std::uint32_t pages = 0;
};

// What a caller learns of an object's place, and the record of every packed list of extents.
struct Extent {
  std::uint64_t offset;  // into the arena, a multiple of the page
  std::uint64_t bytes;   // exact; 0: no object here
  std::uint64_t digest;  // CRC-64/NVME of the object; 0 while it is being written
};

// Which part of the arena. What lies in `pd` was pushed by another node and is temporary: it never
// becomes RESIDENT, no tenant is charged for it, and eviction makes no room there.
enum class Pool : std::uint8_t { cache, pd };
inline constexpr std::size_t kPools = 2;

enum class Answer : std::uint8_t { granted, resident, in_flight, no_room, quota };

enum class Outcome : std::uint8_t { ok, stale };

// Of one object that a reader wants. COMING: somebody writes or loads it.
enum class Presence : std::uint8_t { absent, resident, coming };

// RESERVED and LOADED are *in flight*. QUARANTINED objects are out of the index; only their memory
// is still held.
enum class ObjectState : std::uint8_t { free, reserved, loaded, resident, quarantined };
inline constexpr std::size_t kObjectStates = 5;

// In the index, in flight or resident.
[[nodiscard]] constexpr bool is_live(ObjectState state) {
  return state != ObjectState::free && state != ObjectState::quarantined;
}
// The state's bit in a set of states.
[[nodiscard]] constexpr std::uint32_t state_bit(ObjectState state) {
  return 1U << static_cast<std::uint32_t>(state);
}
[[nodiscard]] constexpr bool is_in_flight(ObjectState state) {
  return state == ObjectState::reserved || state == ObjectState::loaded;
}

}  // namespace penstock
