#include "copy/copier.hpp"

#include <algorithm>
#include <array>
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

/// Which of a group's slices ends what a digest is of.
struct Ending {
  std::size_t slice;
  std::uint64_t digest;
};

/// Appends slices of the same slots. One goes whole; of two, a block of each in turn.
void append(std::vector<Slice>& moved, std::span<const Slice> side_by_side,
            const BlockShape& shape) {
  const std::uint64_t count = side_by_side.size();
  if (count == 1) {
    moved.push_back(side_by_side.front());
    return;
  }
  const std::uint64_t slots = side_by_side.front().slots;
  for (std::uint64_t done = 0; done < slots;) {
    const std::uint64_t at = side_by_side.front().first_slot + done;
    const std::uint64_t strip = std::min(shape.slots - at % shape.slots, slots - done);
    for (Slice slice : side_by_side) {
      slice.object += done * shape.slot_bytes();
      slice.first_slot += done;
      slice.slots = strip;
      slice.continues = done != 0 ? count : 0;
      moved.push_back(slice);
    }
    done += strip;
  }
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
  std::vector<Ending> endings;
  for (std::uint64_t place = first; place < last; place += plan.woven()) {
    std::array<Slice, 2> side_by_side{};
    for (std::uint64_t kv = 0; kv < plan.woven(); ++kv) {
      const std::uint64_t index = plan.digest_index(place + kv);
      const CopyPlan::Part part = plan.part(index);
      side_by_side.at(kv) = part.moved;
      side_by_side.at(kv).state =
          digest_in_place(part.skipped, part.skipped_bytes, digest::kAllOnes, instructions_);
      digests[index] = ~side_by_side.at(kv).state;
    }
    if (side_by_side.front().slots == 0) {
      continue;  // skipped, the one as well as the other
    }
    append(moved, std::span(side_by_side).first(plan.woven()), plan.shape());
    for (std::uint64_t kv = 0; kv < plan.woven(); ++kv) {
      endings.push_back(
          {.slice = moved.size() - plan.woven() + kv, .digest = plan.digest_index(place + kv)});
    }
  }
  if (!moved.empty()) {
    kernel(plan.shape(), moved);
  }
  for (const Ending& ending : endings) {
    digests[ending.digest] = ~moved[ending.slice].state;
  }
}

void Copier::require_usable() const {
  if (!pool_.usable()) {
    throw CopyRefused("a copier does not survive fork: make a new one in this process");
  }
}

}  // namespace penstock
