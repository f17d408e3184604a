#include "core/policy_prospect.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <limits>
#include <stdexcept>

namespace penstock {
namespace {

// By number of uses: 0 for up to one, 1 for two, 2 for up to four, 3 for up to eight, 4 for more.
constexpr std::array<std::uint8_t, 256> kUseClass = [] {
  std::array<std::uint8_t, 256> classes{};
  for (std::uint32_t uses = 2; uses < classes.size(); ++uses) {
    classes[uses] = static_cast<std::uint8_t>(std::min(std::bit_width(uses - 1), 4U));
  }
  return classes;
}();

}  // namespace

inline std::uint32_t ProspectPolicy::kind_of(const PolicyNode& node) {
  return kUseClass[node.frequency] * kKindsOfUse + (node.queue & (kFamilyMask | kExtended));
}

ProspectPolicy::ProspectPolicy(std::uint32_t chunks_max, const ChunkFacts& facts)
    : Policy(chunks_max),
      facts_(facts),
      members_(chunks_max),
      past_(static_cast<std::uint64_t>(chunks_max) * kPastTimes) {
  neighbours_are(members_);
}

// A chunk that was added with its parent, or soon after, is of its family; otherwise the family is
// what uses of the parent make it.
std::uint32_t ProspectPolicy::family_for(ChunkId chunk) const {
  const ChunkId parent = facts_.parent(chunk);
  if (parent == kNoChunk || facts_.resident_pages(parent) == 0) return 0;
  const PolicyNode& node = nodes_[parent];
  if (node.frequency <= 1) return node.queue & kFamilyMask;
  return std::min(static_cast<std::uint32_t>(std::bit_width<std::uint32_t>(node.frequency)) - 1,
                  kFamilies - 1);
}

void ProspectPolicy::added(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t /*pages*/,
                           std::uint64_t stamp) {
  PolicyNode& node = nodes_[chunk];
  const PastUse past = past_.take(fingerprint);
  const std::uint32_t family = past.count > 0 ? past.family : family_for(chunk);
  node.frequency = std::min(past.count + 1U, kCountMax);
  node.queue = family | (facts_.has_children(chunk) ? kExtended : 0U);
  node.stamp = stamp;
  ++resident_;
  if (lifetimes_.follows(fingerprint)) {
    node.queue |= kFollowed;
    lifetimes_.used(fingerprint, kind_of(node), stamp);
  }
  lifetimes_.refresh(1, resident_, stamp);
}

void ProspectPolicy::touched(std::span<const ChunkId> chunks, std::uint64_t stamp) {
  for (const ChunkId chunk : chunks) {
    PolicyNode& node = nodes_[chunk];
    if (node.frequency < kCountMax) ++node.frequency;
    node.stamp = stamp;
    if ((node.queue & kFollowed) == 0) continue;
    const std::uint64_t fingerprint = facts_.fingerprint(chunk);
    if (lifetimes_.follows(fingerprint)) lifetimes_.used(fingerprint, kind_of(node), stamp);
  }
  lifetimes_.refresh(chunks.size(), resident_, stamp);
}

void ProspectPolicy::extended(ChunkId parent) {
  PolicyNode& node = nodes_[parent];
  if ((node.queue & kExtended) != 0 || facts_.resident_pages(parent) == 0) return;
  node.queue |= kExtended;
  const std::uint64_t fingerprint = facts_.fingerprint(parent);
  if (lifetimes_.follows(fingerprint)) lifetimes_.corrected(fingerprint, kind_of(node));
}

void ProspectPolicy::spared(ChunkId chunk, std::uint64_t stamp) {
  if (stamp != spared_at_) forget_spared();
  spared_at_ = stamp;
  PolicyNode& node = nodes_[chunk];
  if ((node.queue & kSpared) != 0) return;
  node.queue |= kSpared;
  spared_.push_back(chunk);
}

void ProspectPolicy::forget_spared() {
  for (const ChunkId chunk : spared_) nodes_[chunk].queue &= ~kSpared;
  spared_.clear();
}

void ProspectPolicy::enter(ChunkId chunk) {
  PolicyNode& node = nodes_[chunk];
  assert(!node.linked);
  node.linked = 1;
  node.previous = candidates_;
  node.next = kNoChunk;
  members_[candidates_++] = chunk;
  members_ever_ = std::max(members_ever_, candidates_);
}

void ProspectPolicy::exposed(ChunkId chunk, ChunkId /*child*/) {
  enter(chunk);
  next_ = chunk;
}

void ProspectPolicy::leave(ChunkId chunk) {
  PolicyNode& node = nodes_[chunk];
  assert(node.linked);
  node.linked = 0;
  const ChunkId last = members_[--candidates_];
  members_[node.previous] = last;
  nodes_[last].previous = node.previous;
  if (next_ == chunk) next_ = kNoChunk;
}

void ProspectPolicy::removed(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t /*pages*/,
                             Departure why) {
  const PolicyNode& node = nodes_[chunk];
  assert(!node.linked);
  --resident_;
  if (why != Departure::evicted) return;
  past_.insert(fingerprint, {static_cast<std::uint8_t>(std::min<std::uint32_t>(node.frequency, 15)),
                             static_cast<std::uint8_t>(node.queue & kFamilyMask)});
}

inline float ProspectPolicy::prospect(ChunkId chunk, std::uint64_t stamp) const {
  const PolicyNode& node = nodes_[chunk];
  if ((node.queue & kSpared) != 0) return std::numeric_limits<float>::max();
  return lifetimes_.prospect(kind_of(node), stamp - node.stamp);
}

std::uint32_t ProspectPolicy::random_below(std::uint32_t bound) {
  // SplitMix64, as in key_index.cpp.
  random_ += 0x9E3779B97F4A7C15ULL;
  std::uint64_t mixed = random_;
  mixed = (mixed ^ (mixed >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  mixed = (mixed ^ (mixed >> 27U)) * 0x94D049BB133111EBULL;
  return static_cast<std::uint32_t>((mixed >> 32U) * bound >> 32U);
}

ChunkId ProspectPolicy::victim(std::uint64_t stamp) {
  if (candidates_ == 0) return kNoChunk;
  if (stamp != spared_at_) forget_spared();
  std::array<ChunkId, kSeen> seen;
  const std::uint32_t count = std::min(candidates_, kSeen);
  for (std::uint32_t i = 0; i < count; ++i) {
    seen[i] = members_[candidates_ <= kSeen ? i : random_below(candidates_)];
    nodes_.prefetch(seen[i]);
  }
  ChunkId least = next_ == kNoChunk ? seen[0] : next_;
  float prospect_of_least = prospect(least, stamp);
  for (std::uint32_t i = 0; i < count; ++i) {
    const float own = prospect(seen[i], stamp);
    // Of equal ones that which was not used for longer.
    if (own > prospect_of_least ||
        (own == prospect_of_least && nodes_[seen[i]].stamp >= nodes_[least].stamp)) {
      continue;
    }
    least = seen[i];
    prospect_of_least = own;
  }
  return least;
}

void ProspectPolicy::validate() const {
  for (std::uint32_t place = 0; place < candidates_; ++place) {
    const PolicyNode& node = nodes_[members_[place]];
    if (!node.linked || node.previous != place) {
      throw std::logic_error("prospect: a candidate in the wrong place");
    }
  }
  if (next_ != kNoChunk && !nodes_[next_].linked) {
    throw std::logic_error("prospect: the next to go is no candidate");
  }
}

}  // namespace penstock
