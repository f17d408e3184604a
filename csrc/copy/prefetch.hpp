// Asking for paged blocks ahead of time.
//
// Engines scatter blocks, and the CPU's own prefetcher starts anew in each. Where heads are
// outermost, blocks are asked for in the order of memory and not of the object, which keeps that
// prefetcher going (seen with consecutive blocks of 16 slots: 0.7 of a plain copy in the object's
// order, 0.9 in that of memory).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "copy/cursor.hpp"

namespace penstock {

/// Runs ahead of the moves over all slices of a group.
///
/// Where the object's order is that of memory: a few KiB ahead. Where it is not: a tile ahead. A
/// tile that is too large for the first cache waits in the second one, and is asked for again from
/// there, in the object's order.
template <std::uint64_t kPieceBytes>
class Prefetcher {
 public:
  Prefetcher(const BlockShape& shape, std::span<const Slice> slices) noexcept
      : tile_bytes_(lies_by_heads(shape) ? tile_slots(shape) * shape.slot_bytes() : 0),
        objects_(shape, slices),
        tiles_(shape, slices) {
    for (std::uint64_t i = tile_bytes_ / kPieceBytes; i != 0; --i) {
      step_tiles();
    }
    for (std::uint64_t i = kAheadBytes / kPieceBytes; i != 0; --i) {
      step_objects();
    }
  }

  /// One piece more.
  void step() noexcept {
    step_tiles();
    step_objects();
  }

 private:
  static constexpr std::uint64_t kLineBytes = 64;
  static constexpr std::uint64_t kAheadBytes = std::uint64_t{4} << 10;
  static constexpr std::uint64_t kFirstCacheBytes = std::uint64_t{32} << 10;

  void step_tiles() noexcept {
    if (tile_bytes_ > kFirstCacheBytes) {
      ask<kKeep>(tiles_.next());
    } else if (tile_bytes_ != 0) {
      ask<kReadOnce>(tiles_.next());
    }
  }

  void step_objects() noexcept {
    if (tile_bytes_ > kFirstCacheBytes || tile_bytes_ == 0) {
      ask<kReadOnce>(objects_.next());
    }
  }

  // The last argument of __builtin_prefetch.
  static constexpr int kReadOnce = 0;  // not worth a place in the caches below the first
  static constexpr int kKeep = 3;

  template <int kLocality>
  static void ask(const std::byte* piece) noexcept {
    if (piece != nullptr) {
      for (std::uint64_t at = 0; at < kPieceBytes; at += kLineBytes) {
        __builtin_prefetch(piece + at, 0, kLocality);
      }
    }
  }

  std::uint64_t tile_bytes_;  // 0: no tiles
  GroupWalk<ObjectWalk, kPieceBytes> objects_;
  GroupWalk<TileWalk, kPieceBytes> tiles_;
};

/// The paged side of a get is written, not read: there is nothing to ask for.
struct NoPrefetcher {
  NoPrefetcher(const BlockShape& /*shape*/, std::span<const Slice> /*slices*/) noexcept {}
  void step() noexcept {}
};

}  // namespace penstock
