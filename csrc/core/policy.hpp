// Which chunk goes first when room is needed: the interface of all eviction policies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "core/stamp_queue.hpp"
#include "core/table_types.hpp"

namespace penstock {

enum class PolicyKind : std::uint8_t { lru, s3fifo, sieve, arc, tinylfu, prospect };

// Why a chunk is no longer resident.
enum class Departure : std::uint8_t { evicted, dropped };

// What a policy may ask about a resident chunk.
class ChunkFacts {
 public:
  ChunkFacts() = default;
  ChunkFacts(const ChunkFacts&) = delete;
  ChunkFacts& operator=(const ChunkFacts&) = delete;
  ChunkFacts(ChunkFacts&&) = delete;
  ChunkFacts& operator=(ChunkFacts&&) = delete;
  virtual ~ChunkFacts() = default;

  // Pages of its resident objects.
  [[nodiscard]] virtual std::uint64_t resident_pages(ChunkId chunk) const = 0;
  // Whether it has children, and so cannot go before them.
  [[nodiscard]] virtual bool has_children(ChunkId chunk) const = 0;
  // What it rests on, resident or not; kNoChunk at a prompt's start.
  [[nodiscard]] virtual ChunkId parent(ChunkId chunk) const = 0;
  // A hash of its key, the same whenever it comes back.
  [[nodiscard]] virtual std::uint64_t fingerprint(ChunkId chunk) const = 0;
};

// A policy hears of every resident chunk, but only *candidates* may be its victims: leaves that
// nobody pins and nothing is written to. Contents decides what is a candidate, so that a prefix
// never goes before its suffix and nothing in use goes at all, whatever the policy. Sizes are pages
// of 4 KiB. Stamps count the calls of the table that touched anything; chunks touched by one call
// share one.
//
// Life of a chunk here:  added -> (touched | resized | enter -> leave)* -> removed
class Policy {
 public:
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;
  Policy(Policy&&) = delete;
  Policy& operator=(Policy&&) = delete;
  virtual ~Policy() = default;

  // A chunk has become resident. `fingerprint`: a hash of its key, the same whenever it comes back.
  virtual void added(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
                     std::uint64_t stamp) = 0;
  // Its resident objects take `pages` more (or less) than before.
  virtual void resized(ChunkId chunk, std::int64_t pages) = 0;
  // Resident chunks were read, suffix before prefix. Candidates or not.
  virtual void touched(std::span<const ChunkId> chunks, std::uint64_t stamp) = 0;
  // A child rests on it from now on. It may not be resident (yet), and is no candidate.
  virtual void extended(ChunkId /*parent*/) {}
  // It has become, or is no longer, a candidate.
  virtual void enter(ChunkId chunk) = 0;
  // The same, because its last child, `child`, has just left.
  virtual void exposed(ChunkId chunk, ChunkId /*child*/) { enter(chunk); }
  virtual void leave(ChunkId chunk) = 0;
  // No object of it is resident any more. It is no candidate.
  virtual void removed(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
                       Departure why) = 0;

  // The candidate to go next, or kNoChunk. It stays one until leave().
  [[nodiscard]] virtual ChunkId victim(std::uint64_t stamp) = 0;

  // It was the victim, but shall stay for now: others come first.
  virtual void spared(ChunkId chunk, std::uint64_t stamp) { touched({&chunk, 1}, stamp); }

  // For tests: throws std::logic_error naming the first broken invariant.
  virtual void validate() const = 0;
  [[nodiscard]] virtual std::uint32_t candidates() const = 0;
  // The pages of all resident chunks by its own count, if it keeps one.
  [[nodiscard]] virtual std::optional<std::uint64_t> pages_counted() const { return {}; }
  // Memory that is not per chunk, such as ghosts.
  [[nodiscard]] virtual std::uint64_t extra_bytes() const { return 0; }

  // Brings on its way what enter(), leave() or touched() will need of it.
  void prefetch(ChunkId chunk) const { nodes_.prefetch(chunk); }
  // The same for the neighbours of a candidate, once its own record has come.
  void prefetch_neighbours(ChunkId chunk) const {
    const PolicyNode& node = nodes_[chunk];
    if (node.previous != kNoChunk)
      __builtin_prefetch(neighbours_ + node.previous * neighbour_bytes_, 1);
    if (node.next != kNoChunk) __builtin_prefetch(neighbours_ + node.next * neighbour_bytes_, 1);
  }
  [[nodiscard]] bool is_candidate(ChunkId chunk) const { return nodes_[chunk].linked != 0; }

 protected:
  explicit Policy(std::uint32_t chunks_max) : nodes_(chunks_max) { neighbours_are(nodes_); }

  // What `previous` and `next` of a candidate's node are places in, if not in nodes_.
  template <typename T>
  void neighbours_are(const MappedArray<T>& neighbours) {
    neighbours_ = reinterpret_cast<const std::byte*>(neighbours.data());
    neighbour_bytes_ = sizeof(T);
  }

  PolicyNodes nodes_;  // NOLINT(cppcoreguidelines-non-private-member-variables-in-classes)

 private:
  const std::byte* neighbours_ = nullptr;
  std::uint64_t neighbour_bytes_ = 0;
};

// `pages_total`: all there is to share out. `facts` must outlive the policy.
[[nodiscard]] std::unique_ptr<Policy> make_policy(PolicyKind kind, std::uint32_t chunks_max,
                                                  std::uint64_t pages_total,
                                                  const ChunkFacts& facts);

}  // namespace penstock
