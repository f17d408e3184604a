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

/// Appends the tiles of slices of the same slots: one goes whole; of several, a block of each in
/// turn, or, walking by head, a head's part of a block.
void append_tiles(std::vector<Tile>& tiles, std::span<const Slice> side_by_side,
                  std::span<std::uint64_t* const> states, const BlockShape& shape,
                  const TileOrder& order) {
  const Slice& first = side_by_side.front();
  std::uint64_t done = 0;
  while (done < first.slots) {
    const std::uint64_t slot = (first.first_slot + done) % shape.slots;
    const std::uint64_t strip = std::min(shape.slots - slot, first.slots - done);
    const std::uint64_t block = (first.first_slot + done) / shape.slots;
    for (std::uint64_t head = 0; head < shape.heads; head += order.heads()) {
      for (std::size_t i = 0; i < side_by_side.size(); ++i) {
        const Slice& slice = side_by_side[i];
        std::byte* paged = slice.base +
                           static_cast<std::uint64_t>(slice.block_ids[block]) * shape.s_block +
                           slot * shape.s_slot + head * shape.s_head;
        std::byte* object = slice.object + done * shape.slot_bytes() + head * shape.run_bytes;
        for (std::uint64_t at = 0; at < strip; at += order.slots()) {
          const std::uint64_t slots = std::min(order.slots(), strip - at);
          tiles.push_back({.paged = paged + at * shape.s_slot,
                           .object = object + at * shape.slot_bytes(),
                           .head = head,
                           .bytes = slots * order.heads() * shape.run_bytes,
                           .state = states[i],
                           .asked_from = paged + at * shape.s_slot,
                           .part = 0});
        }
      }
    }
    if (order.asks_for_both()) {
      tiles.back().asked_from = tiles[tiles.size() - 2].paged;
      tiles.back().part = 1;
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
  const TileKernel kernel =
      select_kernel(*request.layout, request.direction, stores, instructions_);
  const TileOrder order(plan.shape(), kernel.walk, kernel.piece_bytes, plan.apart());

  std::vector<std::uint64_t> slices(plan.slices());
  pool_.run(plan.groups(), plan.bytes() / kThreadBytesMin + 1,
            [&](std::size_t group) { move_group(plan, group, kernel.move, order, slices); });
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

void Copier::move_group(const CopyPlan& plan, std::uint64_t group, MoveTiles move,
                        const TileOrder& order, std::span<std::uint64_t> digests) const {
  const std::uint64_t first = group * plan.slices_per_group();
  const std::uint64_t last = std::min(first + plan.slices_per_group(), plan.slices());
  std::vector<Tile> tiles;
  std::vector<Slice> side_by_side(plan.woven());
  std::vector<std::uint64_t*> states(plan.woven());
  for (std::uint64_t place = first; place < last; place += plan.woven()) {
    for (std::uint64_t i = 0; i < plan.woven(); ++i) {
      const std::uint64_t index = plan.digest_index(place + i);
      const CopyPlan::Part part = plan.part(index);
      side_by_side[i] = part.moved;
      states[i] = &digests[index];
      digests[index] =
          digest_in_place(part.skipped, part.skipped_bytes, digest::kAllOnes, instructions_);
    }
    append_tiles(tiles, side_by_side, states, plan.shape(), order);
  }
  if (!tiles.empty()) {
    move(order, tiles);
  }
  for (std::uint64_t place = first; place < last; ++place) {
    std::uint64_t& digest = digests[plan.digest_index(place)];
    digest = ~digest;
  }
}

void Copier::require_usable() const {
  if (!pool_.usable()) {
    throw CopyRefused("a copier does not survive fork: make a new one in this process");
  }
}

}  // namespace penstock
