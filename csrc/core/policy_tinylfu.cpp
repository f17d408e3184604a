#include "core/policy_tinylfu.hpp"

#include <algorithm>
#include <cassert>

namespace penstock {

TinyLfuPolicy::TinyLfuPolicy(std::uint32_t chunks_max, std::uint64_t pages_total,
                             const ChunkFacts& facts)
    : Policy(chunks_max),
      facts_(facts),
      queues_{StampQueue(nodes_), StampQueue(nodes_), StampQueue(nodes_)},
      window_pages_max_(std::max<std::uint64_t>(pages_total / 100, 1)),
      main_pages_max_(pages_total - std::min(pages_total, window_pages_max_)),
      protected_pages_max_(main_pages_max_ / 5 * 4),
      sketch_(chunks_max) {}

void TinyLfuPolicy::added(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
                          std::uint64_t stamp) {
  PolicyNode& node = nodes_[chunk];
  sketch_.count(fingerprint);
  node.queue = kWindow;
  node.stamp = stamp;
  pages_[kWindow] += pages;
}

void TinyLfuPolicy::resized(ChunkId chunk, std::int64_t pages) {
  pages_[nodes_[chunk].queue] += static_cast<std::uint64_t>(pages);
}

void TinyLfuPolicy::touched(std::span<const ChunkId> chunks, std::uint64_t stamp) {
  for (const ChunkId chunk : chunks) {
    PolicyNode& node = nodes_[chunk];
    sketch_.count(facts_.fingerprint(chunk));
    const bool linked = node.linked != 0;
    if (linked) leave(chunk);
    if (node.queue == kProbation) move(chunk, kProtected);
    node.stamp = stamp;
    if (linked) enter(chunk);
  }
  shrink_protected();
}

// The chunk is not linked.
void TinyLfuPolicy::move(ChunkId chunk, Queue to) {
  PolicyNode& node = nodes_[chunk];
  assert(!node.linked);
  const std::uint64_t pages = facts_.resident_pages(chunk);
  pages_[node.queue] -= pages;
  pages_[to] += pages;
  node.queue = to;
}

// A candidate, and what it rests on of the same queue, as far as that was touched no later.
void TinyLfuPolicy::move_line(ChunkId leaf, Queue to) {
  const Queue from = static_cast<Queue>(nodes_[leaf].queue);
  const std::uint64_t stamp = nodes_[leaf].stamp;
  leave(leaf);
  move(leaf, to);
  enter(leaf);
  ChunkId chunk = facts_.parent(leaf);
  for (std::uint32_t moves = 0; moves < kMovesMax && chunk != kNoChunk; ++moves) {
    const PolicyNode& node = nodes_[chunk];
    if (facts_.resident_pages(chunk) == 0 || node.queue != from || node.stamp > stamp) return;
    move(chunk, to);
    chunk = facts_.parent(chunk);
  }
}

// While there is room in the rest, what leaves the window need not contend for it.
void TinyLfuPolicy::fill_main() {
  for (std::uint32_t moves = 0; moves < kMovesMax; ++moves) {
    const ChunkId oldest = queues_[kWindow].oldest();
    const bool full = pages_[kProbation] + pages_[kProtected] >= main_pages_max_;
    if (full || pages_[kWindow] <= window_pages_max_ || oldest == kNoChunk) return;
    move_line(oldest, kProbation);
  }
}

void TinyLfuPolicy::shrink_protected() {
  for (std::uint32_t moves = 0; moves < kMovesMax; ++moves) {
    const ChunkId oldest = queues_[kProtected].oldest();
    if (pages_[kProtected] <= protected_pages_max_ || oldest == kNoChunk) return;
    move_line(oldest, kProbation);
  }
}

void TinyLfuPolicy::removed(ChunkId chunk, std::uint64_t /*fingerprint*/, std::uint64_t pages,
                            Departure /*why*/) {
  assert(!nodes_[chunk].linked);
  pages_[nodes_[chunk].queue] -= pages;
}

ChunkId TinyLfuPolicy::main_victim() const {
  const StampQueue& probation = queues_[kProbation];
  return probation.empty() ? queues_[kProtected].oldest() : probation.oldest();
}

ChunkId TinyLfuPolicy::victim(std::uint64_t /*stamp*/) {
  fill_main();
  const ChunkId newcomer = queues_[kWindow].oldest();
  const ChunkId settled = main_victim();
  if (newcomer == kNoChunk) return settled;
  if (settled == kNoChunk) return newcomer;
  // With what room is made for, the window is over its share unless it is well below it now.
  if (pages_[kWindow] < window_pages_max_) return settled;
  // At equal frequency the newcomer goes: a flood of new keys displaces nothing.
  if (sketch_.estimate(facts_.fingerprint(newcomer)) <=
      sketch_.estimate(facts_.fingerprint(settled))) {
    return newcomer;
  }
  move_line(newcomer, kProbation);
  return settled;
}

void TinyLfuPolicy::validate() const {
  for (const StampQueue& queue : queues_) queue.validate();
}

std::uint32_t TinyLfuPolicy::candidates() const {
  return queues_[kWindow].size() + queues_[kProbation].size() + queues_[kProtected].size();
}

}  // namespace penstock
