#include "copy/copier.hpp"

#include <algorithm>
#include <string>

#include "copy/cache_size.hpp"
#include "copy/plan.hpp"
#include "core/digest.hpp"
#include "core/digest_math.hpp"

namespace penstock {
namespace {

/// Waking a thread costs some microseconds: it should find this much to do.
constexpr std::uint64_t kThreadBytesMin = std::uint64_t{128} << 10;

CopierOptions checked(const CopierOptions& options) {
  if (options.threads == 0) {
    throw CopyRefused("no threads: a copier has at least one, the caller's");
  }
  if (options.instructions > widest_instructions()) {
    throw CopyRefused("this CPU lacks the instructions asked for");
  }
  return options;
}

}  // namespace

Copier::Copier(const CopierOptions& options)
    : instructions_(checked(options).instructions),
      streaming_bytes_min_(options.streaming_bytes_min != 0 ? options.streaming_bytes_min
                                                            : last_level_cache_bytes()),
      pool_(options.threads) {}

std::vector<std::uint64_t> Copier::copy(const CopyRequest& request) {
  require_usable();
  check_request(request);
  const CopyPlan plan(request, threads());
  const Stores stores = plan.bytes() >= streaming_bytes_min_ ? Stores::streaming : Stores::cached;
  const SliceKernel kernel =
      select_kernel(*request.layout, request.direction, stores, instructions_);

  std::vector<std::uint64_t> slices(plan.slices());
  pool_.run(plan.groups(), plan.bytes() / kThreadBytesMin + 1,
            [&](std::size_t group) { move_group(plan, group, kernel, slices); });
  if (plan.slices_per_run() == 1) {
    return slices;
  }
  const Crc64Joiner whole(plan.slice_bytes());
  const Crc64Joiner last(plan.last_slice_bytes());
  std::vector<std::uint64_t> runs(plan.runs());
  for (std::uint64_t run = 0; run < plan.runs(); ++run) {
    const auto parts =
        std::span(slices).subspan(run * plan.slices_per_run(), plan.slices_per_run());
    std::uint64_t crc = 0;
    for (const std::uint64_t part : parts.first(parts.size() - 1)) {
      crc = whole.join(crc, part);
    }
    runs[run] = last.join(crc, parts.back());
  }
  return runs;
}

void Copier::move_group(const CopyPlan& plan, std::uint64_t group, SliceKernel kernel,
                        std::span<std::uint64_t> digests) const {
  const std::uint64_t first = group * plan.slices_per_group();
  const std::uint64_t last = std::min(first + plan.slices_per_group(), plan.slices());
  std::vector<Slice> moved;
  moved.reserve(last - first);
  for (std::uint64_t index = first; index < last; ++index) {
    CopyPlan::Part part = plan.part(index);
    part.moved.state =
        digest_in_place(part.skipped, part.skipped_bytes, digest::kAllOnes, instructions_);
    digests[index] = ~part.moved.state;
    if (part.moved.slots != 0) {
      moved.push_back(part.moved);
    }
  }
  if (moved.empty()) {
    return;
  }
  kernel(plan.shape(), moved);
  // Only leading blocks are skipped: what was moved are the last slices of the group.
  const auto tail = digests.subspan(last - moved.size(), moved.size());
  std::ranges::transform(moved, tail.begin(), [](const Slice& slice) { return ~slice.state; });
}

void Copier::require_usable() const {
  if (!pool_.usable()) {
    throw CopyRefused("a copier does not survive fork: make a new one in this process");
  }
}

}  // namespace penstock
