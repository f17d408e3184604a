#include "core/content_changes.hpp"

#include <cassert>

namespace penstock {

void ContentChanges::note(const Key& key, int change) {
  const auto [found, is_new] = places_.try_emplace(key, taken_ + entries_.size());
  if (!is_new) {
    Entry& entry = entries_[found->second - taken_];
    entry.change += change;
    assert(entry.change >= -1 && entry.change <= 1);
    return;
  }
  if (entries_.size() == items_max_) {
    forget();
    ++losses_;
    return;
  }
  entries_.push_back({key, change});
}

void ContentChanges::forget() {
  entries_.clear();
  places_.clear();
  walked_ = 0;
}

ContentChanges::Taken ContentChanges::take(std::uint32_t items_max) {
  Taken taken;
  for (std::uint32_t left = items_max; left > 0 && !entries_.empty(); --left) {
    const Entry& entry = entries_.front();
    if (entry.change > 0) taken.added.push_back(entry.key);
    if (entry.change < 0) taken.gone.push_back(entry.key);
    places_.erase(entry.key);
    entries_.pop_front();
    ++taken_;
  }
  return taken;
}

void ContentChanges::begin_walk() {
  forget();
}

bool ContentChanges::told(const Key& key) {
  const auto found = places_.find(key);
  if (found == places_.end()) return true;
  ++entries_[found->second - taken_].change;
  return false;
}

}  // namespace penstock
