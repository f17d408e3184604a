// What comes in must be asked for more often than what would go for it.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "core/frequency_sketch.hpp"
#include "core/policy.hpp"

namespace penstock {

// W-TinyLFU (Einziger, Friedman, Manes: "TinyLFU: a highly efficient cache admission policy", ACM
// ToS 2017), by pages, with the shares of that paper.
//
//   added -> WINDOW (1 % of all) --as frequent as the victim of PROBATION--> PROBATION
//              | otherwise                                            touched |  ^ over its share
//              v                                                              v  |
//            evicted                                    PROTECTED (80 % of the rest)
//
// All three are ordered by the last touch. Frequencies are those of a sketch, so they outlive the
// chunks. A chunk moves with what it rests on, as far as that was not touched
// later.
class TinyLfuPolicy final : public Policy {
 public:
  TinyLfuPolicy(std::uint32_t chunks_max, std::uint64_t pages_total, const ChunkFacts& facts);

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
    return pages_[kWindow] + pages_[kProbation] + pages_[kProtected];
  }
  [[nodiscard]] std::uint64_t extra_bytes() const override { return sketch_.bytes(); }

 private:
  enum Queue : std::uint8_t { kWindow, kProbation, kProtected };
  // Moves in search of a victim; then the next must do, since a step of the loop may not pass over
  // millions.
  static constexpr std::uint32_t kMovesMax = 1024;

  StampQueue& queue_of(ChunkId chunk) { return queues_[nodes_[chunk].queue]; }
  void move(ChunkId chunk, Queue to);
  void move_line(ChunkId leaf, Queue to);
  void fill_main();
  void shrink_protected();
  [[nodiscard]] ChunkId main_victim() const;

  const ChunkFacts& facts_;
  std::array<StampQueue, 3> queues_;
  std::array<std::uint64_t, 3> pages_{};  // of all resident chunks that belong to the queue
  std::uint64_t window_pages_max_;
  std::uint64_t main_pages_max_;
  std::uint64_t protected_pages_max_;
  FrequencySketch sketch_;
};

}  // namespace penstock
