// The chunk whose place promises least goes first, as its family's past tells.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/lifetimes.hpp"
#include "core/mapped_array.hpp"
#include "core/past_uses.hpp"
#include "core/policy.hpp"

namespace penstock {

// A policy for prompts. In traces of conversations most chunks are never used again, and those that
// are come back after a while, in which nobody wants them: thinking takes its time. So neither the
// oldest nor the newest is what to give up, but what promises least for the room it takes, and a
// chunk promises nothing without its predecessors, nor more than they do. Its prospect depends
// on its *kind* and on how long ago its last use is; how, is learned (see Lifetimes). The kind is
//
//   uses     1, 2, 3-4, 5-8, more; those before its last eviction count as far as they are
//   remembered family   how often what it was added to had been used then: a conversation that was
//   continued is
//            likely to be so again
//   tip      whether nothing ever rested on it: a prompt's last chunk is often half a chunk, which
//            the next prompt of the family fills up and so gives another name
//
// A newcomer whose prospect is low is the next to go, so what is settled is not displaced by what
// passes. Among kSeen random candidates the one of the least prospect goes (Psounis, Prabhakar: "A
// randomized web-cache replacement scheme", INFOCOM 2001), or the parent of the last victim, so
// that a prompt that has begun to go goes on.
class ProspectPolicy final : public Policy {
 public:
  ProspectPolicy(std::uint32_t chunks_max, const ChunkFacts& facts);

  void added(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
             std::uint64_t stamp) override;
  void resized(ChunkId /*chunk*/, std::int64_t /*pages*/) override {}
  void touched(std::span<const ChunkId> chunks, std::uint64_t stamp) override;
  void extended(ChunkId parent) override;
  void spared(ChunkId chunk, std::uint64_t stamp) override;
  void enter(ChunkId chunk) override;
  void exposed(ChunkId chunk, ChunkId child) override;
  void leave(ChunkId chunk) override;
  void removed(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
               Departure why) override;
  [[nodiscard]] ChunkId victim(std::uint64_t stamp) override;
  void validate() const override;
  [[nodiscard]] std::uint32_t candidates() const override { return candidates_; }
  [[nodiscard]] std::uint64_t extra_bytes() const override {
    return past_.bytes() + lifetimes_.bytes() + members_ever_ * sizeof(ChunkId);
  }

 private:
  static constexpr std::uint32_t kSeen = 32;
  static constexpr std::uint32_t kCountMax = 255;
  static constexpr std::uint32_t kFamilies = 4;
  static constexpr std::uint32_t kUseClasses = 5;
  static constexpr std::uint32_t kPastTimes = 4;  // as many are remembered for each that is here
  static constexpr std::uint32_t kKindsOfUse = kFamilies * 2;
  static_assert(kUseClasses * kKindsOfUse == Lifetimes::kKinds);

  // What PolicyNode::queue holds here; frequency counts uses, previous is the place in members_.
  static constexpr std::uint32_t kFamilyMask = 3;
  static constexpr std::uint32_t kExtended = 4;
  static constexpr std::uint32_t kSpared = 8;
  static constexpr std::uint32_t kFollowed = 16;  // it was in the sample when it was added

  [[nodiscard]] static std::uint32_t kind_of(const PolicyNode& node);
  [[nodiscard]] std::uint32_t family_for(ChunkId chunk) const;
  [[nodiscard]] float prospect(ChunkId chunk, std::uint64_t stamp) const;
  void forget_spared();
  [[nodiscard]] std::uint32_t random_below(std::uint32_t bound);

  const ChunkFacts& facts_;
  MappedArray<ChunkId> members_;  // candidates, in no order
  std::uint32_t candidates_ = 0;
  std::uint32_t members_ever_ = 0;
  std::uint32_t resident_ = 0;
  PastUses past_;
  Lifetimes lifetimes_;
  ChunkId next_ = kNoChunk;      // the parent of the last victim
  std::vector<ChunkId> spared_;  // at stamp spared_at_, and so not to be chosen then
  std::uint64_t spared_at_ = 0;
  std::uint64_t random_ = 0;
};

}  // namespace penstock
