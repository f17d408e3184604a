#include "core/geometry.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "core/extent_allocator.hpp"
#include "core/table_types.hpp"

namespace penstock {
namespace {

void check(const Group& group, std::size_t index) {
  const std::string where = "group " + std::to_string(index);
  if (group.shard_bytes.empty()) throw BadArgument(where + " has no shards; give shard_bytes");
  if (std::ranges::find(group.shard_bytes, 0U) != group.shard_bytes.end()) {
    throw BadArgument(where + " has a shard of 0 bytes; leave out shards without objects");
  }
  if (!group.shard_runs.empty() && group.shard_runs.size() != group.shard_bytes.size()) {
    throw BadArgument(where + ": shard_runs has " + std::to_string(group.shard_runs.size()) +
                      " entries for " + std::to_string(group.shard_bytes.size()) + " shards");
  }
  if (std::ranges::find(group.shard_runs, 0U) != group.shard_runs.end()) {
    throw BadArgument(where + " has a shard of 0 runs; an object has at least one");
  }
  if (group.rule == HitRule::window && group.window_chunks == 0) {
    throw BadArgument(where + " has a window of 0 chunks; give at least 1");
  }
}

}  // namespace

Geometry::Geometry(std::vector<Group> groups) : groups_(std::move(groups)) {
  if (groups_.empty() || groups_.size() > kGroupsMax) {
    throw BadArgument("a geometry of " + std::to_string(groups_.size()) + " groups: give 1 to " +
                      std::to_string(kGroupsMax));
  }
  for (std::size_t index = 0; index < groups_.size(); ++index) {
    const Group& group = groups_[index];
    check(group, index);
    all_groups_ |= 1ULL << index;
    if (group.rule == HitRule::full) full_groups_ |= 1ULL << index;
    for (std::size_t shard = 0; shard < group.shard_bytes.size(); ++shard) {
      const std::uint64_t bytes = group.shard_bytes[shard];
      const std::uint64_t pages = (bytes - 1) / kPageBytes + 1;
      if (pages > UINT32_MAX) {
        throw BadArgument("group " + std::to_string(index) + " has an object of " +
                          std::to_string(bytes) + " bytes: give less than 16 TiB");
      }
      slots_.push_back({bytes, static_cast<std::uint32_t>(pages),
                        group.shard_runs.empty() ? 1 : group.shard_runs[shard],
                        static_cast<std::uint32_t>(index)});
      pages_total_ += pages;
    }
  }
  if (slots_.size() > kSlotsMax) {
    throw BadArgument("a geometry of " + std::to_string(slots_.size()) + " objects a chunk: give " +
                      std::to_string(kSlotsMax) + " at most");
  }
  slot_count_ = static_cast<std::uint32_t>(slots_.size());
}

HitScan::HitScan(const Geometry& geometry) : geometry_(&geometry) {
  if (geometry.full_groups() != geometry.all_groups()) runs_.resize(geometry.groups().size());
}

bool HitScan::rules_hold(std::uint64_t groups) {
  bool hold = true;
  for (std::size_t index = 0; index < runs_.size(); ++index) {
    const Group& group = geometry_->groups()[index];
    const bool there = ((groups >> index) & 1U) != 0;
    runs_[index] = there ? runs_[index] + 1 : 0;
    if (group.rule == HitRule::window && runs_[index] < std::min(group.window_chunks, fed_)) {
      hold = false;
    }
    if (group.rule == HitRule::state && !there) hold = false;
  }
  return hold;
}

}  // namespace penstock
