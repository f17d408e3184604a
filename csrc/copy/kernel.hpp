// Moving part of one (layer, kv) run and digesting it in the same pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "copy/layout.hpp"
#include "copy/tile.hpp"

namespace penstock {

enum class Direction : std::uint8_t {
  to_objects,  // a put: paged blocks -> objects
  to_paged,    // a get: objects -> paged blocks
};

/// How the destination is written.
enum class Stores : std::uint8_t {
  cached,     // it will be read again soon, and fits
  streaming,  // past the caches: for more bytes than these hold
};

/// Which instructions may be used. Each includes the ones before it.
enum class Instructions : std::uint8_t { portable, pclmul, vpclmul512 };

/// The widest that this CPU has.
[[nodiscard]] Instructions widest_instructions() noexcept;

/// Consecutive slots of one block: at most as many as a tile of the order has, and as many heads.
struct Tile {
  std::byte* paged;             // where its first slot is
  std::byte* object;            // and where that is in the object
  std::uint64_t head;           // the first
  std::uint64_t bytes;          // at least one slot
  std::uint64_t* state;         // the digest register, which is continued over the tile's bytes
  const std::byte* asked_from;  // what the order's memory_order(part) counts from, for this tile
  std::uint64_t part;
};

/// Moves tiles one after the other.
using MoveTiles = void (*)(const TileOrder&, std::span<const Tile>);

/// What it moves, and in what order.
struct TileKernel {
  MoveTiles move;
  std::uint64_t piece_bytes;
  Walk walk = Walk::by_slot;
};

/// The fastest kernel whose instructions are allowed and whose step divides the head runs.
/// Streaming is dropped where the destination is not aligned for it. `instructions` must be
/// available here.
[[nodiscard]] TileKernel select_kernel(const PagedLayout& layout, Direction direction,
                                       Stores stores, Instructions instructions);

/// Continues the digest register over bytes that stay where they are.
[[nodiscard]] std::uint64_t digest_in_place(const std::byte* data, std::uint64_t bytes,
                                            std::uint64_t state, Instructions instructions);

namespace kernels {

/// Bytes per step; head runs must be a multiple.
inline constexpr std::uint64_t kStepPclmul = 16;
inline constexpr std::uint64_t kStepVpclmul512 = 64;

[[nodiscard]] TileKernel portable(Direction direction, std::uint64_t run_bytes,
                                  Instructions digest);
#if defined(__x86_64__)
[[nodiscard]] TileKernel pclmul(Direction direction, Stores stores, const BlockShape& shape);
[[nodiscard]] TileKernel vpclmul512(Direction direction, Stores stores, const BlockShape& shape);
#endif

}  // namespace kernels
}  // namespace penstock
