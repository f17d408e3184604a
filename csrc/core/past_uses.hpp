// How often chunks were used that are resident no more.
#pragma once

#include <cstdint>
#include <vector>

#include "core/mapped_array.hpp"

namespace penstock {

// What is remembered of a chunk after its eviction.
struct PastUse {
  std::uint8_t count = 0;   // uses, 15 for more; 0: it is not remembered
  std::uint8_t family = 0;  // below 4
};

// Bounded: a table of buckets of eight, where a new entry replaces the oldest of its bucket. 8
// bytes an entry. A chunk is taken for another one once in some hundred thousands, which costs
// nothing but a wrong guess. Memory that nothing was inserted into is never looked at: a table that
// is only asked takes none, and no page faults.
class PastUses {
 public:
  // Room for about `entries_max` (at least one bucket).
  explicit PastUses(std::uint64_t entries_max);

  void insert(std::uint64_t fingerprint, PastUse use);
  // It is forgotten.
  [[nodiscard]] PastUse take(std::uint64_t fingerprint);
  [[nodiscard]] std::uint64_t bytes() const { return entries_.size() * sizeof(Entry); }

 private:
  static constexpr std::uint64_t kBucketEntries = 8;
  static constexpr std::uint64_t kPageEntries = 512;  // 4 KiB

  // Zero bytes are an empty entry: time begins at 1.
  struct Entry {
    std::uint64_t time : 36;  // entries made until then
    std::uint64_t fingerprint : 22;
    std::uint64_t count : 4;
    std::uint64_t family : 2;
  };
  static_assert(sizeof(Entry) == 8);

  [[nodiscard]] std::uint64_t bucket_of(std::uint64_t fingerprint) const {
    const std::uint64_t buckets = entries_.size() / kBucketEntries;
    return ((fingerprint >> 32U) * buckets >> 32U) * kBucketEntries;
  }

  MappedArray<Entry> entries_;
  std::vector<bool> is_page_used_;  // by pages of entries_: something was ever inserted there
  std::uint64_t time_ = 0;
};

}  // namespace penstock
