// Least recently used goes first.
#pragma once

#include <cstdint>
#include <span>

#include "core/policy.hpp"

namespace penstock {

// The candidate whose last touch is longest ago. A parent that becomes a candidate takes the place
// of its own last touch, so the order is that of one list of all chunks in which every request
// touches its suffix before its prefix.
class LruPolicy final : public Policy {
 public:
  explicit LruPolicy(std::uint32_t chunks_max) : Policy(chunks_max), queue_(nodes_) {}

  void added(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
             std::uint64_t stamp) override;
  void resized(ChunkId chunk, std::int64_t pages) override;
  void touched(std::span<const ChunkId> chunks, std::uint64_t stamp) override;
  void enter(ChunkId chunk) override { queue_.insert(chunk); }
  void leave(ChunkId chunk) override { queue_.remove(chunk); }
  void removed(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
               Departure why) override;
  [[nodiscard]] ChunkId victim(std::uint64_t stamp) override;
  void validate() const override { queue_.validate(); }
  [[nodiscard]] std::uint32_t candidates() const override { return queue_.size(); }

 private:
  StampQueue queue_;
};

}  // namespace penstock
