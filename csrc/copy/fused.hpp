// The fused kernel, written once and compiled for each instruction set.
//
// Each vector is loaded once, stored once, and folded into the digest while it is in a register.
// What limits it is memory, so paged blocks are asked for ahead of time (prefetch.hpp).
//
// The including file defines KV_FUSED_TARGET and a struct `Vector` in an unnamed namespace:
//   kBytes, Register, Lanes (four registers, oldest first), Multiplier;
//   load, store, stream, multiplier, fold, begin, finish.
#pragma once

#include <immintrin.h>

#include <type_traits>

#include "copy/cursor.hpp"
#include "copy/prefetch.hpp"
#include "core/digest_paths.hpp"

#if !defined(KV_FUSED_TARGET)
#error "define KV_FUSED_TARGET and struct Vector before including this file"
#endif

namespace penstock::kernels {
namespace {

inline constexpr std::uint64_t kLanes = 4;

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

/// `kVectors` of a piece: 1, 2 or 4. A round is one vector for each lane.
template <Direction kDirection, Stores kStores, std::uint64_t kVectors, typename PrefetcherT>
KV_FUSED_TARGET std::uint64_t move_slice(const BlockShape& shape, const Slice& slice,
                                         PrefetcherT& prefetcher) {
  constexpr std::uint64_t kPieceBytes = kVectors * Vector::kBytes;
  constexpr std::uint64_t kRoundBytes = kLanes * Vector::kBytes;
  const std::uint64_t bytes = slice.slots * shape.slot_bytes();
  ObjectWalk<kPieceBytes> paged(shape, slice);
  std::byte* object = slice.object;

  Vector::Lanes lanes = Vector::begin(state_before(slice));
  const Vector::Register by = Vector::multiplier();
  for (std::uint64_t round = bytes / kRoundBytes; round != 0; --round, object += kRoundBytes) {
    for (std::uint64_t first = 0; first < kLanes; first += kVectors) {
      prefetcher.step();
      std::byte* piece = paged.next();
      for (std::uint64_t i = 0; i < kVectors; ++i) {
        const Vector::Register value = move_vector<kDirection, kStores>(
            piece + i * Vector::kBytes, object + (first + i) * Vector::kBytes);
        lanes.lane[first + i] = Vector::fold(lanes.lane[first + i], by, value);
      }
    }
  }
  std::uint64_t state = Vector::finish(lanes);

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

template <Direction kDirection, Stores kStores, std::uint64_t kVectors>
KV_FUSED_TARGET void move_slices(const BlockShape& shape, std::span<Slice> slices) {
  constexpr std::uint64_t kPieceBytes = kVectors * Vector::kBytes;
  std::conditional_t<kDirection == Direction::to_objects, Prefetcher<kPieceBytes>, NoPrefetcher>
      prefetcher(shape, slices);
  for (Slice& slice : slices) {
    slice.state = move_slice<kDirection, kStores, kVectors>(shape, slice, prefetcher);
  }
}

template <Direction kDirection, Stores kStores>
SliceKernel for_run(std::uint64_t run_bytes) {
  if (run_bytes % (4 * Vector::kBytes) == 0) {
    return move_slices<kDirection, kStores, 4>;
  }
  if (run_bytes % (2 * Vector::kBytes) == 0) {
    return move_slices<kDirection, kStores, 2>;
  }
  return move_slices<kDirection, kStores, 1>;
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
