#include "copy/kernel.hpp"

#include <algorithm>
#include <cstring>

#include "core/cpu.hpp"
#include "core/digest_paths.hpp"

namespace penstock {
namespace {

using Update = std::uint64_t (*)(std::uint64_t, const std::byte*, std::size_t);

/// Words of 8, then 4, 2 and 1 bytes, behind what goes in pieces of 16. The sizes are constants, so
/// these are plain moves and no calls.
inline void copy_words(std::byte* destination, const std::byte* source,
                       std::uint64_t bytes) noexcept {
  for (; bytes >= 16; destination += 16, source += 16, bytes -= 16) {
    std::memcpy(destination, source, 16);
  }
  const auto move = [&]<std::size_t kWord>() {
    if ((bytes & kWord) != 0) {
      std::memcpy(destination, source, kWord);
      destination += kWord;
      source += kWord;
    }
  };
  move.template operator()<8>();
  move.template operator()<4>();
  move.template operator()<2>();
  move.template operator()<1>();
}

inline void copy_piece(std::byte* destination, const std::byte* source,
                       std::uint64_t bytes) noexcept {
  constexpr std::uint64_t kCallWorthBytes = 512;
  if (bytes >= kCallWorthBytes) {
    std::memcpy(destination, source, bytes);
  } else {
    copy_words(destination, source, bytes);
  }
}

/// Any head run, on any CPU: a tile is moved first and digested, on the object's side, while it is
/// in the cache.
template <Direction kDirection, Update kUpdate>
void move_tiles_portable(const TileOrder& order, std::span<const Tile> tiles) {
  for (const Tile& tile : tiles) {
    const std::uint64_t* offset = order.object_order();
    for (std::uint64_t done = 0; done < tile.bytes; done += order.piece_bytes(), ++offset) {
      if constexpr (kDirection == Direction::to_objects) {
        copy_piece(tile.object + done, tile.paged + *offset, order.piece_bytes());
      } else {
        copy_piece(tile.paged + *offset, tile.object + done, order.piece_bytes());
      }
    }
    *tile.state = kUpdate(*tile.state, tile.object, tile.bytes);
  }
}

template <Update kUpdate>
TileKernel portable_for(Direction direction, std::uint64_t run_bytes) {
  return {.move = direction == Direction::to_objects
                      ? move_tiles_portable<Direction::to_objects, kUpdate>
                      : move_tiles_portable<Direction::to_paged, kUpdate>,
          .piece_bytes = run_bytes};
}

}  // namespace

Instructions widest_instructions() noexcept {
  const CpuFeatures cpu = cpu_features();
  if (cpu.vpclmul512) {
    return Instructions::vpclmul512;
  }
  return cpu.pclmul ? Instructions::pclmul : Instructions::portable;
}

TileKernel kernels::portable(Direction direction, std::uint64_t run_bytes, Instructions digest) {
#if defined(__x86_64__)
  if (digest == Instructions::vpclmul512) {
    return portable_for<digest::update_vpclmul512>(direction, run_bytes);
  }
  if (digest == Instructions::pclmul) {
    return portable_for<digest::update_pclmul>(direction, run_bytes);
  }
#else
  static_cast<void>(digest);
#endif
  return portable_for<digest::update_table>(direction, run_bytes);
}

TileKernel select_kernel(const PagedLayout& layout, Direction direction, Stores stores,
                         Instructions instructions) {
#if defined(__x86_64__)
  const std::uint64_t run_bytes = layout.shape().run_bytes;
  const auto stores_at = [&](std::uint64_t step) {
    // Objects are aligned; blocks are where the engine put them.
    const bool aligned = direction == Direction::to_objects || layout.alignment() % step == 0;
    return aligned ? stores : Stores::cached;
  };
  if (instructions >= Instructions::vpclmul512 && run_bytes % kernels::kStepVpclmul512 == 0) {
    return kernels::vpclmul512(direction, stores_at(kernels::kStepVpclmul512), layout.shape());
  }
  if (instructions >= Instructions::pclmul && run_bytes % kernels::kStepPclmul == 0) {
    return kernels::pclmul(direction, stores_at(kernels::kStepPclmul), layout.shape());
  }
#else
  static_cast<void>(stores);
#endif
  return kernels::portable(direction, layout.shape().run_bytes, instructions);
}

std::uint64_t digest_in_place(const std::byte* data, std::uint64_t bytes, std::uint64_t state,
                              Instructions instructions) {
#if defined(__x86_64__)
  if (instructions >= Instructions::vpclmul512) {
    return digest::update_vpclmul512(state, data, bytes);
  }
  if (instructions >= Instructions::pclmul) {
    return digest::update_pclmul(state, data, bytes);
  }
#else
  static_cast<void>(instructions);
#endif
  return digest::update_table(state, data, bytes);
}

}  // namespace penstock
