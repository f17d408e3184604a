// Walks over the head runs of a slice in the object's order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "copy/kernel.hpp"

namespace penstock {

/// Yields the addresses of consecutive pieces of `kPieceBytes`, which divides the head runs. It
/// does not know where the slice ends: the caller counts. Block ids are read one block ahead at
/// most.
template <std::uint64_t kPieceBytes>
class PieceCursor {
 public:
  PieceCursor(const BlockShape& shape, const Slice& slice) noexcept
      : shape_(shape),
        base_(slice.base),
        ids_(slice.block_ids + slice.first_slot / shape.slots),
        ids_end_(slice.block_ids + (slice.first_slot + slice.slots - 1) / shape.slots + 1),
        slot_(slice.first_slot % shape.slots) {
    enter_block();
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
    if (++head_ != shape_.heads) {
      enter_run(run_ + shape_.s_head);
      return;
    }
    head_ = 0;
    if (++slot_ != shape_.slots) {
      slot_start_ += shape_.s_slot;
      enter_run(slot_start_);
      return;
    }
    slot_ = 0;
    if (++ids_ != ids_end_) {
      enter_block();
    }
  }

  void enter_block() noexcept {
    slot_start_ =
        base_ + static_cast<std::uint64_t>(*ids_) * shape_.s_block + slot_ * shape_.s_slot;
    enter_run(slot_start_);
  }

  void enter_run(std::byte* run) noexcept {
    at_ = run_ = run;
    run_end_ = run + shape_.run_bytes;
  }

  const BlockShape shape_;
  std::byte* const base_;
  const std::int64_t* ids_;
  const std::int64_t* const ids_end_;
  std::uint64_t slot_;
  std::uint64_t head_ = 0;
  std::byte* at_ = nullptr;
  std::byte* run_ = nullptr;
  std::byte* run_end_ = nullptr;
  std::byte* slot_start_ = nullptr;
};

}  // namespace penstock
