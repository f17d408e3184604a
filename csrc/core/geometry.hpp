// What objects a chunk has, and what a hit needs of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/bitmap.hpp"

namespace penstock {

// One layer group of a geometry, as it is registered.
struct Group {
  HitRule rule = HitRule::full;
  std::uint32_t window_chunks = 0;         // >= 1 for HitRule::window
  std::vector<std::uint64_t> shard_bytes;  // exact bytes of an object of each shard, > 0
  std::vector<std::uint32_t> shard_runs;   // (layer, component) runs of each; empty: one each
};

// One kind of object of a geometry. Slots are numbered group by group, shard by shard.
struct Slot {
  std::uint64_t bytes;
  std::uint32_t pages;
  std::uint32_t runs;
  std::uint32_t group;
};

// The groups of a namespace, checked, and their slots.
class Geometry {
 public:
  static constexpr std::size_t kGroupsMax = 64;  // a chunk's groups are the bits of one word
  static constexpr std::size_t kSlotsMax = 4096;

  // Throws BadArgument, saying which group is wrong and how.
  explicit Geometry(std::vector<Group> groups);

  [[nodiscard]] const std::vector<Group>& groups() const { return groups_; }
  [[nodiscard]] const std::vector<Slot>& slots() const { return slots_; }
  [[nodiscard]] std::uint32_t slot_count() const { return slot_count_; }
  [[nodiscard]] std::uint64_t all_groups() const { return all_groups_; }
  [[nodiscard]] std::uint64_t full_groups() const { return full_groups_; }
  [[nodiscard]] std::uint64_t pages_total() const { return pages_total_; }  // of a whole chunk

 private:
  std::vector<Group> groups_;
  std::vector<Slot> slots_;
  std::uint32_t slot_count_ = 0;
  std::uint64_t all_groups_ = 0;   // bit g: group g exists
  std::uint64_t full_groups_ = 0;  // bit g: its rule is HitRule::full
  std::uint64_t pages_total_ = 0;
};

// The hit rule along a prompt, one chunk at a time: the largest n at which every group's own rule
// holds. The streaming twin of longest_hit(), which wants all bitmaps first.
class HitScan {
 public:
  explicit HitScan(const Geometry& geometry);

  // The next chunk has all shards of the groups in `groups` (bit g: group g).
  void feed(std::uint64_t groups) {
    if (over_) return;
    ++fed_;
    // A full group that misses one chunk holds nowhere beyond it.
    if ((geometry_->full_groups() & ~groups) != 0) {
      over_ = true;
    } else if (runs_.empty() || rules_hold(groups)) {
      hit_ = fed_;
    }
  }

  // No chunk that follows can make the hit longer.
  [[nodiscard]] bool over() const { return over_; }
  [[nodiscard]] std::uint32_t hit() const { return hit_; }

 private:
  [[nodiscard]] bool rules_hold(std::uint64_t groups);

  const Geometry* geometry_;
  // Per group, how many chunks up to here have it. Empty when all groups are full.
  std::vector<std::uint32_t> runs_;
  std::uint32_t fed_ = 0;
  std::uint32_t hit_ = 0;
  bool over_ = false;
};

}  // namespace penstock
