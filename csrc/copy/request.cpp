#include "copy/request.hpp"

#include <algorithm>
#include <string>

#include "core/bitmap.hpp"

namespace penstock {
namespace {

std::string text(std::uint64_t number) {
  return std::to_string(number);
}

[[noreturn]] void refuse(const char* what, const std::string& detail) {
  throw CopyRefused(std::string(what) + ": " + detail);
}

void check_counts(const CopyRequest& request) {
  const std::uint64_t layers = request.layout->record().layers;
  if (request.objects.empty()) {
    refuse("no objects", "a copy moves at least one");
  }
  if (request.block_ids.empty() || request.block_ids.size() % request.objects.size() != 0) {
    refuse("blocks do not fit the objects",
           text(request.block_ids.size()) + " block ids for " + text(request.objects.size()) +
               " objects; every object has the same number of blocks, skipped ones included");
  }
  if (request.layers.first >= request.layers.last || request.layers.last > layers) {
    refuse("layers outside the group", "first " + text(request.layers.first) +
                                           ", last (excluded) " + text(request.layers.last) +
                                           " of " + text(layers));
  }
  if (request.skip_blocks > request.block_ids.size()) {
    refuse("more blocks skipped than there are",
           text(request.skip_blocks) + " of " + text(request.block_ids.size()));
  }
}

void check_objects(const CopyRequest& request) {
  const std::uint64_t wanted = request.layout->object_bytes(request.object_blocks());
  for (const ObjectAddress& object : request.objects) {
    if (object.bytes != wanted) {
      refuse("object of the wrong size", text(object.bytes) + " bytes given, " + text(wanted) +
                                             " bytes needed for " + text(request.object_blocks()) +
                                             " blocks of this layout");
    }
    if (object.address == 0 || object.address % kObjectAlign != 0) {
      refuse("misaligned object",
             "address " + text(object.address) + " is not a multiple of " + text(kObjectAlign));
    }
    if (object.bytes > ~object.address) {
      refuse("object outside memory",
             "address " + text(object.address) + ", " + text(object.bytes) + " bytes");
    }
    if (request.layout->overlaps(object.address, object.bytes)) {
      refuse("object inside the paged memory", "address " + text(object.address));
    }
  }
  std::vector<std::uint64_t> starts(request.objects.size());
  std::ranges::transform(request.objects, starts.begin(), &ObjectAddress::address);
  std::ranges::sort(starts);
  for (std::size_t i = 1; i < starts.size(); ++i) {
    if (starts[i] - starts[i - 1] < wanted) {
      refuse("objects overlap", "addresses " + text(starts[i - 1]) + " and " + text(starts[i]) +
                                    ", each of " + text(wanted) + " bytes");
    }
  }
}

void check_block_ids(const CopyRequest& request) {
  const auto used = request.block_ids.subspan(request.skip_blocks);
  const std::uint64_t blocks = request.layout->record().blocks;
  bool increasing = true;
  for (std::size_t i = 0; i < used.size(); ++i) {
    if (used[i] < 0 || static_cast<std::uint64_t>(used[i]) >= blocks) {
      refuse("block id out of range", "id " + std::to_string(used[i]) + " at position " +
                                          text(request.skip_blocks + i) +
                                          ", and the layout has blocks 0 to " + text(blocks - 1));
    }
    increasing = increasing && (i == 0 || used[i - 1] < used[i]);
  }
  if (request.direction == Direction::to_objects || increasing) {
    return;
  }
  // One bit a block; or sorting, for a few ids out of very many blocks.
  constexpr std::uint64_t kBlocksPerIdMax = 1024;
  if (blocks / kBlocksPerIdMax > used.size()) {
    std::vector<std::int64_t> sorted(used.begin(), used.end());
    std::ranges::sort(sorted);
    const auto twice = std::ranges::adjacent_find(sorted);
    if (twice != sorted.end()) {
      refuse("block written twice", "id " + std::to_string(*twice));
    }
    return;
  }
  Bitmap seen(blocks);
  for (const std::int64_t id : used) {
    const auto index = static_cast<std::uint64_t>(id);
    if (seen.test(index)) {
      refuse("block written twice", "id " + std::to_string(id));
    }
    seen.set(index);
  }
}

}  // namespace

std::vector<ObjectAddress> addresses_in(std::span<const std::byte> arena,
                                        std::span<const ObjectExtent> extents) {
  std::vector<ObjectAddress> objects;
  objects.reserve(extents.size());
  const auto base = reinterpret_cast<std::uint64_t>(arena.data());
  for (const ObjectExtent& extent : extents) {
    if (extent.offset % kExtentAlign != 0) {
      refuse("misaligned extent",
             "offset " + text(extent.offset) + " is not a multiple of " + text(kExtentAlign));
    }
    if (extent.offset > arena.size() || extent.bytes > arena.size() - extent.offset) {
      refuse("extent outside the arena", "offset " + text(extent.offset) + ", " +
                                             text(extent.bytes) + " bytes, in an arena of " +
                                             text(arena.size()));
    }
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
