// Simple, scalable eviction with three first-in-first-out queues.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "core/ghosts.hpp"
#include "core/policy.hpp"

namespace penstock {

// S3-FIFO (Yang, Zhang, Qiu, Yue, Vinayak: "FIFO queues are all you need for cache eviction", SOSP
// 2023), by bytes.
//
//   added -> SMALL (a tenth of the arena) -> evicted, remembered as a ghost
//              | touched more than once          | comes back
//              v                                 v
//            MAIN  <-----------------------------'        evicted when not touched since its last
//            turn
//
// Ghosts count until as much as the arena holds was evicted after them. What differs, since a chunk
// with children, or held by somebody, is no candidate:
//  - it belongs to its queue, with its pages, from the start, and takes its place there, that of
//    its entry into the queue, whenever it is a candidate;
//  - with children it cannot wait for its turn: it moves from SMALL to MAIN at the second touch,
//  and
//    its place is that of its last touch;
//  - when its last child goes, and it was not touched since that one's turn, its touches have aged
//    as the child's have: it goes next. (A line of chunks would take a turn for each otherwise.)
class S3FifoPolicy final : public Policy {
 public:
  S3FifoPolicy(std::uint32_t chunks_max, std::uint64_t arena_pages, const ChunkFacts& facts);

  void added(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
             std::uint64_t stamp) override;
  void resized(ChunkId chunk, std::int64_t pages) override;
  void touched(std::span<const ChunkId> chunks, std::uint64_t stamp) override;
  void enter(ChunkId chunk) override;
  void exposed(ChunkId chunk, ChunkId child) override;
  void leave(ChunkId chunk) override;
  void removed(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
               Departure why) override;
  [[nodiscard]] ChunkId victim(std::uint64_t stamp) override;
  void validate() const override;
  [[nodiscard]] std::uint32_t candidates() const override;
  [[nodiscard]] std::optional<std::uint64_t> pages_counted() const override {
    return pages_[kSmall] + pages_[kMain];
  }
  [[nodiscard]] std::uint64_t extra_bytes() const override { return ghosts_.bytes(); }

 private:
  enum Queue : std::uint8_t { kSmall, kMain };
  static constexpr std::uint64_t kFrequencyMax = 3;
  // Turns in search of a victim that nobody has touched; then the oldest must do, since a step of
  // the loop may not pass over millions.
  static constexpr std::uint32_t kTurnsMax = 1024;

  StampQueue& queue_of(ChunkId chunk) { return queues_[nodes_[chunk].queue]; }
  void promote(ChunkId chunk, std::uint64_t stamp);

  const ChunkFacts& facts_;
  std::array<StampQueue, 2> queues_;
  std::array<std::uint64_t, 2>
      pages_{};  // of all resident chunks that belong to the queue, candidates or not
  std::uint64_t small_pages_max_;
  Ghosts ghosts_;
};

}  // namespace penstock
