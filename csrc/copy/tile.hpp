// The order in which the head runs of a block are visited.
//
// A block is taken in tiles: some consecutive slots, small enough that the first cache holds one
// while the next comes in. One a few KiB further on is asked for while a tile is moved: engines
// scatter blocks.
//
// Walking by slot, a tile has all heads of its slots and is moved in the order of the object, while
// the later one is asked for in the order of memory: where heads are outermost the CPU's own
// prefetcher loses its way in the object's order. Both orders are the same in every tile, so they
// are laid down once per call, as offsets.
//
// Where heads are outermost in a large block, memory gives less the more places it is read at in
// turn. Walking by head, a tile is of one head, and a head's slots are read to the end of the block
// before the next head's; what is scattered then is what is written, which costs less as long as
// whole lines are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "copy/layout.hpp"
#include "core/digest_math.hpp"

namespace penstock {

enum class Walk : std::uint8_t { by_slot, by_head };

/// How blocks are read best.
[[nodiscard]] Walk reading_walk(const BlockShape& shape) noexcept;

class TileOrder {
 public:
  /// `piece_bytes`, what a kernel moves in one go, divides the head runs of `shape`. Two tiles may
  /// be moved in turn, the second `apart` bytes after the first; 0: they are not.
  TileOrder(const BlockShape& shape, Walk walk, std::uint64_t piece_bytes, std::uint64_t apart);

  [[nodiscard]] const BlockShape& shape() const noexcept { return shape_; }
  /// At most so many slots are in a tile, and exactly so many heads.
  [[nodiscard]] std::uint64_t slots() const noexcept { return slots_; }
  [[nodiscard]] std::uint64_t heads() const noexcept { return heads_; }
  /// What continues a digest by one slot.
  [[nodiscard]] digest::FoldBy next_slot() const noexcept { return next_slot_; }
  [[nodiscard]] std::uint64_t piece_bytes() const noexcept { return piece_bytes_; }

  /// Walking by slot: where each piece lies, from the first slot of the tile. Fewer slots are the
  /// first so many of them.
  [[nodiscard]] const std::uint64_t* object_order() const noexcept { return object_order_.data(); }
  /// The same, lowest address first. Of two tiles moved in turn that are whole blocks and lie
  /// within each other (K and V of each head side by side), both together: the lower half of them
  /// is part 0, the upper one part 1.
  [[nodiscard]] const std::uint64_t* memory_order(std::uint64_t part) const noexcept {
    return memory_order_.data() + part * object_order_.size();
  }
  [[nodiscard]] bool asks_for_both() const noexcept {
    return memory_order_.size() != object_order_.size();
  }

  /// How many tiles ahead of the moves a tile is asked for.
  [[nodiscard]] std::uint64_t tiles_ahead() const noexcept { return tiles_ahead_; }

 private:
  BlockShape shape_;
  std::uint64_t slots_;
  std::uint64_t heads_;
  digest::FoldBy next_slot_;
  std::uint64_t piece_bytes_;
  std::uint64_t tiles_ahead_;
  std::vector<std::uint64_t> object_order_;
  std::vector<std::uint64_t> memory_order_;
};

}  // namespace penstock
