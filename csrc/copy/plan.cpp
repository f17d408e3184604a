#include "copy/plan.hpp"

#include <algorithm>

namespace penstock {
namespace {

/// Small enough that threads end together, large enough that joining digests costs nothing.
constexpr std::uint64_t kGroupBytesMin = std::uint64_t{64} << 10;
constexpr std::uint64_t kGroupBytesMax = std::uint64_t{1} << 20;
constexpr std::uint64_t kGroupsPerThread = 8;

/// Below this, changing between K and V costs more than it gains.
constexpr std::uint64_t kWovenBlockBytesMin = std::uint64_t{8} << 10;

/// How far after K the V of a block lies, where that is within one block of memory, alike in all
/// layers, and read. Else 0.
std::uint64_t woven_apart(const CopyRequest& request) {
  const PagedLayout& layout = *request.layout;
  if (request.direction == Direction::to_paged || layout.record().components != 2 ||
      layout.shape().block_bytes() < kWovenBlockBytesMin) {
    return 0;
  }
  const auto apart_in = [&](std::uint64_t layer) {
    return layout.base(layer, 1) - layout.base(layer, 0);
  };
  const std::ptrdiff_t apart = apart_in(request.layers.first);
  if (apart <= 0 || static_cast<std::uint64_t>(apart) >= layout.shape().s_block) {
    return 0;
  }
  for (std::uint64_t layer = request.layers.first; layer < request.layers.last; ++layer) {
    if (apart_in(layer) != apart) {
      return 0;
    }
  }
  return static_cast<std::uint64_t>(apart);
}

}  // namespace

CopyPlan::CopyPlan(const CopyRequest& request, std::size_t threads)
    : request_(request),
      slot_bytes_(request.layout->shape().slot_bytes()),
      run_slots_(request.layout->shape().slots * request.object_blocks()),
      run_bytes_(run_slots_ * slot_bytes_),
      runs_(request.objects.size() * request.runs_per_object()),
      apart_(woven_apart(request)) {
  const std::uint64_t share = bytes() / (threads * kGroupsPerThread);
  const std::uint64_t group_bytes = std::clamp(share, kGroupBytesMin, kGroupBytesMax);
  slice_slots_ = std::clamp<std::uint64_t>(group_bytes / slot_bytes_, 1, run_slots_);
  const std::uint64_t block_slots = request.layout->shape().slots;
  if (slice_slots_ > block_slots) {
    slice_slots_ -= slice_slots_ % block_slots;  // whole blocks are read best
  }
  slices_per_run_ = (run_slots_ + slice_slots_ - 1) / slice_slots_;
  slices_per_group_ = std::max(group_bytes / this->slice_bytes() / woven() * woven(), woven());
}

std::uint64_t CopyPlan::digest_index(std::uint64_t place) const noexcept {
  // K and V of one layer are neighbouring runs: [pair][slice][kv] becomes [pair][kv][slice].
  const std::uint64_t pair = place / (woven() * slices_per_run_);
  const std::uint64_t in_pair = place % (woven() * slices_per_run_);
  return (pair * woven() + in_pair % woven()) * slices_per_run_ + in_pair / woven();
}

CopyPlan::Part CopyPlan::part(std::uint64_t digest_index) const {
  const std::uint64_t run = digest_index / slices_per_run_;
  const std::uint64_t object = run / request_.runs_per_object();
  const std::uint64_t run_in_object = run % request_.runs_per_object() +
                                      request_.layers.first * request_.layout->record().components;
  const std::uint64_t components = request_.layout->record().components;
  const std::uint64_t blocks = request_.object_blocks();
  const std::uint64_t first = digest_index % slices_per_run_ * slice_slots_;
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
              .slots = last - moved_from}};
}

}  // namespace penstock
