#include "core/policy_lru.hpp"

namespace penstock {

void LruPolicy::added(ChunkId chunk, std::uint64_t /*fingerprint*/, std::uint64_t /*pages*/,
                      std::uint64_t stamp) {
  nodes_[chunk].stamp = stamp;
}

void LruPolicy::resized(ChunkId /*chunk*/, std::int64_t /*pages*/) {}

void LruPolicy::touched(std::span<const ChunkId> chunks, std::uint64_t stamp) {
  for (const ChunkId chunk : chunks) {
    PolicyNode& node = nodes_[chunk];
    if (!node.linked) {
      node.stamp = stamp;
      continue;
    }
    queue_.remove(chunk);
    node.stamp = stamp;
    queue_.insert(chunk);
  }
}

void LruPolicy::removed(ChunkId /*chunk*/, std::uint64_t /*fingerprint*/, std::uint64_t /*pages*/,
                        Departure /*why*/) {}

ChunkId LruPolicy::victim(std::uint64_t /*stamp*/) {
  return queue_.oldest();
}

}  // namespace penstock
