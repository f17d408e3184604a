// Paged blocks <-> objects: any number of objects in one call, over several threads, digested.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "copy/plan.hpp"
#include "copy/pool.hpp"
#include "copy/request.hpp"

namespace penstock {

struct CopierOptions {
  /// How many threads copy, the caller's included. At least 1.
  std::size_t threads = 1;
  /// Calls that move at least this many bytes write past the caches. 0: the size of the last-level
  /// cache.
  std::uint64_t streaming_bytes_min = 0;
  /// Never wider than the CPU has; narrower for tests and for hosts that throttle on wide vectors.
  Instructions instructions = widest_instructions();
};

/// Owns its threads. May be called from any thread; calls take turns.
class Copier {
 public:
  /// Throws CopyRefused when `threads` is 0 or the CPU lacks the instructions asked for.
  explicit Copier(const CopierOptions& options);

  /// Moves the blocks of `request` and digests the runs in the same pass.
  ///
  /// Returns the CRC-64 of every (layer, kv) run: [object][layer of the range][kv]. A digest is
  /// always that of the whole run as it is in the object when the call returns, whichever way the
  /// bytes went: so a get verifies the object even where blocks are skipped, and a put that skips
  /// the blocks of an earlier put digests the object that both have made.
  ///
  /// Skipped blocks are neither read nor written on the paged side, and their ids are not looked
  /// at. On the object's side they are left as they are.
  ///
  /// Throws CopyRefused, before a byte moves, as check_request says; and in a forked child, whose
  /// copier has no threads.
  std::vector<std::uint64_t> copy(const CopyRequest& request);

  /// What the copy is measured against: the same bytes in one piece, with the same threads.
  /// Throw CopyRefused when the sizes differ or the ranges overlap.
  void baseline_memcpy(std::span<std::byte> destination, std::span<const std::byte> source);
  /// Past the caches where the CPU can and both sides are aligned to 64 bytes; else refused.
  void baseline_streaming(std::span<std::byte> destination, std::span<const std::byte> source);

  [[nodiscard]] std::size_t threads() const noexcept { return pool_.threads(); }
  [[nodiscard]] std::uint64_t streaming_bytes_min() const noexcept { return streaming_bytes_min_; }
  [[nodiscard]] Instructions instructions() const noexcept { return instructions_; }

 private:
  void require_usable() const;
  /// Digests, and moves, the slices of a group; one digest for each.
  void move_group(const CopyPlan& plan, std::uint64_t group, MoveTiles move, const TileOrder& order,
                  std::span<std::uint64_t> digests) const;

  Instructions instructions_;
  std::uint64_t streaming_bytes_min_;
  ThreadPool pool_;
};

}  // namespace penstock
