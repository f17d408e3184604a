#include "core/policy_sieve.hpp"

namespace penstock {

SievePolicy::SievePolicy(std::uint32_t chunks_max)
    : Policy(chunks_max),
      queues_{StampQueue(nodes_), StampQueue(nodes_)},
      touched_at_(chunks_max) {}

void SievePolicy::added(ChunkId chunk, std::uint64_t /*fingerprint*/, std::uint64_t /*pages*/,
                        std::uint64_t stamp) {
  PolicyNode& node = nodes_[chunk];
  node.stamp = stamp;
  node.frequency = 0;
  touched_at_[chunk] = static_cast<std::uint32_t>(stamp);
}

void SievePolicy::touched(std::span<const ChunkId> chunks, std::uint64_t stamp) {
  for (const ChunkId chunk : chunks) {
    nodes_[chunk].frequency = 1;
    touched_at_[chunk] = static_cast<std::uint32_t>(stamp);
  }
}

void SievePolicy::enter(ChunkId chunk) {
  PolicyNode& node = nodes_[chunk];
  node.queue = node.stamp < hand_ ? 1U - ahead_ : ahead_;
  queues_[node.queue].insert(chunk);
}

void SievePolicy::exposed(ChunkId chunk, ChunkId child) {
  // Stamps of 32 bits go round; the nearer way tells which is later.
  const auto later = static_cast<std::int32_t>(touched_at_[chunk] - touched_at_[child]);
  if (later <= 0) nodes_[chunk].frequency = 0;
  enter(chunk);
}

void SievePolicy::leave(ChunkId chunk) {
  queues_[nodes_[chunk].queue].remove(chunk);
}

ChunkId SievePolicy::victim(std::uint64_t /*stamp*/) {
  for (std::uint32_t spared = 0;; ++spared) {
    if (queues_[ahead_].empty()) {
      ahead_ = static_cast<std::uint8_t>(1U - ahead_);
      hand_ = 0;
    }
    const ChunkId chunk = queues_[ahead_].oldest();
    if (chunk == kNoChunk) return kNoChunk;
    PolicyNode& node = nodes_[chunk];
    hand_ = node.stamp;
    if (node.frequency == 0 || spared == kSparedMax) return chunk;
    queues_[ahead_].remove(chunk);
    node.frequency = 0;
    node.queue = 1U - ahead_;
    queues_[node.queue].insert(chunk);
  }
}

void SievePolicy::validate() const {
  for (const StampQueue& queue : queues_) queue.validate();
}

std::uint32_t SievePolicy::candidates() const {
  return queues_[0].size() + queues_[1].size();
}

}  // namespace penstock
