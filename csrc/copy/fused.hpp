// The fused kernel, written once and compiled for each instruction set.
//
// Each vector is loaded once, stored once, and folded into the digest while it is in a register.
// What limits it is memory, so paged blocks are asked for ahead of time (tile.hpp).
//
// The including file defines KV_FUSED_TARGET and a struct `Vector` in an unnamed namespace:
//   kBytes, Register, Lanes (four registers, oldest first);
//   load, store, stream, multiplier, fold, begin, finish.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "copy/kernel.hpp"
#include "core/digest_paths.hpp"

#if !defined(KV_FUSED_TARGET)
#error "define KV_FUSED_TARGET and struct Vector before including this file"
#endif

namespace penstock::kernels {
namespace {

inline constexpr std::uint64_t kLanes = 4;
inline constexpr digest::FoldBy kNextRound = digest::fold_by(8 * sizeof(Vector::Lanes));
inline constexpr digest::FoldBy kNextVector = digest::fold_by(8 * Vector::kBytes);

/// Asks for a piece ahead of time. It is read once: not worth a place in the caches below the
/// first.
template <std::uint64_t kPieceBytes>
inline void ask(const std::byte* piece) noexcept {
  constexpr std::uint64_t kLineBytes = 64;
  for (std::uint64_t at = 0; at < kPieceBytes; at += kLineBytes) {
    __builtin_prefetch(piece + at, 0, 0);
  }
}

/// Moves the vector at the same place of both sides, and returns it.
template <Direction kDirection, Stores kStores>
KV_FUSED_TARGET inline Vector::Register move_vector(std::byte* paged, std::byte* object) noexcept {
  const std::byte* source = kDirection == Direction::to_objects ? paged : object;
  std::byte* destination = kDirection == Direction::to_objects ? object : paged;
  const Vector::Register value = Vector::load(source);
  if constexpr (kStores == Stores::streaming) {
    Vector::stream(destination, value);
  } else {
    Vector::store(destination, value);
  }
  return value;
}

/// Moves one piece, and folds it in place of the oldest lanes.
template <Direction kDirection, Stores kStores, std::uint64_t kVectors>
KV_FUSED_TARGET inline void move_piece(std::byte* paged, std::byte* object, Vector::Register by,
                                       Vector::Register* oldest) noexcept {
  for (std::uint64_t i = 0; i < kVectors; ++i) {
    const Vector::Register value =
        move_vector<kDirection, kStores>(paged + i * Vector::kBytes, object + i * Vector::kBytes);
    oldest[i] = Vector::fold(oldest[i], by, value);
  }
}

/// `kVectors` of a piece: 1, 2 or 4. A round is one vector for each lane.
template <Direction kDirection, Stores kStores, std::uint64_t kVectors>
KV_FUSED_TARGET inline void move_tile(const TileOrder& order, const Tile& tile, const Tile& later,
                                      Vector::Lanes& lanes) noexcept {
  constexpr std::uint64_t kPieceBytes = kVectors * Vector::kBytes;
  constexpr std::uint64_t kRoundPieces = kLanes / kVectors;
  const std::uint64_t* from = order.object_order();
  const std::uint64_t* ask_for = order.memory_order(later.part);
  std::byte* object = tile.object;
  const Vector::Register by = Vector::multiplier(kNextRound);
  const std::uint64_t pieces = tile.bytes / kPieceBytes;
  const auto step = [&](Vector::Register* oldest) KV_FUSED_TARGET {
    if constexpr (kDirection == Direction::to_objects) {
      ask<kPieceBytes>(later.asked_from + *ask_for);
    }
    move_piece<kDirection, kStores, kVectors>(tile.paged + *from, object, by, oldest);
    ++from;
    ++ask_for;
    object += kPieceBytes;
  };
  Vector::Lanes held = lanes;
  for (std::uint64_t round = pieces / kRoundPieces; round != 0; --round) {
    for (std::uint64_t piece = 0; piece < kRoundPieces; ++piece) {
      step(held.lane + piece * kVectors);
    }
  }
  // Less than a round is left, which happens only where a piece is a vector or two.
  for (std::uint64_t left = pieces % kRoundPieces; left != 0; --left) {
    step(held.lane);
    std::rotate(held.lane, held.lane + kVectors % kLanes, held.lane + kLanes);
  }
  lanes = held;
}

template <Direction kDirection, Stores kStores, std::uint64_t kVectors>
KV_FUSED_TARGET void move_tiles(const TileOrder& order, std::span<const Tile> tiles) {
  constexpr std::uint64_t kPieceBytes = kVectors * Vector::kBytes;
  const std::size_t ahead = std::min<std::size_t>(order.tiles_ahead(), tiles.size());
  if constexpr (kDirection == Direction::to_objects) {
    for (const Tile& tile : tiles.first(ahead)) {
      for (std::uint64_t i = 0; i < tile.bytes / kPieceBytes; ++i) {
        ask<kPieceBytes>(tile.asked_from + order.memory_order(tile.part)[i]);
      }
    }
  }
  std::uint64_t* state = tiles.front().state;
  Vector::Lanes lanes = Vector::begin(*state);
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    const Tile& tile = tiles[i];
    if (tile.state != state) {
      *state = Vector::finish(lanes);
      state = tile.state;
      lanes = Vector::begin(*state);
    }
    const Tile& later = i + ahead < tiles.size() ? tiles[i + ahead] : tile;
    move_tile<kDirection, kStores, kVectors>(order, tile, later, lanes);
  }
  *state = Vector::finish(lanes);
  if constexpr (kStores == Stores::streaming) {
    _mm_sfence();
  }
}

/// A digest that is continued head by head: a lane for each vector of a slot, as they lie in the
/// object. Each is taken on by a slot at a time, and by as many slots as the others in the end.
class SlotLanes {
 public:
  explicit SlotLanes(std::uint64_t slot_bytes)
      : lines_((slot_bytes + kLineBytes - 1) / kLineBytes), bytes_(slot_bytes) {}

  [[nodiscard]] const std::uint64_t* state() const noexcept { return state_; }
  [[nodiscard]] std::byte* at(std::uint64_t offset) noexcept { return lines_[0].bytes + offset; }

  KV_FUSED_TARGET void begin(std::uint64_t* state) noexcept {
    state_ = state;
    std::ranges::fill(lines_, Line{});
    Vector::store(at(bytes_ - Vector::kBytes), Vector::begin(*state).lane[kLanes - 1]);
  }

  /// Writes the state back, if there is one.
  KV_FUSED_TARGET void finish() noexcept {
    if (state_ == nullptr) {
      return;
    }
    const Vector::Register by = Vector::multiplier(kNextVector);
    Vector::Lanes lanes = Vector::begin(0);
    Vector::Register& sum = lanes.lane[kLanes - 1];
    for (std::uint64_t offset = 0; offset < bytes_; offset += Vector::kBytes) {
      sum = Vector::fold(sum, by, Vector::load(at(offset)));
    }
    *state_ = Vector::finish(lanes);
    state_ = nullptr;
  }

 private:
  static constexpr std::uint64_t kLineBytes = 64;
  struct alignas(kLineBytes) Line {
    std::byte bytes[kLineBytes];
  };
  std::vector<Line> lines_;
  std::uint64_t bytes_;
  std::uint64_t* state_ = nullptr;
};

/// Moves the same piece of each slot of a tile of one head.
template <Stores kStores, std::uint64_t kVectors>
KV_FUSED_TARGET inline void move_column(const TileOrder& order, std::uint64_t slots,
                                        std::byte* paged, std::byte* object, const std::byte* asked,
                                        std::byte* lanes) noexcept {
  const Vector::Register by = Vector::multiplier(order.next_slot());
  const std::uint64_t s_slot = order.shape().s_slot;
  const std::uint64_t slot_bytes = order.shape().slot_bytes();
  Vector::Register held[kVectors];
  for (std::uint64_t i = 0; i < kVectors; ++i) {
    held[i] = Vector::load(lanes + i * Vector::kBytes);
  }
  for (; slots != 0; --slots) {
    ask<kVectors * Vector::kBytes>(asked);
    move_piece<Direction::to_objects, kStores, kVectors>(paged, object, by, held);
    paged += s_slot;
    object += slot_bytes;
    asked += s_slot;
  }
  for (std::uint64_t i = 0; i < kVectors; ++i) {
    Vector::store(lanes + i * Vector::kBytes, held[i]);
  }
}

/// Tiles of one head each. Only reads are worth it (tile.hpp).
template <Stores kStores, std::uint64_t kVectors>
KV_FUSED_TARGET void move_tiles_by_head(const TileOrder& order, std::span<const Tile> tiles) {
  const std::uint64_t run_bytes = order.shape().run_bytes;
  // Two digests may be continued in turn: a new one takes the place of the one not just continued.
  SlotLanes current(order.shape().slot_bytes());
  SlotLanes other(order.shape().slot_bytes());
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    const Tile& tile = tiles[i];
    if (tile.state != current.state()) {
      std::swap(current, other);
    }
    if (tile.state != current.state()) {
      current.finish();
      current.begin(tile.state);
    }
    const Tile& later = i + 1 < tiles.size() ? tiles[i + 1] : tile;
    for (std::uint64_t at = 0; at < run_bytes; at += kVectors * Vector::kBytes) {
      move_column<kStores, kVectors>(order, tile.bytes / run_bytes, tile.paged + at,
                                     tile.object + at, later.asked_from + at,
                                     current.at(tile.head * run_bytes + at));
    }
  }
  current.finish();
  other.finish();
  if constexpr (kStores == Stores::streaming) {
    _mm_sfence();
  }
}

template <Direction kDirection, Stores kStores, std::uint64_t kVectors>
TileKernel for_piece(const BlockShape& shape) {
  constexpr std::uint64_t kPieceBytes = kVectors * Vector::kBytes;
  if constexpr (kDirection == Direction::to_objects) {
    if (reading_walk(shape) == Walk::by_head) {
      return {.move = move_tiles_by_head<kStores, kVectors>,
              .piece_bytes = kPieceBytes,
              .walk = Walk::by_head};
    }
  }
  return {.move = move_tiles<kDirection, kStores, kVectors>,
          .piece_bytes = kPieceBytes,
          .walk = Walk::by_slot};
}

template <Direction kDirection, Stores kStores>
TileKernel for_shape(const BlockShape& shape) {
  if (shape.run_bytes % (4 * Vector::kBytes) == 0) {
    return for_piece<kDirection, kStores, 4>(shape);
  }
  if (shape.run_bytes % (2 * Vector::kBytes) == 0) {
    return for_piece<kDirection, kStores, 2>(shape);
  }
  return for_piece<kDirection, kStores, 1>(shape);
}

TileKernel fused(Direction direction, Stores stores, const BlockShape& shape) {
  if (direction == Direction::to_objects) {
    return stores == Stores::streaming ? for_shape<Direction::to_objects, Stores::streaming>(shape)
                                       : for_shape<Direction::to_objects, Stores::cached>(shape);
  }
  return stores == Stores::streaming ? for_shape<Direction::to_paged, Stores::streaming>(shape)
                                     : for_shape<Direction::to_paged, Stores::cached>(shape);
}

}  // namespace
}  // namespace penstock::kernels
