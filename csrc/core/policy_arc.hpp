// Recency against frequency, as the ghosts of both advise.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "core/ghosts.hpp"
#include "core/policy.hpp"

namespace penstock {

// ARC (Megiddo, Modha: "ARC: a self-tuning, low overhead replacement cache", FAST 2003), by pages.
//
//   added -> ONCE --touched--> OFTEN        both ordered by the last touch
//             | evicted         | evicted
//             v                 v
//         ghosts of ONCE    ghosts of OFTEN     a chunk that comes back from either is OFTEN
//
// ONCE may take `once_pages_` before it has to give: more whenever one of its ghosts comes back,
// less when one of the other's does. What differs: a ghost counts until as much as there is to
// share out was evicted after it, by any queue; chunks that are no candidates count in their queue.
class ArcPolicy final : public Policy {
 public:
  ArcPolicy(std::uint32_t chunks_max, std::uint64_t pages_total, const ChunkFacts& facts);

  void added(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
             std::uint64_t stamp) override;
  void resized(ChunkId chunk, std::int64_t pages) override;
  void touched(std::span<const ChunkId> chunks, std::uint64_t stamp) override;
  void enter(ChunkId chunk) override { queue_of(chunk).insert(chunk); }
  void leave(ChunkId chunk) override { queue_of(chunk).remove(chunk); }
  void removed(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
               Departure why) override;
  [[nodiscard]] ChunkId victim(std::uint64_t stamp) override;
  void validate() const override;
  [[nodiscard]] std::uint32_t candidates() const override;
  [[nodiscard]] std::optional<std::uint64_t> pages_counted() const override {
    return pages_[kOnce] + pages_[kOften];
  }
  [[nodiscard]] std::uint64_t extra_bytes() const override {
    return ghosts_[kOnce].bytes() + ghosts_[kOften].bytes();
  }

 private:
  enum Queue : std::uint8_t { kOnce, kOften };

  StampQueue& queue_of(ChunkId chunk) { return queues_[nodes_[chunk].queue]; }
  void learn(Queue from, std::uint64_t pages);

  const ChunkFacts& facts_;
  std::array<StampQueue, 2> queues_;
  std::array<std::uint64_t, 2> pages_{};  // of all resident chunks that belong to the queue
  std::array<Ghosts, 2> ghosts_;
  std::array<std::uint64_t, 2> ghost_pages_{};  // about as many: they halve together when too many
  std::uint64_t pages_total_;
  std::uint64_t once_pages_ = 0;  // <= pages_total_
};

}  // namespace penstock
