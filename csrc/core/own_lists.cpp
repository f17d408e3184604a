#include "core/own_lists.hpp"

#include <algorithm>

namespace penstock {

void OwnLists::add_newest(std::uint32_t tenant, ChunkId id) {
  Ends& ends = ends_[tenant];
  link(id, {.older = ends.newest, .newer = kNoChunk});
  (ends.newest == kNoChunk ? ends.oldest : links_[ends.newest].newer) = id;
  ends.newest = id;
}

void OwnLists::add_oldest(std::uint32_t tenant, ChunkId id) {
  Ends& ends = ends_[tenant];
  link(id, {.older = kNoChunk, .newer = ends.oldest});
  (ends.oldest == kNoChunk ? ends.newest : links_[ends.oldest].older) = id;
  ends.oldest = id;
}

void OwnLists::link(ChunkId id, Links links) {
  links_ever_ = std::max<std::uint64_t>(links_ever_, id + 1ULL);
  links_[id] = links;
}

void OwnLists::remove(std::uint32_t tenant, ChunkId id) {
  const auto found = ends_.find(tenant);
  Ends& ends = found->second;
  const Links links = links_[id];
  (links.older == kNoChunk ? ends.oldest : links_[links.older].newer) = links.newer;
  (links.newer == kNoChunk ? ends.newest : links_[links.newer].older) = links.older;
  if (ends.oldest == kNoChunk) ends_.erase(found);
}

ChunkId OwnLists::oldest(std::uint32_t tenant) const {
  const auto found = ends_.find(tenant);
  return found == ends_.end() ? kNoChunk : found->second.oldest;
}

}  // namespace penstock
