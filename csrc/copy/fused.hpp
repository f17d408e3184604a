// The fused kernel, written once and compiled for each instruction set.
//
// Each vector is loaded once, stored once, and folded into the digest while it is in a register.
// What limits it is memory, so paged blocks are asked for ahead of time (tile.hpp).
//
// The including file defines KV_FUSED_TARGET and a struct `Vector` in an unnamed namespace:
//   kBytes, Register, Lanes (four registers, oldest first), Multiplier;
//   load, store, stream, multiplier, fold, begin, finish.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "copy/kernel.hpp"
#include "core/digest_paths.hpp"

#if !defined(KV_FUSED_TARGET)
#error "define KV_FUSED_TARGET and struct Vector before including this file"
#endif

namespace penstock::kernels {
namespace {

inline constexpr std::uint64_t kLanes = 4;

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
  const Vector::Register by = Vector::multiplier();
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

template <Direction kDirection, Stores kStores>
TileKernel for_run(std::uint64_t run_bytes) {
  if (run_bytes % (4 * Vector::kBytes) == 0) {
    return {.move = move_tiles<kDirection, kStores, 4>, .piece_bytes = 4 * Vector::kBytes};
  }
  if (run_bytes % (2 * Vector::kBytes) == 0) {
    return {.move = move_tiles<kDirection, kStores, 2>, .piece_bytes = 2 * Vector::kBytes};
  }
  return {.move = move_tiles<kDirection, kStores, 1>, .piece_bytes = Vector::kBytes};
}

TileKernel fused(Direction direction, Stores stores, std::uint64_t run_bytes) {
  if (direction == Direction::to_objects) {
    return stores == Stores::streaming
               ? for_run<Direction::to_objects, Stores::streaming>(run_bytes)
               : for_run<Direction::to_objects, Stores::cached>(run_bytes);
  }
  return stores == Stores::streaming ? for_run<Direction::to_paged, Stores::streaming>(run_bytes)
                                     : for_run<Direction::to_paged, Stores::cached>(run_bytes);
}

}  // namespace
}  // namespace penstock::kernels
