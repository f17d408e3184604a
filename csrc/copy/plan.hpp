// How one copy call is cut into slices for the threads.
#pragma once

#include <cstdint>

#include "copy/request.hpp"

namespace penstock {

/// Runs are cut by slots, all runs of a call alike. Slice indices count slices of a run, then runs
/// of an object, then objects.
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

  /// One slice: what stays where it is and is only digested, then what is moved.
  struct Part {
    const std::byte* skipped;
    std::uint64_t skipped_bytes;
    Slice moved;
  };
  [[nodiscard]] Part part(std::uint64_t index) const;

 private:
  const CopyRequest& request_;
  std::uint64_t slot_bytes_;
  std::uint64_t run_slots_;
  std::uint64_t run_bytes_;
  std::uint64_t runs_;
  std::uint64_t slice_slots_;
  std::uint64_t slices_per_run_;
  std::uint64_t slices_per_group_;
};

}  // namespace penstock
