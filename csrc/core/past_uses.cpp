#include "core/past_uses.hpp"

#include <algorithm>

namespace penstock {
namespace {

constexpr std::uint64_t kShortForm = (1ULL << 22U) - 1;
constexpr std::uint64_t kTimeMask = (1ULL << 36U) - 1;

}  // namespace

PastUses::PastUses(std::uint64_t entries_max)
    : entries_(std::max<std::uint64_t>(entries_max / kBucketEntries, 1) * kBucketEntries),
      is_page_used_(entries_.size() / kPageEntries + 1) {}

void PastUses::insert(std::uint64_t fingerprint, PastUse use) {
  const std::uint64_t first = bucket_of(fingerprint);
  is_page_used_[first / kPageEntries] = true;
  std::uint64_t place = first;
  for (std::uint64_t i = first; i < first + kBucketEntries; ++i) {
    if (entries_[i].time < entries_[place].time) place = i;
  }
  time_ = std::max<std::uint64_t>((time_ + 1) & kTimeMask, 1);
  entries_[place] = {time_, fingerprint & kShortForm, use.count & 15U, use.family & 3U};
}

PastUse PastUses::take(std::uint64_t fingerprint) {
  const std::uint64_t first = bucket_of(fingerprint);
  if (!is_page_used_[first / kPageEntries]) return {};
  for (std::uint64_t i = first; i < first + kBucketEntries; ++i) {
    Entry& entry = entries_[i];
    if (entry.time == 0 || entry.fingerprint != (fingerprint & kShortForm)) continue;
    const PastUse use{static_cast<std::uint8_t>(entry.count),
                      static_cast<std::uint8_t>(entry.family)};
    entry = {};
    return use;
  }
  return {};
}

}  // namespace penstock
