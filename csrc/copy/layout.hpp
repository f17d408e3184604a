// Where an engine keeps the KV of one layer group: base pointers and strides, nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

namespace penstock {

/// A declared layout that cannot be what an engine has.
class LayoutRefused : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// address(layer, kv, block, slot, head) =
///   bases[layer * components + kv] + block * s_block + slot * s_slot + head * s_head,
/// and from there head_bytes contiguous bytes. All strides are in bytes.
struct LayoutRecord {
  std::vector<std::uint64_t> bases;       // layer-major; addresses in this process
  std::vector<std::uint64_t> span_bytes;  // how much memory there is from each base on
  std::uint64_t layers = 0;
  std::uint64_t components = 0;   // 2: K and V; 1: both in one (MLA, fused), or an opaque state
  std::uint64_t blocks = 0;       // ids are 0 <= id < blocks
  std::uint64_t block_slots = 0;  // tokens in a block; 1 for an opaque state
  std::uint64_t heads = 0;
  std::uint64_t head_bytes = 0;
  std::uint64_t s_block = 0;
  std::uint64_t s_slot = 0;
  std::uint64_t s_head = 0;
};

/// The loops that are left of a block when neighbours are joined: heads that lie side by side are
/// one run, and so are slots.
struct BlockShape {
  std::uint64_t slots = 0;
  std::uint64_t heads = 0;
  std::uint64_t run_bytes = 0;
  std::uint64_t s_block = 0;
  std::uint64_t s_slot = 0;
  std::uint64_t s_head = 0;

  [[nodiscard]] std::uint64_t slot_bytes() const noexcept { return heads * run_bytes; }
  [[nodiscard]] std::uint64_t block_bytes() const noexcept { return slots * slot_bytes(); }
};

/// A checked layout. It owns no memory: the engine's tensors must outlive it.
class PagedLayout {
 public:
  /// Throws LayoutRefused when a count is zero, the bases are not layers * components many, a byte
  /// would belong to two (layer, kv, block, slot, head), or a block reaches beyond its span.
  explicit PagedLayout(LayoutRecord record);

  [[nodiscard]] const LayoutRecord& record() const noexcept { return record_; }
  [[nodiscard]] const BlockShape& shape() const noexcept { return shape_; }
  [[nodiscard]] std::byte* base(std::uint64_t layer, std::uint64_t kv) const noexcept;

  /// The (layer, kv) run of an object of `object_blocks` blocks; the object is layers * components
  /// of them. Throw LayoutRefused when that does not fit in 63 bits.
  [[nodiscard]] std::uint64_t run_bytes(std::uint64_t object_blocks) const;
  [[nodiscard]] std::uint64_t object_bytes(std::uint64_t object_blocks) const;

  /// Every head run starts at a multiple of this power of two.
  [[nodiscard]] std::uint64_t alignment() const noexcept { return alignment_; }

  /// Whether `bytes` bytes at `address` touch the paged memory, padding included.
  [[nodiscard]] bool overlaps(std::uint64_t address, std::uint64_t bytes) const noexcept;

 private:
  LayoutRecord record_;
  BlockShape shape_;
  std::uint64_t alignment_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> spans_;  // sorted, disjoint: first, end
};

}  // namespace penstock
