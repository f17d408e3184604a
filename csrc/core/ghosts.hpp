// Memory of what was evicted not long ago.
#pragma once

#include <cstdint>

#include "core/mapped_array.hpp"

namespace penstock {

// A set of fingerprints that forgets by itself: an entry counts until `horizon_pages` more have
// been evicted after it. Bounded: a table of buckets of eight, where a new entry replaces the
// oldest of its bucket. 8 bytes an entry. A fingerprint is taken for another one once in some
// millions, which costs nothing but a wrong guess.
class Ghosts {
 public:
  // Room for about `entries_max` entries (at least one bucket).
  Ghosts(std::uint32_t entries_max, std::uint64_t horizon_pages);

  // `pages`: the size of what was evicted.
  void insert(std::uint64_t fingerprint, std::uint64_t pages);
  // Whether it counts; it is forgotten either way.
  [[nodiscard]] bool take(std::uint64_t fingerprint);
  [[nodiscard]] std::uint64_t bytes() const { return entries_.size() * sizeof(Entry); }

 private:
  static constexpr std::uint64_t kBucketEntries = 8;

  // Zero bytes are an empty entry: time begins at 1.
  struct Entry {
    std::uint64_t time : 42;  // pages evicted until then
    std::uint64_t fingerprint : 22;
  };

  [[nodiscard]] std::uint64_t bucket_of(std::uint64_t fingerprint) const;
  [[nodiscard]] static std::uint64_t short_form(std::uint64_t fingerprint);

  MappedArray<Entry> entries_;
  std::uint64_t horizon_pages_;
  std::uint64_t time_ = 1;
};

}  // namespace penstock
