// What one copy call is asked to do, and everything that is refused before a byte moves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "copy/kernel.hpp"
#include "copy/layout.hpp"

namespace penstock {

/// A copy that would read or write what it must not. Nothing has been moved.
class CopyRefused : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// An object inside an arena. `offset` is a multiple of kExtentAlign; `bytes` is the object's exact
/// size. The digest is not looked at here.
struct ObjectExtent {
  std::uint64_t offset;
  std::uint64_t bytes;
  std::uint64_t digest;
};

/// An object at an address of this process, a multiple of kObjectAlign.
struct ObjectAddress {
  std::uint64_t address;
  std::uint64_t bytes;
};

inline constexpr std::uint64_t kExtentAlign = 4096;
inline constexpr std::uint64_t kObjectAlign = 64;  // what streaming stores need

/// Layers first <= layer < last of the group.
struct LayerRange {
  std::uint64_t first;
  std::uint64_t last;
};

/// Objects are consecutive chunks of one prompt, and all have the same number of blocks.
struct CopyRequest {
  Direction direction;
  const PagedLayout* layout;
  std::vector<ObjectAddress> objects;
  std::span<const std::int64_t> block_ids;  // object by object, skipped ones included
  std::uint64_t skip_blocks;                // of all the blocks together, from the first
  LayerRange layers;

  [[nodiscard]] std::uint64_t object_blocks() const noexcept {
    return block_ids.size() / objects.size();
  }
  [[nodiscard]] std::uint64_t runs_per_object() const noexcept {
    return (layers.last - layers.first) * layout->record().components;
  }
};

/// Extents to addresses. Throws CopyRefused for an extent that is misaligned or outside the arena.
[[nodiscard]] std::vector<ObjectAddress> addresses_in(std::span<const std::byte> arena,
                                                      std::span<const ObjectExtent> extents);

/// Throws CopyRefused unless all of this holds:
/// - there is an object, and the same number of blocks, at least one, for each;
/// - each object is aligned, exactly as long as the layout says, apart from the others and from the
///   paged memory;
/// - the layers are not none and within the layout; no more blocks are skipped than there are;
/// - every id that is not skipped is within the layout; when blocks are written, none comes twice.
void check_request(const CopyRequest& request);

}  // namespace penstock
