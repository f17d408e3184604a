#include "core/ghosts.hpp"

#include <algorithm>

namespace penstock {

Ghosts::Ghosts(std::uint32_t entries_max, std::uint64_t horizon_pages)
    : entries_(std::max<std::uint64_t>(entries_max / kBucketEntries, 1) * kBucketEntries),
      horizon_pages_(horizon_pages) {}

void Ghosts::insert(std::uint64_t fingerprint, std::uint64_t pages) {
  time_ += pages;
  const std::uint64_t first = bucket_of(fingerprint);
  std::uint64_t place = first;
  for (std::uint64_t i = first; i < first + kBucketEntries; ++i) {
    if (entries_[i].time < entries_[place].time) place = i;
  }
  entries_[place].time = time_ & ((1ULL << 42U) - 1);
  entries_[place].fingerprint = short_form(fingerprint) & ((1ULL << 22U) - 1);
}

bool Ghosts::take(std::uint64_t fingerprint) {
  const std::uint64_t first = bucket_of(fingerprint);
  for (std::uint64_t i = first; i < first + kBucketEntries; ++i) {
    Entry& entry = entries_[i];
    if (entry.time == 0 || entry.fingerprint != short_form(fingerprint)) continue;
    const bool counts = time_ - entry.time <= horizon_pages_;
    entry = {};
    return counts;
  }
  return false;
}

// The upper half of the fingerprint, scaled to the number of buckets.
std::uint64_t Ghosts::bucket_of(std::uint64_t fingerprint) const {
  const std::uint64_t buckets = entries_.size() / kBucketEntries;
  return ((fingerprint >> 32U) * buckets >> 32U) * kBucketEntries;
}

// Other bits of it.
std::uint64_t Ghosts::short_form(std::uint64_t fingerprint) {
  return fingerprint & ((1ULL << 22U) - 1);
}

}  // namespace penstock
