// The fused kernel, written once and compiled for each instruction set.
//
// Each vector is loaded once, stored once, and folded into the digest while it is in a register.
// What limits it is memory, so paged blocks are asked for ahead of time: engines scatter them, and
// the CPU's own prefetcher starts anew in every block.
//
// The including file defines KV_FUSED_TARGET and a struct `Vector` in an unnamed namespace:
//   kBytes, Register, Lanes (four registers, oldest first), Multiplier;
//   load, store, stream, multiplier, fold, begin, finish.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "copy/cursor.hpp"
#include "core/digest_paths.hpp"

#if !defined(KV_FUSED_TARGET)
#error "define KV_FUSED_TARGET and struct Vector before including this file"
#endif

namespace penstock::kernels {
namespace {

inline constexpr std::uint64_t kLanes = 4;
inline constexpr std::uint64_t kLineBytes = 64;
inline constexpr std::uint64_t kPrefetchBytes = 4096;

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

template <std::uint64_t kPieceBytes>
KV_FUSED_TARGET inline void prefetch_piece(const std::byte* piece) noexcept {
  for (std::uint64_t at = 0; at < kPieceBytes; at += kLineBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(piece + at), _MM_HINT_T0);
  }
}

/// `kVectors` of a piece: 1, 2 or 4. A round is one vector for each lane.
template <Direction kDirection, Stores kStores, std::uint64_t kVectors>
KV_FUSED_TARGET std::uint64_t move_slice(const BlockShape& shape, const Slice& slice,
                                         std::uint64_t state) {
  constexpr std::uint64_t kPieceBytes = kVectors * Vector::kBytes;
  constexpr std::uint64_t kRoundBytes = kLanes * Vector::kBytes;
  constexpr bool kPrefetch = kDirection == Direction::to_objects;
  const std::uint64_t bytes = slice.slots * shape.slot_bytes();
  PieceCursor<kPieceBytes> paged(shape, slice);
  PieceCursor<kPieceBytes> ahead(shape, slice);
  std::byte* object = slice.object;

  std::uint64_t to_prefetch = kPrefetch ? bytes / kPieceBytes : 0;
  const std::uint64_t head_start = std::min(to_prefetch, kPrefetchBytes / kPieceBytes);
  for (std::uint64_t i = 0; i < head_start; ++i, --to_prefetch) {
    prefetch_piece<kPieceBytes>(ahead.next());
  }
  Vector::Lanes lanes = Vector::begin(state);
  const Vector::Register by = Vector::multiplier();
  for (std::uint64_t round = bytes / kRoundBytes; round != 0; --round, object += kRoundBytes) {
    for (std::uint64_t first = 0; first < kLanes; first += kVectors) {
      if (kPrefetch && to_prefetch != 0) {
        --to_prefetch;
        prefetch_piece<kPieceBytes>(ahead.next());
      }
      std::byte* piece = paged.next();
      for (std::uint64_t i = 0; i < kVectors; ++i) {
        const Vector::Register value = move_vector<kDirection, kStores>(
            piece + i * Vector::kBytes, object + (first + i) * Vector::kBytes);
        lanes.lane[first + i] = Vector::fold(lanes.lane[first + i], by, value);
      }
    }
  }
  state = Vector::finish(lanes);

  // Less than a round is left, which happens only where a piece is a vector or two.
  for (std::uint64_t left = bytes % kRoundBytes; left != 0; left -= kPieceBytes) {
    std::byte* piece = paged.next();
    for (std::uint64_t i = 0; i < kVectors; ++i, object += Vector::kBytes) {
      alignas(Vector::kBytes) std::byte moved[Vector::kBytes];
      Vector::store(moved, move_vector<kDirection, kStores>(piece + i * Vector::kBytes, object));
      state = digest::update_pclmul(state, moved, sizeof moved);
    }
  }
  if constexpr (kStores == Stores::streaming) {
    _mm_sfence();
  }
  return state;
}

template <Direction kDirection, Stores kStores>
SliceKernel for_run(std::uint64_t run_bytes) {
  if (run_bytes % (4 * Vector::kBytes) == 0) {
    return move_slice<kDirection, kStores, 4>;
  }
  if (run_bytes % (2 * Vector::kBytes) == 0) {
    return move_slice<kDirection, kStores, 2>;
  }
  return move_slice<kDirection, kStores, 1>;
}

SliceKernel fused(Direction direction, Stores stores, std::uint64_t run_bytes) {
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
