// Walks over the head runs of a slice, in pieces of a size that divides them.
//
// Neither walk knows where the slice ends: the caller counts. They may step beyond it within the
// last block, and read no block id that is not the slice's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "copy/kernel.hpp"

namespace penstock {

/// Whether the order of memory is far from the object's: heads outermost.
[[nodiscard]] inline bool lies_by_heads(const BlockShape& shape) noexcept {
  return shape.heads > 1 && shape.s_slot < shape.s_head;
}

/// What is visited head by head: the whole block if half of a second cache holds it, else a part.
[[nodiscard]] inline std::uint64_t tile_slots(const BlockShape& shape) noexcept {
  constexpr std::uint64_t kWholeBytesMax = std::uint64_t{256} << 10;
  constexpr std::uint64_t kPartBytes = std::uint64_t{16} << 10;
  return shape.block_bytes() <= kWholeBytesMax
             ? shape.slots
             : std::clamp<std::uint64_t>(kPartBytes / shape.slot_bytes(), 1, shape.slots);
}

/// The blocks that a slice touches, in order.
class BlockCursor {
 public:
  BlockCursor(const BlockShape& shape, const Slice& slice) noexcept
      : base_(slice.base),
        s_block_(shape.s_block),
        id_(slice.block_ids + slice.first_slot / shape.slots),
        last_(slice.block_ids + (slice.first_slot + slice.slots - 1) / shape.slots) {}

  [[nodiscard]] std::byte* block() const noexcept {
    return base_ + static_cast<std::uint64_t>(*id_) * s_block_;
  }
  /// Stays at the last one.
  void advance() noexcept { id_ += id_ != last_ ? 1 : 0; }

 private:
  std::byte* base_;
  std::uint64_t s_block_;
  const std::int64_t* id_;
  const std::int64_t* last_;
};

/// Piece after piece as they are in the object: slot by slot.
template <std::uint64_t kPieceBytes>
class ObjectWalk {
 public:
  ObjectWalk(const BlockShape& shape, const Slice& slice) noexcept
      : shape_(&shape), blocks_(shape, slice), slot_(slice.first_slot % shape.slots) {
    enter_slot(blocks_.block() + slot_ * shape.s_slot);
  }

  [[nodiscard]] std::byte* next() noexcept {
    std::byte* piece = at_;
    at_ += kPieceBytes;
    if (at_ == run_end_) {
      next_run();
    }
    return piece;
  }

 private:
  void next_run() noexcept {
    if (++head_ != shape_->heads) {
      enter_run(run_ + shape_->s_head);
      return;
    }
    if (++slot_ != shape_->slots) {
      enter_slot(slot_start_ + shape_->s_slot);
      return;
    }
    slot_ = 0;
    blocks_.advance();
    enter_slot(blocks_.block());
  }

  void enter_slot(std::byte* slot_start) noexcept {
    head_ = 0;
    slot_start_ = slot_start;
    enter_run(slot_start);
  }

  void enter_run(std::byte* run) noexcept {
    at_ = run_ = run;
    run_end_ = run + shape_->run_bytes;
  }

  const BlockShape* shape_;
  BlockCursor blocks_;
  std::uint64_t slot_;
  std::uint64_t head_ = 0;
  std::byte* at_ = nullptr;
  std::byte* run_ = nullptr;
  std::byte* run_end_ = nullptr;
  std::byte* slot_start_ = nullptr;
};

/// Piece after piece as they lie in blocks whose heads are outermost and whose slots touch: in
/// tiles of some slots, each head's part of a tile in one go.
template <std::uint64_t kPieceBytes>
class TileWalk {
 public:
  TileWalk(const BlockShape& shape, const Slice& slice) noexcept
      : shape_(&shape),
        blocks_(shape, slice),
        slots_touch_(shape.s_slot == shape.run_bytes),
        slot_(slice.first_slot % shape.slots),
        slots_left_(slice.slots) {
    enter_tile();
  }

  [[nodiscard]] std::byte* next() noexcept {
    std::byte* piece = at_;
    at_ += kPieceBytes;
    if (at_ == run_end_) {
      next_run();
    }
    return piece;
  }

 private:
  void next_run() noexcept {
    if (!slots_touch_ && ++slot_in_part_ != slots_here_) {
      enter_run(run_ + shape_->s_slot);
      return;
    }
    if (++head_ != shape_->heads) {
      enter_part(part_ + shape_->s_head);
      return;
    }
    slot_ += slots_here_;
    slots_left_ -= slots_here_;
    if (slot_ == shape_->slots) {
      slot_ = 0;
      blocks_.advance();
    }
    enter_tile();
  }

  void enter_tile() noexcept {
    head_ = 0;
    slots_here_ = std::min({tile_slots(*shape_), shape_->slots - slot_, slots_left_});
    enter_part(blocks_.block() + slot_ * shape_->s_slot);
  }

  void enter_part(std::byte* part) noexcept {
    part_ = part;
    slot_in_part_ = 0;
    enter_run(part);
  }

  void enter_run(std::byte* run) noexcept {
    at_ = run_ = run;
    run_end_ = run + (slots_touch_ ? slots_here_ * shape_->run_bytes : shape_->run_bytes);
  }

  const BlockShape* shape_;
  BlockCursor blocks_;
  bool slots_touch_;          // a head's part of a tile is then one long run
  std::uint64_t slot_;        // the first of this tile
  std::uint64_t slots_left_;  // of the slice, from there on
  std::uint64_t slots_here_ = 0;
  std::uint64_t slot_in_part_ = 0;
  std::uint64_t head_ = 0;
  std::byte* at_ = nullptr;
  std::byte* run_ = nullptr;
  std::byte* run_end_ = nullptr;
  std::byte* part_ = nullptr;
};

/// A walk over slices that follow each other.
template <template <std::uint64_t> typename Walk, std::uint64_t kPieceBytes>
class GroupWalk {
 public:
  GroupWalk(const BlockShape& shape, std::span<const Slice> slices) noexcept
      : shape_(&shape), slices_(slices), walk_(shape, slices.front()), left_(pieces()) {}

  /// Null when all were visited.
  [[nodiscard]] std::byte* next() noexcept {
    if (left_ == 0 && !next_slice()) {
      return nullptr;
    }
    --left_;
    return walk_.next();
  }

 private:
  bool next_slice() noexcept {
    if (slices_.size() == 1) {
      return false;
    }
    slices_ = slices_.subspan(1);
    walk_ = Walk<kPieceBytes>(*shape_, slices_.front());
    left_ = pieces();
    return true;
  }

  [[nodiscard]] std::uint64_t pieces() const noexcept {
    return slices_.front().slots * shape_->slot_bytes() / kPieceBytes;
  }

  const BlockShape* shape_;
  std::span<const Slice> slices_;  // from the one that is walked
  Walk<kPieceBytes> walk_;
  std::uint64_t left_;
};

}  // namespace penstock
