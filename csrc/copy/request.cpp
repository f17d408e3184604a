#include "copy/request.hpp"

#include <algorithm>
#include <string>

namespace penstock {
namespace {

std::string text(std::uint64_t number) {
  return std::to_string(number);
}

void require(bool good, const char* what, const std::string& detail) {
  if (!good) {
    throw CopyRefused(std::string(what) + ": " + detail);
  }
}

void check_counts(const CopyRequest& request) {
  const std::uint64_t layers = request.layout->record().layers;
  require(!request.objects.empty(), "no objects", "a copy moves at least one");
  require(!request.block_ids.empty() && request.block_ids.size() % request.objects.size() == 0,
          "blocks do not fit the objects",
          text(request.block_ids.size()) + " block ids for " + text(request.objects.size()) +
              " objects; every object has the same number of blocks, skipped ones included");
  require(request.layers.first < request.layers.last && request.layers.last <= layers,
          "layers outside the group",
          "first " + text(request.layers.first) + ", last (excluded) " + text(request.layers.last) +
              " of " + text(layers));
  require(request.skip_blocks <= request.block_ids.size(), "more blocks skipped than there are",
          text(request.skip_blocks) + " of " + text(request.block_ids.size()));
}

void check_objects(const CopyRequest& request) {
  const std::uint64_t wanted = request.layout->object_bytes(request.object_blocks());
  for (const ObjectAddress& object : request.objects) {
    require(object.bytes == wanted, "object of the wrong size",
            text(object.bytes) + " bytes given, " + text(wanted) + " bytes needed for " +
                text(request.object_blocks()) + " blocks of this layout");
    require(object.address != 0 && object.address % kObjectAlign == 0, "misaligned object",
            "address " + text(object.address) + " is not a multiple of " + text(kObjectAlign));
    require(object.bytes <= ~object.address, "object outside memory",
            "address " + text(object.address) + ", " + text(object.bytes) + " bytes");
    require(!request.layout->overlaps(object.address, object.bytes),
            "object inside the paged memory", "address " + text(object.address));
  }
  std::vector<std::uint64_t> starts(request.objects.size());
  std::ranges::transform(request.objects, starts.begin(), &ObjectAddress::address);
  std::ranges::sort(starts);
  for (std::size_t i = 1; i < starts.size(); ++i) {
    require(starts[i] - starts[i - 1] >= wanted, "objects overlap",
            "addresses " + text(starts[i - 1]) + " and " + text(starts[i]) + ", each of " +
                text(wanted) + " bytes");
  }
}

void check_block_ids(const CopyRequest& request) {
  const auto used = request.block_ids.subspan(request.skip_blocks);
  const std::uint64_t blocks = request.layout->record().blocks;
  bool increasing = true;
  for (std::size_t i = 0; i < used.size(); ++i) {
    require(used[i] >= 0 && static_cast<std::uint64_t>(used[i]) < blocks, "block id out of range",
            "id " + std::to_string(used[i]) + " at position " + text(request.skip_blocks + i) +
                ", and the layout has blocks 0 to " + text(blocks - 1));
    increasing = increasing && (i == 0 || used[i - 1] < used[i]);
  }
  if (request.direction == Direction::to_objects || increasing) {
    return;
  }
  std::vector<std::int64_t> sorted(used.begin(), used.end());
  std::ranges::sort(sorted);
  const auto twice = std::ranges::adjacent_find(sorted);
  require(twice == sorted.end(), "block written twice",
          "id " + (twice == sorted.end() ? std::string() : std::to_string(*twice)) +
              " comes more than once");
}

}  // namespace

std::vector<ObjectAddress> addresses_in(std::span<const std::byte> arena,
                                        std::span<const ObjectExtent> extents) {
  std::vector<ObjectAddress> objects;
  objects.reserve(extents.size());
  const auto base = reinterpret_cast<std::uint64_t>(arena.data());
  for (const ObjectExtent& extent : extents) {
    require(extent.offset % kExtentAlign == 0, "misaligned extent",
            "offset " + text(extent.offset) + " is not a multiple of " + text(kExtentAlign));
    require(extent.offset <= arena.size() && extent.bytes <= arena.size() - extent.offset,
            "extent outside the arena",
            "offset " + text(extent.offset) + ", " + text(extent.bytes) +
                " bytes, in an arena of " + text(arena.size()));
    objects.push_back({.address = base + extent.offset, .bytes = extent.bytes});
  }
  return objects;
}

void check_request(const CopyRequest& request) {
  check_counts(request);
  check_objects(request);
  check_block_ids(request);
}

}  // namespace penstock
