#include "core/catalog.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace penstock {
namespace {

Catalog::Limits checked(const Catalog::Limits& limits) {
  if (limits.objects_max == 0 || limits.objects_max == kNoChunk || limits.capacity_bytes == 0) {
    throw BadArgument(
        "a catalog needs room: give objects_max from 1 to 2^32-2, capacity_bytes > 0");
  }
  return limits;
}

}  // namespace

void Catalog::require_size(std::uint64_t bytes) {
  if (bytes > kBytesMax) {
    throw BadArgument("an object of " + std::to_string(bytes) + " bytes; give at most 2^52");
  }
}

std::uint64_t Catalog::pages_of(std::uint64_t bytes) {
  constexpr std::uint64_t kPageBytes = 4096;
  return std::max<std::uint64_t>((bytes + kPageBytes - 1) / kPageBytes, 1);
}

Catalog::Catalog(const Limits& limits)
    : limits_(checked(limits)),
      index_(limits.objects_max, limits.hash_seed),
      records_(limits.objects_max),
      policy_(
          make_policy(limits.policy, limits.objects_max, pages_of(limits.capacity_bytes), *this)) {}

void Catalog::put(KeyBatch keys, std::span<const std::uint64_t> sizes,
                  std::span<const std::uint64_t> places, std::span<const std::uint32_t> tenants) {
  if (sizes.size() != keys.size() || places.size() != keys.size() ||
      tenants.size() != keys.size()) {
    throw BadArgument("sizes, places and tenants must be as many as the keys");
  }
  for (const std::uint64_t bytes : sizes) require_size(bytes);
  find_records(keys);
  const auto absent = std::ranges::count(found_, kNoChunk);
  if (static_cast<std::uint64_t>(absent) > records_.size() - records_used_) {
    throw TableFull("the catalog has records for " + std::to_string(records_.size()) +
                    " objects; remove some first, or raise objects_max");
  }
  ++stamp_;
  touched_.clear();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Item item{sizes[i], places[i], tenants[i]};
    // A key may be in the batch twice.
    ChunkId id = found_[i] == kNoChunk ? find_record(keys[i]) : found_[i];
    if (id == kNoChunk) id = create(keys[i]);
    if (records_[id].present) {
      replace(id, item);
      touched_.push_back(id);
    } else {
      insert(id, item, stamp_);
    }
    records_[id].chosen = 0;
    found_[i] = id;
  }
  std::ranges::reverse(touched_);
  policy_->touched(touched_, stamp_);
  for (std::size_t i = keys.size(); i-- > 0;) requeue(found_[i]);
}

const Item* Catalog::find(const Key& key) const {
  const ChunkId id = find_record(key);
  return id == kNoChunk || !records_[id].present ? nullptr : &records_[id].item;
}

std::uint32_t Catalog::touch(KeyBatch keys) {
  find_records(keys);
  touched_.clear();
  for (auto id = found_.rbegin(); id != found_.rend(); ++id) {
    if (*id == kNoChunk || !records_[*id].present) continue;
    records_[*id].chosen = 0;
    requeue(*id);
    touched_.push_back(*id);
  }
  policy_->touched(touched_, ++stamp_);
  return static_cast<std::uint32_t>(touched_.size());
}

std::uint32_t Catalog::remove(KeyBatch keys) {
  std::uint32_t removed = 0;
  for (std::size_t i = keys.size(); i-- > 0;) {
    const ChunkId id = find_record(keys[i]);
    if (id == kNoChunk || !records_[id].present) continue;
    take_out(id, records_[id].chosen ? Departure::evicted : Departure::dropped);
    ++removed;
  }
  return removed;
}

Victims Catalog::victims(std::uint64_t bytes_wanted, std::uint32_t count_max) {
  Victims chosen;
  while (chosen.bytes < bytes_wanted && chosen.keys.size() < count_max) {
    const ChunkId id = policy_->victim(stamp_);
    if (id == kNoChunk) break;
    Record& record = records_[id];
    record.chosen = 1;
    requeue(id);
    chosen.keys.push_back(record.key);
    chosen.sizes.push_back(record.item.bytes);
    chosen.places.push_back(record.item.place);
    chosen.bytes += record.item.bytes;
  }
  return chosen;
}

std::uint32_t Catalog::spare(KeyBatch keys) {
  find_records(keys);
  std::uint32_t spared = 0;
  for (const ChunkId id : found_) {
    if (id == kNoChunk || !records_[id].chosen) continue;
    records_[id].chosen = 0;
    requeue(id);
    ++spared;
  }
  return spared;
}

std::uint64_t Catalog::bytes_of(std::uint32_t tenant) const {
  const auto found = bytes_by_tenant_.find(tenant);
  return found == bytes_by_tenant_.end() ? 0 : found->second;
}

std::uint64_t Catalog::metadata_bytes() const {
  return index_.bytes() + records_ever_ * (sizeof(Record) + sizeof(PolicyNode)) +
         policy_->extra_bytes();
}

std::uint64_t Catalog::resident_pages(ChunkId id) const {
  return records_[id].present ? pages_of(records_[id].item.bytes) : 0;
}

std::uint64_t Catalog::fingerprint(ChunkId id) const {
  const Key& key = records_[id].key;
  return key.words[0] ^ key.words[1];
}

ChunkId Catalog::find_record(const Key& key) const {
  KeyIndex::Search search(index_, index_.hash(key));
  for (;;) {
    const ChunkId id = search.next();
    if (id == kNoChunk || records_[id].key == key) return id;
  }
}

// Into found_. Cache misses overlap.
void Catalog::find_records(KeyBatch keys) {
  constexpr std::size_t kAhead = 8;
  found_.resize(keys.size());
  for (std::size_t i = 0; i < std::min(kAhead, keys.size()); ++i) {
    index_.prefetch(index_.hash(keys[i]));
  }
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (i + kAhead < keys.size()) index_.prefetch(index_.hash(keys[i + kAhead]));
    found_[i] = find_record(keys[i]);
  }
}

// A record without an object.
ChunkId Catalog::create(const Key& key) {
  ChunkId id = free_record_;
  if (id != kNoChunk) {
    free_record_ = records_[id].parent;
  } else {
    id = records_ever_++;
  }
  ++records_used_;
  Record& record = records_[id];
  record = Record{};
  record.key = key;
  record.parent = kNoChunk;
  record.used = 1;
  index_.insert(index_.hash(key), id);
  return id;
}

void Catalog::insert(ChunkId id, const Item& item, std::uint64_t stamp) {
  Record& record = records_[id];
  record.item = item;
  record.present = 1;
  ++objects_;
  count(item, true);
  policy_->added(id, fingerprint(id), pages_of(item.bytes), stamp);
}

void Catalog::replace(ChunkId id, const Item& item) {
  Record& record = records_[id];
  count(record.item, false);
  count(item, true);
  const auto pages = static_cast<std::int64_t>(pages_of(item.bytes));
  const auto before = static_cast<std::int64_t>(pages_of(record.item.bytes));
  record.item = item;
  policy_->resized(id, pages - before);
}

void Catalog::take_out(ChunkId id, Departure why) {
  Record& record = records_[id];
  record.present = 0;
  record.chosen = 0;
  requeue(id);
  --objects_;
  count(record.item, false);
  policy_->removed(id, fingerprint(id), pages_of(record.item.bytes), why);
  record.item = {};
  settle(id);
}

// Whether it is a candidate has perhaps changed; if so, because `child` has left, unless that is
// kNoChunk.
void Catalog::requeue(ChunkId id, ChunkId child) {
  Record& record = records_[id];
  const bool candidate = record.present && !record.chosen && !record.held && record.children == 0;
  if (candidate == (record.queued != 0)) return;
  record.queued = candidate ? 1 : 0;
  if (!candidate) {
    policy_->leave(id);
  } else if (child != kNoChunk) {
    policy_->exposed(id, child);
  } else {
    policy_->enter(id);
  }
}

// Its object or a child has gone: without either the record goes, and then perhaps its parent's.
void Catalog::settle(ChunkId id) {
  ChunkId child = kNoChunk;
  while (id != kNoChunk) {
    Record& record = records_[id];
    if (record.present || record.children > 0 || record.held) {
      requeue(id, child);
      return;
    }
    index_.erase(index_.hash(record.key), id);
    const ChunkId parent = std::exchange(record.parent, free_record_);
    record.used = 0;
    free_record_ = id;
    --records_used_;
    if (parent == kNoChunk) return;
    --records_[parent].children;
    child = std::exchange(id, parent);
  }
}

void Catalog::count(const Item& item, bool more) {
  std::uint64_t& bytes = bytes_by_tenant_[item.tenant];
  if (more) {
    bytes += item.bytes;
    used_bytes_ += item.bytes;
  } else {
    bytes -= item.bytes;
    used_bytes_ -= item.bytes;
  }
  if (bytes == 0) bytes_by_tenant_.erase(item.tenant);
}

}  // namespace penstock
