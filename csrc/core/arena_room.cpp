#include "core/arena_room.hpp"

#include <stdexcept>

namespace penstock {

ArenaRoom::ArenaRoom(std::uint64_t cache_bytes, std::uint64_t pd_bytes)
    : cache_(cache_bytes), cache_pages_(static_cast<std::uint32_t>(cache_.pages_total())) {
  if (pd_bytes > 0) pd_.emplace(pd_bytes);
}

void ArenaRoom::release_pd(std::uint32_t first_page, std::uint32_t pages) {
  if (!pd_) throw std::logic_error("arena room: release of pages beyond the arena");
  pd_->release(first_page - cache_pages_, pages);
}

std::uint64_t ArenaRoom::pages_total(Pool pool) const {
  if (pool == Pool::cache) return cache_pages_;
  return pd_ ? pd_->pages_total() : 0;
}

std::uint64_t ArenaRoom::pages_free(Pool pool) const {
  if (pool == Pool::cache) return cache_.pages_free();
  return pd_ ? pd_->pages_free() : 0;
}

std::uint64_t ArenaRoom::largest_free_pages(Pool pool) const {
  if (pool == Pool::cache) return cache_.largest_free_pages();
  return pd_ ? pd_->largest_free_pages() : 0;
}

std::uint64_t ArenaRoom::metadata_bytes() const {
  return cache_.metadata_bytes() + (pd_ ? pd_->metadata_bytes() : 0);
}

void ArenaRoom::validate() const {
  cache_.validate();
  if (pd_) pd_->validate();
}

}  // namespace penstock
