// The pages of the arena: one part for the cache, and behind it one for what other nodes push.
#pragma once

#include <cstdint>
#include <optional>

#include "core/extent_allocator.hpp"
#include "core/table_types.hpp"

namespace penstock {

// [0, cache bytes) and [cache bytes, + pd bytes), each with an allocator of its own: neither ever
// serves for the other, and whose pages are given back tells their number. Not thread-safe, as they
// are.
class ArenaRoom {
 public:
  // Both multiples of kPageBytes; together less than 8 TiB. `pd_bytes` 0: no such part.
  ArenaRoom(std::uint64_t cache_bytes, std::uint64_t pd_bytes);

  // The first page of a run, counted from the arena's start, or nothing when that part has none.
  [[nodiscard]] std::optional<std::uint32_t> allocate(Pool pool, std::uint32_t pages) {
    if (pool == Pool::cache) return cache_.allocate(pages);
    if (!pd_) return std::nullopt;
    const std::optional<std::uint32_t> page = pd_->allocate(pages);
    return page ? std::optional(*page + cache_pages_) : std::nullopt;
  }
  void release(std::uint32_t first_page, std::uint32_t pages) {
    if (first_page < cache_pages_) {
      cache_.release(first_page, pages);
    } else {
      release_pd(first_page, pages);
    }
  }
  [[nodiscard]] Pool pool_of(std::uint32_t page) const {
    return page < cache_pages_ ? Pool::cache : Pool::pd;
  }

  [[nodiscard]] ExtentAllocator& cache() { return cache_; }
  [[nodiscard]] const ExtentAllocator& cache() const { return cache_; }
  [[nodiscard]] std::uint64_t pages_total(Pool pool) const;
  [[nodiscard]] std::uint64_t pages_free(Pool pool) const;
  [[nodiscard]] std::uint64_t largest_free_pages(Pool pool) const;
  [[nodiscard]] std::uint64_t metadata_bytes() const;
  void validate() const;  // throws std::logic_error naming the first broken invariant

 private:
  void release_pd(std::uint32_t first_page, std::uint32_t pages);

  ExtentAllocator cache_;
  std::uint32_t cache_pages_;
  std::optional<ExtentAllocator> pd_;  // numbers its pages from 0
};

}  // namespace penstock
