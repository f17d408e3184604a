// How one copy call is cut into slices for the threads.
#pragma once

#include <cstdint>

#include "copy/request.hpp"

namespace penstock {

/// Consecutive slots of one (layer, kv) run.
struct Slice {
  std::byte* base;                // of the layer and component
  std::byte* object;              // where the first slot is in the object
  const std::int64_t* block_ids;  // of the whole run; all within the layout
  std::uint64_t first_slot;       // counted from the start of the run
  std::uint64_t slots;
};

/// Runs are cut by slots, all runs of a call alike, and every slice has a digest: [run][slice]. A
/// thread takes a group of slices at a time, so that many small ones are moved at the speed of few
/// large ones. Where K and V of a block are neighbours in memory, a group takes both in turn, block
/// by block.
class CopyPlan {
 public:
  CopyPlan(const CopyRequest& request, std::size_t threads);

  [[nodiscard]] const BlockShape& shape() const noexcept { return request_.layout->shape(); }
  [[nodiscard]] std::uint64_t slices() const noexcept { return runs_ * slices_per_run_; }
  [[nodiscard]] std::uint64_t slices_per_run() const noexcept { return slices_per_run_; }
  [[nodiscard]] std::uint64_t slices_per_group() const noexcept { return slices_per_group_; }
  [[nodiscard]] std::uint64_t groups() const noexcept {
    return (slices() + slices_per_group_ - 1) / slices_per_group_;
  }
  [[nodiscard]] std::uint64_t runs() const noexcept { return runs_; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return runs_ * run_bytes_; }
  [[nodiscard]] std::uint64_t slice_bytes() const noexcept { return slice_slots_ * slot_bytes_; }
  [[nodiscard]] std::uint64_t last_slice_bytes() const noexcept {
    return run_bytes_ - (slices_per_run_ - 1) * slice_bytes();
  }

  /// What a group's place in order means as a place among the digests.
  [[nodiscard]] std::uint64_t digest_index(std::uint64_t place) const noexcept;
  /// How many places in a row, 1 or 2, are moved in turn.
  [[nodiscard]] std::uint64_t woven() const noexcept { return apart_ != 0 ? 2 : 1; }
  /// How far after K the V of a block lies, if they are moved in turn; else 0.
  [[nodiscard]] std::uint64_t apart() const noexcept { return apart_; }

  /// One slice: what stays where it is and is only digested, then what is moved.
  struct Part {
    const std::byte* skipped;
    std::uint64_t skipped_bytes;
    Slice moved;
  };
  [[nodiscard]] Part part(std::uint64_t digest_index) const;

 private:
  const CopyRequest& request_;
  std::uint64_t slot_bytes_;
  std::uint64_t run_slots_;
  std::uint64_t run_bytes_;
  std::uint64_t runs_;
  std::uint64_t slice_slots_;
  std::uint64_t slices_per_run_;
  std::uint64_t slices_per_group_;
  std::uint64_t apart_;
};

}  // namespace penstock
