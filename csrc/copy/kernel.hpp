// Moving part of one (layer, kv) run and digesting it in the same pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "copy/layout.hpp"

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

/// Consecutive slots of one (layer, kv) run.
struct Slice {
  std::byte* base;                // of the layer and component
  std::byte* object;              // where the first slot is in the object
  const std::int64_t* block_ids;  // of the whole run; all within the layout
  std::uint64_t first_slot;       // counted from the start of the run
  std::uint64_t slots;            // at least one
  std::uint64_t state;            // the digest register, which is continued over the slice's bytes
  std::uint64_t continues =
      0;  // how many slices back the register comes from instead; 0: it does not
};

/// The register that a slice of a group continues.
[[nodiscard]] inline std::uint64_t state_before(const Slice& slice) noexcept {
  return slice.continues == 0 ? slice.state : (&slice - slice.continues)->state;
}

/// Moves slices one after the other, each in object order.
using SliceKernel = void (*)(const BlockShape&, std::span<Slice>);

/// The fastest kernel whose instructions are allowed and whose step divides the head runs.
/// Streaming is dropped where the destination is not aligned for it. `instructions` must be
/// available here.
[[nodiscard]] SliceKernel select_kernel(const PagedLayout& layout, Direction direction,
                                        Stores stores, Instructions instructions);

/// Continues the digest register over bytes that stay where they are.
[[nodiscard]] std::uint64_t digest_in_place(const std::byte* data, std::uint64_t bytes,
                                            std::uint64_t state, Instructions instructions);

namespace kernels {

/// Bytes per step; head runs must be a multiple.
inline constexpr std::uint64_t kStepPclmul = 16;
inline constexpr std::uint64_t kStepVpclmul512 = 64;

[[nodiscard]] SliceKernel portable(Direction direction, Instructions digest);
#if defined(__x86_64__)
[[nodiscard]] SliceKernel pclmul(Direction direction, Stores stores, std::uint64_t run_bytes);
[[nodiscard]] SliceKernel vpclmul512(Direction direction, Stores stores, std::uint64_t run_bytes);
#endif

}  // namespace kernels
}  // namespace penstock
