#include "core/story.hpp"

#include <algorithm>
#include <array>
#include <cstdio>

namespace penstock {
namespace {

constexpr std::array<const char*, 14> kNames = {
    "reserved", "loaded",   "committed", "discarded", "quarantined", "pinned",  "unpinned",
    "leased",   "released", "overdue",   "damaged",   "evicted",     "dropped", "freed"};
static_assert(kNames.size() == static_cast<std::size_t>(Event::freed) + 1);

}  // namespace

Story::Story(std::uint32_t events_max) : events_(events_max) {}

void Story::keep(const Key& key, Event event, std::uint32_t slot) {
  events_[told_++ % events_.size()] = {key, now_, slot, event};
}

std::vector<std::string> Story::of(const Key& key) const {
  std::vector<std::string> lines;
  const std::uint64_t kept = std::min<std::uint64_t>(told_, events_.size());
  for (std::uint64_t number = told_ - kept; number < told_; ++number) {
    const Entry& entry = events_[number % events_.size()];
    if (entry.key != key) continue;
    std::array<char, 32> time{};
    std::snprintf(time.data(), time.size(), "%.3f ", entry.now);
    std::string line = std::string(time.data()) + kNames[static_cast<std::size_t>(entry.event)];
    if (entry.slot != kNoSlot) line += " slot " + std::to_string(entry.slot);
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace penstock
