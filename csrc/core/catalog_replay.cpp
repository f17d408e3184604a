// Catalog: prompts that ask for their chunks, recorded ones and many.
#include <algorithm>
#include <numeric>
#include <string>

#include "core/catalog.hpp"

namespace penstock {

void Catalog::reference(KeyBatch prompt, std::uint64_t bytes, std::uint32_t tenant,
                        Replayed& replayed) {
  require_size(bytes);
  if (bytes == 0) throw BadArgument("a chunk of 0 bytes; give its size");
  find_records(prompt);
  const std::size_t hits = hold_prefix();
  ++stamp_;
  std::size_t end = hits;
  for (; end < prompt.size(); ++end) {
    const ChunkId before = end == 0 ? kNoChunk : found_[end - 1];
    const ChunkId id = ensure(prompt[end], before, {bytes, kNowhere, tenant}, replayed);
    if (id == kNoChunk) break;
    found_[end] = id;
    records_[id].held = 1;
    records_[id].chosen = 0;
    requeue(id);
  }
  for (std::size_t i = end; i-- > 0;) {
    records_[found_[i]].held = 0;
    requeue(found_[i]);
  }
  replayed.references += prompt.size();
  replayed.hits += hits;
  replayed.refused += prompt.size() - end;
}

Replayed Catalog::replay(KeyBatch prompts, std::span<const std::uint32_t> lengths,
                         std::uint64_t bytes, std::uint32_t tenant) {
  const std::uint64_t total = std::accumulate(lengths.begin(), lengths.end(), std::uint64_t{0});
  if (total != prompts.size()) {
    throw BadArgument("lengths add up to " + std::to_string(total) + ", but given are " +
                      std::to_string(prompts.size()) + " keys");
  }
  Replayed replayed;
  std::size_t first = 0;
  for (const std::uint32_t length : lengths) {
    reference(prompts.range(first, length), bytes, tenant, replayed);
    first += length;
  }
  return replayed;
}

// Of found_: how many are present before the first that is not. They are touched.
std::size_t Catalog::hold_prefix() {
  const auto absent = [this](ChunkId id) { return id == kNoChunk || !records_[id].present; };
  const auto hits = static_cast<std::size_t>(std::ranges::find_if(found_, absent) - found_.begin());
  touched_.clear();
  for (std::size_t i = hits; i-- > 0;) {
    records_[found_[i]].held = 1;
    requeue(found_[i]);
    touched_.push_back(found_[i]);
  }
  policy_->touched(touched_, ++stamp_);
  return hits;
}

// The object's record, resting on `before` if it rests on nothing; put if need be. kNoChunk: no
// room.
ChunkId Catalog::ensure(const Key& key, ChunkId before, const Item& item, Replayed& replayed) {
  ChunkId id = find_record(key);
  if (id != kNoChunk && records_[id].present) return id;
  // While room is made, the record must stay.
  const bool known = id != kNoChunk;
  if (known) records_[id].held = 1;
  const bool room = make_room(item.bytes, known ? 0 : 1, replayed);
  if (known) records_[id].held = 0;
  if (!room) return kNoChunk;
  if (!known) id = create(key);
  Record& record = records_[id];
  // With children it might be an ancestor of what is before it.
  if (before != kNoChunk && record.parent == kNoChunk && record.children == 0) {
    record.parent = before;
    ++records_[before].children;
    policy_->extended(before);
  }
  insert(id, item, stamp_);
  return id;
}

bool Catalog::make_room(std::uint64_t bytes, std::uint32_t records, Replayed& replayed) {
  while (used_bytes_ + bytes > limits_.capacity_bytes ||
         records_used_ + records > records_.size()) {
    const ChunkId victim = policy_->victim(stamp_);
    if (victim == kNoChunk) return false;
    take_out(victim, Departure::evicted);
    ++replayed.evictions;
  }
  return true;
}

}  // namespace penstock
