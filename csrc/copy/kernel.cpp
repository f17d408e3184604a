#include "copy/kernel.hpp"

#include <algorithm>
#include <cstring>

#include "core/cpu.hpp"
#include "core/digest_paths.hpp"

namespace penstock {
namespace {

using Update = std::uint64_t (*)(std::uint64_t, const std::byte*, std::size_t);

/// What the portable kernel moves before it digests it: small enough to be in the first cache
/// still.
constexpr std::uint64_t kTileBytes = std::uint64_t{16} << 10;

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

/// Any head run, on any CPU: tiles are moved first and digested, on the object's side, while they
/// are in the cache.
template <Direction kDirection, Update kUpdate>
std::uint64_t move_slice_portable(const BlockShape& shape, const Slice& slice) {
  std::uint64_t state = state_before(slice);
  std::byte* object = slice.object;
  std::byte* digested = slice.object;
  const auto digest_so_far = [&](std::uint64_t at_least) {
    const auto pending = static_cast<std::uint64_t>(object - digested);
    if (pending >= at_least) {
      state = kUpdate(state, digested, pending);
      digested = object;
    }
  };
  for (std::uint64_t slot = slice.first_slot; slot < slice.first_slot + slice.slots; ++slot) {
    const auto id = static_cast<std::uint64_t>(slice.block_ids[slot / shape.slots]);
    std::byte* run = slice.base + id * shape.s_block + slot % shape.slots * shape.s_slot;
    for (std::uint64_t head = 0; head < shape.heads; ++head, run += shape.s_head) {
      for (std::uint64_t at = 0; at < shape.run_bytes; at += kTileBytes) {
        const std::uint64_t bytes = std::min(kTileBytes, shape.run_bytes - at);
        if constexpr (kDirection == Direction::to_objects) {
          copy_piece(object, run + at, bytes);
        } else {
          copy_piece(run + at, object, bytes);
        }
        object += bytes;
        digest_so_far(kTileBytes);
      }
    }
  }
  digest_so_far(1);
  return state;
}

template <Direction kDirection, Update kUpdate>
void move_slices_portable(const BlockShape& shape, std::span<Slice> slices) {
  for (Slice& slice : slices) {
    slice.state = move_slice_portable<kDirection, kUpdate>(shape, slice);
  }
}

template <Update kUpdate>
SliceKernel portable_for(Direction direction) {
  return direction == Direction::to_objects ? move_slices_portable<Direction::to_objects, kUpdate>
                                            : move_slices_portable<Direction::to_paged, kUpdate>;
}

}  // namespace

Instructions widest_instructions() noexcept {
  const CpuFeatures cpu = cpu_features();
  if (cpu.vpclmul512) {
    return Instructions::vpclmul512;
  }
  return cpu.pclmul ? Instructions::pclmul : Instructions::portable;
}

SliceKernel kernels::portable(Direction direction, Instructions digest) {
#if defined(__x86_64__)
  if (digest == Instructions::vpclmul512) {
    return portable_for<digest::update_vpclmul512>(direction);
  }
  if (digest == Instructions::pclmul) {
    return portable_for<digest::update_pclmul>(direction);
  }
#else
  static_cast<void>(digest);
#endif
  return portable_for<digest::update_table>(direction);
}

SliceKernel select_kernel(const PagedLayout& layout, Direction direction, Stores stores,
                          Instructions instructions) {
#if defined(__x86_64__)
  const std::uint64_t run_bytes = layout.shape().run_bytes;
  const auto stores_at = [&](std::uint64_t step) {
    // Objects are aligned; blocks are where the engine put them.
    const bool aligned = direction == Direction::to_objects || layout.alignment() % step == 0;
    return aligned ? stores : Stores::cached;
  };
  if (instructions >= Instructions::vpclmul512 && run_bytes % kernels::kStepVpclmul512 == 0) {
    return kernels::vpclmul512(direction, stores_at(kernels::kStepVpclmul512), run_bytes);
  }
  if (instructions >= Instructions::pclmul && run_bytes % kernels::kStepPclmul == 0) {
    return kernels::pclmul(direction, stores_at(kernels::kStepPclmul), run_bytes);
  }
#else
  static_cast<void>(layout);
  static_cast<void>(stores);
#endif
  return kernels::portable(direction, instructions);
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
