#include "copy/tile.hpp"

#include <algorithm>

namespace penstock {
namespace {

/// Blocks up to this size are read best as they lie (seen with heads outermost: 0.95 of a plain
/// copy as a whole, 0.70 in halves), although two of them are more than a first cache.
constexpr std::uint64_t kWholeBlockBytesMax = std::uint64_t{32} << 10;
constexpr std::uint64_t kTileBytes = std::uint64_t{16} << 10;

/// Memory answers within the time that this takes to move.
constexpr std::uint64_t kAheadBytes = std::uint64_t{16} << 10;

/// What is read of a head, walking by head, while the next so much is on its way.
constexpr std::uint64_t kHeadTileBytes = std::uint64_t{4} << 10;

std::uint64_t tile_slots(const BlockShape& shape, Walk walk) noexcept {
  if (walk == Walk::by_head) {
    return std::clamp<std::uint64_t>(kHeadTileBytes / shape.run_bytes, 1, shape.slots);
  }
  return shape.block_bytes() <= kWholeBlockBytesMax
             ? shape.slots
             : std::clamp<std::uint64_t>(kTileBytes / shape.slot_bytes(), 1, shape.slots);
}

}  // namespace

Walk reading_walk(const BlockShape& shape) noexcept {
  const bool heads_outermost = shape.heads > 1 && shape.s_head > shape.s_slot;
  return heads_outermost && shape.block_bytes() > kWholeBlockBytesMax ? Walk::by_head
                                                                      : Walk::by_slot;
}

TileOrder::TileOrder(const BlockShape& shape, Walk walk, std::uint64_t piece_bytes,
                     std::uint64_t apart)
    : shape_(shape),
      slots_(tile_slots(shape, walk)),
      heads_(walk == Walk::by_head ? 1 : shape.heads),
      next_slot_(digest::fold_by(8 * shape.slot_bytes())),
      piece_bytes_(piece_bytes),
      tiles_ahead_(std::max<std::uint64_t>(kAheadBytes / (slots_ * shape.slot_bytes()), 1)) {
  if (walk == Walk::by_head) {
    return;
  }
  object_order_.reserve(slots_ * shape.slot_bytes() / piece_bytes);
  for (std::uint64_t slot = 0; slot < slots_; ++slot) {
    for (std::uint64_t head = 0; head < shape.heads; ++head) {
      const std::uint64_t run = slot * shape.s_slot + head * shape.s_head;
      for (std::uint64_t at = 0; at < shape.run_bytes; at += piece_bytes) {
        object_order_.push_back(run + at);
      }
    }
  }
  memory_order_ = object_order_;
  std::ranges::sort(memory_order_);
  if (apart != 0 && apart < memory_order_.back() && slots_ == shape.slots) {
    for (const std::uint64_t offset : object_order_) {
      memory_order_.push_back(offset + apart);
    }
    std::ranges::sort(memory_order_);
    tiles_ahead_ = (tiles_ahead_ + 1) / 2 * 2;
  }
}

}  // namespace penstock
