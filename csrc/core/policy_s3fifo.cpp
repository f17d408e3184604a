#include "core/policy_s3fifo.hpp"

#include <algorithm>
#include <cassert>
#include <stdexcept>

namespace penstock {

S3FifoPolicy::S3FifoPolicy(std::uint32_t chunks_max, std::uint64_t arena_pages,
                           const ChunkFacts& facts)
    : Policy(chunks_max),
      facts_(facts),
      queues_{StampQueue(nodes_), StampQueue(nodes_)},
      small_pages_max_(std::max<std::uint64_t>(arena_pages / 10, 1)),
      ghosts_(chunks_max, arena_pages) {}

void S3FifoPolicy::added(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
                         std::uint64_t stamp) {
  PolicyNode& node = nodes_[chunk];
  node.queue = ghosts_.take(fingerprint) ? kMain : kSmall;
  node.frequency = 0;
  node.stamp = stamp;
  pages_[node.queue] += pages;
}

void S3FifoPolicy::resized(ChunkId chunk, std::int64_t pages) {
  pages_[nodes_[chunk].queue] += static_cast<std::uint64_t>(pages);
}

void S3FifoPolicy::touched(std::span<const ChunkId> chunks, std::uint64_t stamp) {
  for (const ChunkId chunk : chunks) {
    PolicyNode& node = nodes_[chunk];
    if (node.frequency < kFrequencyMax) ++node.frequency;
    if (!facts_.has_children(chunk)) continue;
    if (node.queue == kSmall && node.frequency > 1) promote(chunk, stamp);
    node.stamp = stamp;
  }
}

// From SMALL to MAIN, with a clean record. The chunk is not linked.
void S3FifoPolicy::promote(ChunkId chunk, std::uint64_t stamp) {
  PolicyNode& node = nodes_[chunk];
  assert(!node.linked && node.queue == kSmall);
  const std::uint64_t pages = facts_.resident_pages(chunk);
  pages_[kSmall] -= pages;
  pages_[kMain] += pages;
  node.queue = kMain;
  node.frequency = 0;
  node.stamp = stamp;
}

void S3FifoPolicy::enter(ChunkId chunk) {
  queue_of(chunk).insert(chunk);
}

void S3FifoPolicy::exposed(ChunkId chunk, ChunkId child) {
  PolicyNode& node = nodes_[chunk];
  if (node.stamp <= nodes_[child].stamp) node.frequency = 0;
  enter(chunk);
}

void S3FifoPolicy::leave(ChunkId chunk) {
  queue_of(chunk).remove(chunk);
}

void S3FifoPolicy::removed(ChunkId chunk, std::uint64_t fingerprint, std::uint64_t pages,
                           Departure why) {
  const PolicyNode& node = nodes_[chunk];
  assert(!node.linked);
  pages_[node.queue] -= pages;
  if (node.queue == kSmall && why == Departure::evicted) ghosts_.insert(fingerprint, pages);
}

ChunkId S3FifoPolicy::victim(std::uint64_t stamp) {
  StampQueue& small = queues_[kSmall];
  StampQueue& main = queues_[kMain];
  for (std::uint32_t turn = 0;; ++turn) {
    const bool from_small = pages_[kSmall] > small_pages_max_ ? !small.empty() : main.empty();
    StampQueue& queue = from_small ? small : main;
    const ChunkId chunk = queue.oldest();
    if (chunk == kNoChunk) return kNoChunk;
    PolicyNode& node = nodes_[chunk];
    if (node.frequency <= (from_small ? 1U : 0U) || turn == kTurnsMax) return chunk;
    queue.remove(chunk);
    if (from_small) {
      promote(chunk, stamp);
    } else {
      --node.frequency;
      node.stamp = stamp;
    }
    main.insert(chunk);
  }
}

void S3FifoPolicy::validate() const {
  for (const StampQueue& queue : queues_) queue.validate();
}

std::uint32_t S3FifoPolicy::candidates() const {
  return queues_[kSmall].size() + queues_[kMain].size();
}

}  // namespace penstock
