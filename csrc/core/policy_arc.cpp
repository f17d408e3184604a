#include "core/policy_arc.hpp"

#include <algorithm>
#include <cassert>
#include <stdexcept>

namespace penstock {

ArcPolicy::ArcPolicy(std::uint32_t chunks_max, std::uint64_t pages_total, const ChunkFacts& facts)
    : Policy(chunks_max),
      facts_(facts),
      queues_{StampQueue(nodes_), StampQueue(nodes_)},
      ghosts_{Ghosts(chunks_max, pages_total), Ghosts(chunks_max, pages_total)},
      pages_total_(pages_total) {}

void ArcPolicy::added(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
                      std::uint64_t stamp) {
  PolicyNode& node = nodes_[chunk];
  node.queue = kOnce;
  for (const Queue queue : {kOnce, kOften}) {
    if (!ghosts_[queue].take(fingerprint)) continue;
    learn(queue, pages);
    node.queue = kOften;
    break;
  }
  node.stamp = stamp;
  pages_[node.queue] += pages;
}

// A ghost came back: what it was evicted from was too small.
void ArcPolicy::learn(Queue from, std::uint64_t pages) {
  const Queue other = from == kOnce ? kOften : kOnce;
  const std::uint64_t own_ghosts = std::max(ghost_pages_[from], pages);
  const std::uint64_t step = pages * std::max<std::uint64_t>(1, ghost_pages_[other] / own_ghosts);
  ghost_pages_[from] -= std::min(ghost_pages_[from], pages);
  if (from == kOnce) {
    once_pages_ = std::min(pages_total_, once_pages_ + step);
  } else {
    once_pages_ -= std::min(once_pages_, step);
  }
}

void ArcPolicy::resized(ChunkId chunk, std::int64_t pages) {
  pages_[nodes_[chunk].queue] += static_cast<std::uint64_t>(pages);
}

void ArcPolicy::touched(std::span<const ChunkId> chunks, std::uint64_t stamp) {
  for (const ChunkId chunk : chunks) {
    PolicyNode& node = nodes_[chunk];
    const bool linked = node.linked != 0;
    if (linked) leave(chunk);
    if (node.queue == kOnce) {
      const std::uint64_t pages = facts_.resident_pages(chunk);
      pages_[kOnce] -= pages;
      pages_[kOften] += pages;
      node.queue = kOften;
    }
    node.stamp = stamp;
    if (linked) enter(chunk);
  }
}

void ArcPolicy::removed(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
                        Departure why) {
  const PolicyNode& node = nodes_[chunk];
  assert(!node.linked);
  pages_[node.queue] -= pages;
  if (why != Departure::evicted) return;
  ghosts_[node.queue].insert(fingerprint, pages);
  ghost_pages_[node.queue] += pages;
  if (ghost_pages_[kOnce] + ghost_pages_[kOften] > pages_total_) {
    for (std::uint64_t& ghosts : ghost_pages_) ghosts /= 2;
  }
}

ChunkId ArcPolicy::victim(std::uint64_t /*stamp*/) {
  const StampQueue& once = queues_[kOnce];
  const StampQueue& often = queues_[kOften];
  const bool from_once = pages_[kOnce] > once_pages_ ? !once.empty() : often.empty();
  return from_once ? once.oldest() : often.oldest();
}

void ArcPolicy::validate() const {
  for (const StampQueue& queue : queues_) queue.validate();
  if (once_pages_ > pages_total_) throw std::logic_error("ARC: a share larger than the whole");
}

std::uint32_t ArcPolicy::candidates() const {
  return queues_[kOnce].size() + queues_[kOften].size();
}

}  // namespace penstock
