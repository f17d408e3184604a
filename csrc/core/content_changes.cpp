#include "core/content_changes.hpp"

#include <cassert>

namespace penstock {

ContentChanges::ContentChanges(std::uint32_t items_max, std::uint64_t hash_seed)
    : items_max_(items_max), hash_seed_(hash_seed) {
  if (is_kept()) kept_ = std::make_unique<Kept>(items_max_, hash_seed_);
}

ContentChanges::Entry* ContentChanges::find(const Key& key, std::uint32_t hash) {
  KeyIndex::Search search(kept_->index, hash);
  for (;;) {
    const std::uint32_t place = search.next();
    if (place == kNoChunk) return nullptr;
    Entry& entry = kept_->ring[place];
    if (entry.key == key) return &entry;
  }
}

void ContentChanges::note(const Key& key, int change) {
  const std::uint32_t hash = kept_->index.hash(key);
  if (Entry* const entry = find(key, hash); entry != nullptr) {
    entry->change += change;
    assert(entry->change >= -1 && entry->change <= 1);
    return;
  }
  if (count_ == items_max_) {
    forget();
    ++losses_;
    return;
  }
  const std::uint32_t end = place(count_);
  kept_->ring[end] = {key, change, hash};
  kept_->index.insert(hash, end);
  ++count_;
}

void ContentChanges::forget() {
  if (count_ > 0) kept_ = std::make_unique<Kept>(items_max_, hash_seed_);
  first_ = 0;
  count_ = 0;
  walked_ = 0;
}

ContentChanges::Taken ContentChanges::take(std::uint32_t items_max) {
  Taken taken;
  for (std::uint32_t left = items_max; left > 0 && count_ > 0; --left) {
    const Entry& entry = kept_->ring[first_];
    if (entry.change > 0) taken.added.push_back(entry.key);
    if (entry.change < 0) taken.gone.push_back(entry.key);
    kept_->index.erase(entry.hash, first_);
    first_ = place(1);
    --count_;
  }
  if (count_ == 0) first_ = 0;  // what was written last is still in the caches
  return taken;
}

void ContentChanges::begin_walk() {
  forget();
}

bool ContentChanges::told(const Key& key) {
  if (count_ == 0) return true;
  Entry* const entry = find(key, kept_->index.hash(key));
  if (entry == nullptr) return true;
  ++entry->change;
  return false;
}

}  // namespace penstock
