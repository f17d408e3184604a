// First in, first out, but for what was touched meanwhile.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "core/mapped_array.hpp"
#include "core/policy.hpp"

namespace penstock {

// SIEVE (Zhang, Yang, Yue, Vigfusson, Rashmi: "SIEVE is simpler than LRU", NSDI 2024).
//
// One queue in order of arrival, and a hand that goes from its oldest end to its newest: what was
// touched since the hand last passed it is spared, and keeps its place; what was not goes. Here the
// queue is two: what the hand has not reached in this round, and what it has passed. A chunk that
// is no candidate has its place by its arrival all the same.
//
// When a chunk becomes a candidate because its last child has gone, it is spared only if it was
// touched after that child was. (A line of chunks would take a round for each otherwise.)
class SievePolicy final : public Policy {
 public:
  explicit SievePolicy(std::uint32_t chunks_max);

  void added(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
             std::uint64_t stamp) override;
  void resized(ChunkId /*chunk*/, std::int64_t /*pages*/) override {}
  void touched(std::span<const ChunkId> chunks, std::uint64_t stamp) override;
  void enter(ChunkId chunk) override;
  void exposed(ChunkId chunk, ChunkId child) override;
  void leave(ChunkId chunk) override;
  void removed(ChunkId /*chunk*/, std::uint64_t /*fingerprint*/, std::uint64_t /*pages*/,
               Departure /*why*/) override {}
  [[nodiscard]] ChunkId victim(std::uint64_t stamp) override;
  void validate() const override;
  [[nodiscard]] std::uint32_t candidates() const override;

 private:
  // Chunks spared in search of one victim; then the next must do, since a step of the loop may not
  // pass over millions.
  static constexpr std::uint32_t kSparedMax = 1024;

  std::array<StampQueue, 2> queues_;       // nodes_[chunk].queue says which; frequency: touched
  MappedArray<std::uint32_t> touched_at_;  // the low bits of the stamp of its last touch
  std::uint8_t ahead_ = 0;                 // the queue the hand has not reached
  std::uint64_t hand_ = 0;                 // older arrivals are behind it
};

}  // namespace penstock
