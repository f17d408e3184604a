#include "copy/plan.hpp"

#include <algorithm>

namespace penstock {
namespace {

/// Small enough that threads end together, large enough that joining digests costs nothing.
constexpr std::uint64_t kGroupBytesMin = std::uint64_t{64} << 10;
constexpr std::uint64_t kGroupBytesMax = std::uint64_t{1} << 20;
constexpr std::uint64_t kGroupsPerThread = 8;

}  // namespace

CopyPlan::CopyPlan(const CopyRequest& request, std::size_t threads)
    : request_(request),
      slot_bytes_(request.layout->shape().slot_bytes()),
      run_slots_(request.layout->shape().slots * request.object_blocks()),
      run_bytes_(run_slots_ * slot_bytes_),
      runs_(request.objects.size() * request.runs_per_object()) {
  const std::uint64_t share = bytes() / (threads * kGroupsPerThread);
  const std::uint64_t group_bytes = std::clamp(share, kGroupBytesMin, kGroupBytesMax);
  slice_slots_ = std::clamp<std::uint64_t>(group_bytes / slot_bytes_, 1, run_slots_);
  const std::uint64_t block_slots = request.layout->shape().slots;
  if (slice_slots_ > block_slots) {
    slice_slots_ -= slice_slots_ % block_slots;  // whole blocks are read best
  }
  slices_per_run_ = (run_slots_ + slice_slots_ - 1) / slice_slots_;
  slices_per_group_ = std::max<std::uint64_t>(group_bytes / this->slice_bytes(), 1);
}

CopyPlan::Part CopyPlan::part(std::uint64_t index) const {
  const std::uint64_t run = index / slices_per_run_;
  const std::uint64_t object = run / request_.runs_per_object();
  const std::uint64_t run_in_object = run % request_.runs_per_object() +
                                      request_.layers.first * request_.layout->record().components;
  const std::uint64_t components = request_.layout->record().components;
  const std::uint64_t blocks = request_.object_blocks();
  const std::uint64_t first = index % slices_per_run_ * slice_slots_;
  const std::uint64_t last = std::min(first + slice_slots_, run_slots_);

  const std::uint64_t blocks_before = object * blocks;
  const std::uint64_t skipped_blocks =
      std::min(request_.skip_blocks - std::min(request_.skip_blocks, blocks_before), blocks);
  const std::uint64_t moved_from =
      std::clamp(skipped_blocks * request_.layout->shape().slots, first, last);

  // NOLINTNEXTLINE(performance-no-int-to-ptr): objects are named by address.
  auto* object_start = reinterpret_cast<std::byte*>(request_.objects[object].address);
  std::byte* run_start = object_start + run_in_object * run_bytes_;
  return {.skipped = run_start + first * slot_bytes_,
          .skipped_bytes = (moved_from - first) * slot_bytes_,
          .moved = {
              .base = request_.layout->base(run_in_object / components, run_in_object % components),
              .object = run_start + moved_from * slot_bytes_,
              .block_ids = request_.block_ids.data() + blocks_before,
              .first_slot = moved_from,
              .slots = last - moved_from,
              .state = 0}};
}

}  // namespace penstock
