// Contents: which chunks would be evicted next, and whose.
#include <unordered_map>

#include "core/contents.hpp"

namespace penstock {

// A tenant well within its share keeps what it has while others, who are not, have something that
// may go. What is spared is not offered again before others. When as many were
// spared in a row as there are candidates, nobody else has anything that may go.
bool Contents::spare(ChunkId victim) {
  if (!ledger_.is_within_share(store_.lineage(victim).tenant)) {
    spared_ = 0;
    return false;
  }
  if (spared_ >= policy_->candidates()) return false;
  ++spared_;
  // Out of its queue meanwhile: choose() may have exposed it, and what has children is not expected
  // to be touched in a queue.
  policy_->leave(victim);
  policy_->spared(victim, stamp_);
  policy_->enter(victim);
  return true;
}

// As if each was evicted in its turn: a parent may follow its last child. Nothing is changed but
// what spare() and the policy itself do when victims are asked for.
std::vector<ChunkId> Contents::choose(std::uint64_t pages_wanted, std::uint32_t chunks_max) {
  std::vector<ChunkId> chosen;
  std::vector<ChunkId> exposed;
  std::unordered_map<ChunkId, std::uint32_t> children_chosen;
  std::uint64_t pages = 0;
  for (std::uint32_t left = chunks_max; left > 0 && pages < pages_wanted; --left) {
    const ChunkId id = victim();
    if (id == kNoChunk) break;
    if (spare(id)) continue;
    if (!chosen.empty() && store_.chunk(id).geometry != store_.chunk(chosen.front()).geometry) {
      break;
    }
    unqueue(id);
    chosen.push_back(id);
    pages += resident_pages(id);
    const ChunkId parent = store_.lineage(id).parent;
    if (parent == kNoChunk) continue;
    Chunk& chunk = store_.chunk(parent);
    const Lineage& lineage = store_.lineage(parent);
    if (++children_chosen[parent] < lineage.children) continue;
    if (lineage.in_flight > 0 || chunk.pins > 0 || chunk.resident == 0) continue;
    chunk.queued = 1;
    policy_->exposed(parent, id);
    exposed.push_back(parent);
  }
  for (const ChunkId id : exposed) unqueue(id);  // those that were not chosen after all
  for (const ChunkId id : chosen) requeue(id);
  return chosen;
}

std::vector<ChunkId> Contents::choose_own(std::uint32_t tenant, std::uint64_t pages_wanted,
                                          std::uint32_t chunks_max) const {
  std::vector<ChunkId> chosen;
  std::unordered_map<ChunkId, std::uint32_t> children_chosen;
  std::uint64_t pages = 0;
  // Its parent, if nothing keeps that any more and it is the tenant's, too.
  const auto bared_by = [&](ChunkId id) {
    const ChunkId parent = store_.lineage(id).parent;
    if (parent == kNoChunk) return kNoChunk;
    const Lineage& lineage = store_.lineage(parent);
    const Chunk& chunk = store_.chunk(parent);
    const bool bare = ++children_chosen[parent] == lineage.children && lineage.in_flight == 0;
    return bare && lineage.tenant == tenant && chunk.pins == 0 && chunk.resident > 0 ? parent
                                                                                     : kNoChunk;
  };
  const auto enough = [&] { return chosen.size() >= chunks_max || pages >= pages_wanted; };
  for (ChunkId own = own_.oldest(tenant); own != kNoChunk; own = own_.newer_than(own)) {
    if (!chosen.empty() && store_.chunk(own).geometry != store_.chunk(chosen.front()).geometry) {
      break;
    }
    for (ChunkId id = own; id != kNoChunk; id = bared_by(id)) {
      if (enough()) return chosen;
      chosen.push_back(id);
      pages += resident_pages(id);
    }
  }
  return chosen;
}

// One RESIDENT object; the chunk's others stay.
void Contents::drop_object(ObjectRef ref) {
  story_.tell(store_.chunk(ref.chunk).key, Event::dropped, store_.object(ref).slot);
  take_out(ref);
}

}  // namespace penstock
