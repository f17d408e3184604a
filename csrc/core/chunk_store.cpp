#include "core/chunk_store.hpp"

#include <algorithm>
#include <array>
#include <cassert>

namespace penstock {
namespace {

// What the heap takes for the digests of one object and their number: glibc puts one word before
// them and rounds up to 16 bytes.
std::uint64_t runs_bytes(std::uint64_t digests) {
  constexpr std::uint64_t kGrain = 16;
  return ((digests + 2) * sizeof(std::uint64_t) + kGrain - 1) / kGrain * kGrain;
}

}  // namespace

ChunkStore::ChunkStore(std::uint32_t objects_max, std::uint64_t hash_seed)
    : index_(objects_max, hash_seed),
      chunks_(objects_max),
      lineages_(objects_max),
      objects_(objects_max),
      first_runs_(objects_max),
      object_runs_(objects_max) {}

ChunkStore::~ChunkStore() {
  for (ChunkId id = 0; id < chunks_ever_; ++id) {
    if (runs_bytes_ == 0) break;
    each_object(id, [this](ObjectRef ref, const Object&) { drop_runs(ref); });
  }
}

void ChunkStore::find(KeyBatch keys, std::span<ChunkId> found) const {
  std::array<std::uint32_t, kWindow> hashes;
  for (std::size_t base = 0; base < keys.size(); base += kWindow) {
    const std::size_t count = std::min(kWindow, keys.size() - base);
    for (std::size_t i = 0; i < count; ++i) {
      hashes[i] = index_.hash(keys[base + i]);
      index_.prefetch(hashes[i]);
    }
    for (std::size_t i = 0; i < count; ++i) {
      found[base + i] = KeyIndex::Search(index_, hashes[i]).next();
      if (found[base + i] != kNoChunk) chunks_.prefetch(found[base + i]);
    }
    for (std::size_t i = 0; i < count; ++i) {
      const ChunkId candidate = found[base + i];
      if (candidate == kNoChunk) continue;
      const Key key = keys[base + i];
      if (chunks_[candidate].key != key) found[base + i] = find(key);
    }
  }
}

ChunkId ChunkStore::find(const Key& key) const {
  KeyIndex::Search search(index_, index_.hash(key));
  for (;;) {
    const ChunkId candidate = search.next();
    if (candidate == kNoChunk || chunks_[candidate].key == key) return candidate;
  }
}

ChunkId ChunkStore::create(const Key& key, std::uint16_t geometry) {
  assert(chunk_room());
  ChunkId id = free_chunk_;
  if (id == kNoChunk) {
    id = chunks_ever_++;
  } else {
    free_chunk_ = lineages_[id].parent;
  }
  chunks_[id] = Chunk{.key = key,
                      .first = {},
                      .pins = 0,
                      .indexed = 1,
                      .queued = 0,
                      .base = 0,
                      .listed = 0,
                      .geometry = geometry,
                      .resident = 0};
  lineages_[id] = Lineage{.parent = kNoChunk, .children = 0, .tenant = 0, .in_flight = 0};
  index_.insert(index_.hash(key), id);
  ++chunks_used_;
  return id;
}

// Records that were used before are backed already; how many of the next ones will be such is not
// worth counting.
void ChunkStore::make_ready(KeyBatch keys, std::size_t chunks_before, std::size_t objects_a_chunk) {
  for (std::size_t i = 0; i < keys.size(); ++i) index_.touch(index_.hash(keys[i]));
  chunks_.touch(chunks_ever_ + chunks_before, keys.size());
  lineages_.touch(chunks_ever_ + chunks_before, keys.size());
  const std::size_t beside = objects_a_chunk - 1;  // the first is inside its chunk
  objects_.touch(objects_ever_ + chunks_before * beside, keys.size() * beside);
}

void ChunkStore::unindex(ChunkId id) {
  Chunk& chunk = chunks_[id];
  assert(chunk.indexed);
  index_.erase(index_.hash(chunk.key), id);
  chunk.indexed = 0;
}

void ChunkStore::free(ChunkId id) {
  assert(!chunks_[id].indexed && !has_objects(id));
  lineages_[id].parent = free_chunk_;
  free_chunk_ = id;
  --chunks_used_;
}

ObjectRef ChunkStore::add_object(ChunkId id, std::uint16_t slot, std::uint32_t page) {
  assert(object_room());
  Object& first = chunks_[id].first;
  Object made{};
  made.page = page;
  made.slot = slot;
  made.state = ObjectState::reserved;
  ++objects_used_;
  if (first.state == ObjectState::free) {
    made.next = first.next;
    first = made;
    return {id, 0};
  }
  std::uint32_t place = free_object_;
  if (place == 0) {
    place = ++objects_ever_;
  } else {
    free_object_ = objects_[place - 1].next;
  }
  made.next = first.next;
  first.next = place;
  objects_[place - 1] = made;
  return {id, place};
}

void ChunkStore::remove_object(ObjectRef ref) {
  drop_runs(ref);
  --objects_used_;
  Object& first = chunks_[ref.chunk].first;
  if (ref.object == 0) {
    first.state = ObjectState::free;
    return;
  }
  std::uint32_t* link = &first.next;
  while (*link != ref.object) {
    assert(*link != 0);
    link = &objects_[*link - 1].next;
  }
  Object& removed = objects_[ref.object - 1];
  *link = removed.next;
  removed.state = ObjectState::free;
  removed.next = free_object_;
  free_object_ = ref.object;
}

ObjectRef ChunkStore::find_object(ChunkId id, std::uint16_t slot) const {
  const Object& first = chunks_[id].first;
  if (first.slot == slot && is_live(first.state)) return {id, 0};
  for (std::uint32_t place = first.next; place != 0; place = objects_[place - 1].next) {
    const Object& object = objects_[place - 1];
    if (object.slot == slot && is_live(object.state)) return {id, place};
  }
  return {};
}

void ChunkStore::find_objects(std::span<const ChunkId> ids, std::uint16_t slot,
                              std::span<ObjectRef> found) const {
  // All lists are walked in step, one object each at a time.
  bool walking = false;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    found[i] = {};
    if (ids[i] == kNoChunk) continue;
    const Object& first = chunks_[ids[i]].first;
    if (first.slot == slot && is_live(first.state)) {
      found[i] = {ids[i], 0};
    } else if (first.next != 0) {
      found[i] = {kNoChunk, first.next};  // not found yet: where to look next
      objects_.prefetch(first.next - 1);
      walking = true;
    }
  }
  while (walking) {
    walking = false;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (!found[i].none() || found[i].object == 0) continue;
      const Object& object = objects_[found[i].object - 1];
      if (object.slot == slot && is_live(object.state)) {
        found[i].chunk = ids[i];
        continue;
      }
      found[i].object = object.next;
      if (object.next == 0) continue;
      objects_.prefetch(object.next - 1);
      walking = true;
    }
  }
}

void ChunkStore::set_runs(ObjectRef ref, std::span<const std::uint64_t> digests) {
  drop_runs(ref);
  if (digests.empty()) return;
  // Owned by the record, which is plain memory: drop_runs() ends it.
  Runs& runs = runs_of(ref);
  runs = new std::uint64_t[digests.size() + 1];
  runs[0] = digests.size();
  std::ranges::copy(digests, runs + 1);
  runs_bytes_ += runs_bytes(digests.size());
  std::uint32_t& ever = ref.object == 0 ? first_runs_ever_ : object_runs_ever_;
  ever = std::max(ever, ref.object == 0 ? ref.chunk + 1 : ref.object);
  object(ref).has_runs = true;
}

std::span<const std::uint64_t> ChunkStore::runs(ObjectRef ref) const {
  if (!object(ref).has_runs) return {};
  const Runs& runs = ref.object == 0 ? first_runs_[ref.chunk] : object_runs_[ref.object - 1];
  return {runs + 1, runs[0]};
}

void ChunkStore::drop_runs(ObjectRef ref) {
  Object& owner = object(ref);
  if (!owner.has_runs) return;
  Runs& runs = runs_of(ref);
  runs_bytes_ -= runs_bytes(runs[0]);
  delete[] runs;
  runs = nullptr;
  owner.has_runs = false;
}

std::uint64_t ChunkStore::bytes() const {
  return index_.bytes() + runs_bytes_ +
         chunks_ever_ * static_cast<std::uint64_t>(sizeof(Chunk) + sizeof(Lineage)) +
         objects_ever_ * static_cast<std::uint64_t>(sizeof(Object)) +
         (std::uint64_t{first_runs_ever_} + object_runs_ever_) * sizeof(Runs);
}

}  // namespace penstock
