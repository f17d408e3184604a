// A paged cache and its dumb twin: the address formula, one byte at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "copy/copier.hpp"
#include "core/digest.hpp"

namespace twin {

using penstock::Direction;
using penstock::LayoutRecord;

struct FreeMemory {
  void operator()(std::byte* memory) const { std::free(memory); }
};

/// Memory aligned as objects must be.
class Memory {
 public:
  explicit Memory(std::size_t bytes)
      : bytes_(bytes),
        memory_(static_cast<std::byte*>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096))) {}
  [[nodiscard]] std::byte* data() const { return memory_.get(); }
  [[nodiscard]] std::uint64_t address() const {
    return reinterpret_cast<std::uint64_t>(memory_.get());
  }
  [[nodiscard]] std::size_t size() const { return bytes_; }
  [[nodiscard]] std::vector<std::byte> copy() const {
    std::vector<std::byte> bytes(bytes_);
    std::memcpy(bytes.data(), data(), bytes_);
    return bytes;
  }
  void fill(std::uint64_t seed) const {
    std::mt19937_64 random(seed);
    for (std::size_t i = 0; i < bytes_; i += sizeof(std::uint64_t)) {
      const std::uint64_t word = random();
      std::memcpy(memory_.get() + i, &word, std::min(sizeof word, bytes_ - i));
    }
  }

 private:
  std::size_t bytes_;
  std::unique_ptr<std::byte, FreeMemory> memory_;
};

/// heads_first_fused: K and V of a slot are side by side. heads_first_paired: all K slots of a
/// head, then all its V slots.
enum class Order : std::uint8_t { slots_first, heads_first, heads_first_fused, heads_first_paired };

struct Geometry {
  std::uint64_t layers = 3;
  std::uint64_t components = 2;
  std::uint64_t blocks = 11;
  std::uint64_t block_slots = 4;
  std::uint64_t heads = 3;
  std::uint64_t head_bytes = 128;
  std::uint64_t padding = 0;       // between blocks
  std::uint64_t misalignment = 0;  // of the first base
  Order order = Order::slots_first;
};

/// A cache with one tensor per (layer, kv), all in one piece of memory.
class Cache {
 public:
  explicit Cache(const Geometry& g)
      : memory_(g.misalignment + g.layers * g.components * span(g) + 64),
        layout_(record(g, memory_.address() + g.misalignment)) {}

  [[nodiscard]] const Memory& memory() const { return memory_; }
  [[nodiscard]] const penstock::PagedLayout& layout() const { return layout_; }

  static std::uint64_t span(const Geometry& g) {
    return g.blocks * (g.block_slots * g.heads * g.head_bytes + g.padding);
  }

  static LayoutRecord record(const Geometry& g, std::uint64_t first_base) {
    LayoutRecord record{.bases = {},
                        .span_bytes = {},
                        .layers = g.layers,
                        .components = g.components,
                        .blocks = g.blocks,
                        .block_slots = g.block_slots,
                        .heads = g.heads,
                        .head_bytes = g.head_bytes,
                        .s_block = g.block_slots * g.heads * g.head_bytes + g.padding,
                        .s_slot = g.heads * g.head_bytes,
                        .s_head = g.head_bytes};
    if (g.order == Order::heads_first) {
      record.s_slot = g.head_bytes;
      record.s_head = g.block_slots * g.head_bytes;
    }
    const bool fused = g.order == Order::heads_first_fused;
    const bool together = fused || g.order == Order::heads_first_paired;
    if (together) {
      record.s_slot = fused ? g.components * g.head_bytes : g.head_bytes;
      record.s_head = g.components * g.block_slots * g.head_bytes;
      record.s_block = g.heads * record.s_head + g.padding;
    }
    const std::uint64_t apart = fused ? g.head_bytes : g.block_slots * g.head_bytes;
    for (std::uint64_t i = 0; i < g.layers * g.components; ++i) {
      const std::uint64_t layer = i / g.components;
      const std::uint64_t kv = i % g.components;
      const std::uint64_t within = together ? kv * apart : kv * span(g);
      record.bases.push_back(first_base + layer * g.components * span(g) + within);
      record.span_bytes.push_back(together ? g.components * span(g) - within : span(g));
    }
    return record;
  }

 private:
  Memory memory_;
  penstock::PagedLayout layout_;
};

/// The copy as DESIGN states it. Returns the run digests.
inline std::vector<std::uint64_t> copy(const penstock::CopyRequest& request) {
  const LayoutRecord& r = request.layout->record();
  const std::uint64_t blocks = request.object_blocks();
  const std::uint64_t run_bytes = blocks * r.block_slots * r.heads * r.head_bytes;
  std::vector<std::uint64_t> digests;
  for (std::size_t object = 0; object < request.objects.size(); ++object) {
    for (std::uint64_t layer = request.layers.first; layer < request.layers.last; ++layer) {
      for (std::uint64_t kv = 0; kv < r.components; ++kv) {
        auto* run = reinterpret_cast<std::byte*>(request.objects[object].address) +
                    (layer * r.components + kv) * run_bytes;
        std::byte* at = run;
        for (std::uint64_t block = 0; block < blocks; ++block) {
          const bool skipped = object * blocks + block < request.skip_blocks;
          const auto id = static_cast<std::uint64_t>(request.block_ids[object * blocks + block]);
          for (std::uint64_t slot = 0; slot < r.block_slots; ++slot) {
            for (std::uint64_t head = 0; head < r.heads; ++head) {
              for (std::uint64_t byte = 0; byte < r.head_bytes; ++byte, ++at) {
                if (skipped) {
                  continue;
                }
                auto* paged = reinterpret_cast<std::byte*>(r.bases[layer * r.components + kv]) +
                              id * r.s_block + slot * r.s_slot + head * r.s_head + byte;
                if (request.direction == Direction::to_objects) {
                  *at = *paged;
                } else {
                  *paged = *at;
                }
              }
            }
          }
        }
        digests.push_back(penstock::crc64({run, run_bytes}));
      }
    }
  }
  return digests;
}

}  // namespace twin
