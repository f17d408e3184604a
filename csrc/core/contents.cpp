#include "core/contents.hpp"

#include <array>
#include <cassert>
#include <string>
#include <utility>

namespace penstock {

Contents::Contents(const TableConfig& config)
    : store_(config.objects_max + config.pd_objects_max, config.hash_seed),
      room_(config.arena_bytes, config.pd_bytes),
      pd_objects_max_(config.pd_objects_max),
      policy_(make_policy(config.policy, config.objects_max + config.pd_objects_max,
                          room_.pages_total(Pool::cache), *this)),
      ledger_(config.fair_share),
      own_(config.objects_max + config.pd_objects_max),
      story_(config.story_events_max),
      changes_(config.changes_max, config.hash_seed) {}

bool Contents::has_record(Pool pool, ChunkId id) const {
  if (pool == Pool::pd) {
    return pd_objects_ < pd_objects_max_ && store_.object_room() &&
           (id != kNoChunk || store_.chunk_room());
  }
  const std::uint32_t kept = pd_objects_max_ - pd_objects_;
  return store_.object_room(kept) && (id != kNoChunk || store_.chunk_room(kept));
}

void Contents::remove_record(ObjectRef ref) {
  if (room_.pool_of(store_.object(ref).page) == Pool::pd) --pd_objects_;
  store_.remove_object(ref);
}

std::uint16_t Contents::add_geometry(std::vector<Group> groups) {
  if (geometries_.size() == UINT16_MAX) {
    throw BadArgument("65535 geometries are registered, the most a table can have");
  }
  geometries_.emplace_back(std::move(groups));
  return static_cast<std::uint16_t>(geometries_.size() - 1);
}

const Geometry& Contents::geometry(std::uint32_t number) const {
  if (number >= geometries_.size()) {
    throw GeometryUnknown("geometry " + std::to_string(number) + " was never added");
  }
  return geometries_[number];
}

std::uint64_t Contents::groups_by_object(const Geometry& own, ChunkId id,
                                         std::uint32_t states) const {
  std::array<std::uint32_t, Geometry::kGroupsMax> shards{};
  store_.each_object(id, [&](ObjectRef, const Object& object) {
    if ((states & state_bit(object.state)) != 0 && !object.damaged) {
      ++shards[own.slots()[object.slot].group];
    }
  });
  std::uint64_t groups = 0;
  for (std::size_t group = 0; group < own.groups().size(); ++group) {
    if (shards[group] == own.groups()[group].shard_bytes.size()) groups |= 1ULL << group;
  }
  return groups;
}

void Contents::pin(ChunkId id) {
  Chunk& chunk = store_.chunk(id);
  assert(chunk.pins != kPinsMax);
  ++chunk.pins;
  if (chunk.pins != 1) return;
  pages_pinned_ += resident_pages(id);
  unqueue(id);
  story_.tell(chunk.key, Event::pinned);
}

void Contents::unpin(ChunkId id) {
  Chunk& chunk = store_.chunk(id);
  assert(chunk.pins != 0);
  --chunk.pins;
  if (chunk.pins != 0) return;
  pages_pinned_ -= resident_pages(id);
  story_.tell(chunk.key, Event::unpinned);
  if (chunk.indexed) {
    requeue(id);
  } else {
    free_if_unheld(id);
  }
}

void Contents::drop_reader(ObjectRef ref) {
  Object& object = store_.object(ref);
  assert(object.readers > 0);
  if (--object.readers > 0 || object.state != ObjectState::quarantined) return;
  const Slot& slot = slot_of(ref);
  move(object.page, store_.lineage(ref.chunk).tenant, slot.pages, ObjectState::quarantined,
       ObjectState::free);
  story_.tell(store_.chunk(ref.chunk).key, Event::freed, object.slot);
  room_.release(object.page, slot.pages);
  remove_record(ref);
  free_if_unheld(ref.chunk);
}

bool Contents::damage(ObjectRef ref) {
  Object& object = store_.object(ref);
  if (object.state == ObjectState::quarantined || object.damaged) return false;
  story_.tell(store_.chunk(ref.chunk).key, Event::damaged, object.slot);
  if (is_in_flight(object.state)) {
    object.damaged = true;  // its writer or load still holds it, and will discard it
    return true;
  }
  take_out(ref);
  return true;
}

// One RESIDENT object leaves the index, and its chunk with it if it was the last.
void Contents::take_out(ObjectRef ref) {
  assert(store_.object(ref).state == ObjectState::resident);
  const std::uint64_t pages = slot_of(ref).pages;
  const bool last = store_.chunk(ref.chunk).resident == 1;
  if (last) unqueue(ref.chunk);
  Left left;
  leave_index(ref, left);
  if (last) {
    policy_->removed(ref.chunk, fingerprint(ref.chunk), pages, Departure::dropped);
  } else {
    policy_->resized(ref.chunk, -static_cast<std::int64_t>(pages));
  }
  settle(ref.chunk);
}

Contents::Left Contents::evict(ChunkId victim) {
  story_.tell(store_.chunk(victim).key, Event::evicted);
  return take_out(victim, Departure::evicted);
}

Contents::Left Contents::drop(ChunkId id) {
  if (store_.chunk(id).resident == 0) return {};
  story_.tell(store_.chunk(id).key, Event::dropped);
  return take_out(id, Departure::dropped);
}

// All its RESIDENT objects leave the index, and the chunk too if nothing else keeps it.
Contents::Left Contents::take_out(ChunkId id, Departure why) {
  unqueue(id);
  const std::uint64_t pages = resident_pages(id);
  Left left;
  store_.each_object(id, [&](ObjectRef ref, const Object& object) {
    if (object.state == ObjectState::resident) leave_index(ref, left);
  });
  policy_->removed(id, fingerprint(id), pages, why);
  settle(id);
  return left;
}

// The object's pages are free, or QUARANTINED while it has readers. The caller tells the policy and
// settles the chunk.
void Contents::leave_index(ObjectRef ref, Left& left) {
  Object& object = store_.object(ref);
  Chunk& chunk = store_.chunk(ref.chunk);
  const std::uint32_t pages = slot_of(ref).pages;
  const std::uint32_t tenant = store_.lineage(ref.chunk).tenant;
  const ObjectState from = object.state;
  if (from == ObjectState::resident) {
    if (--chunk.resident == 0) changes_.went(chunk.key, ref.chunk);
    if (chunk.pins > 0) pages_pinned_ -= pages;
  } else {
    --store_.lineage(ref.chunk).in_flight;
    update_base(ref.chunk);
  }
  --objects_live_;
  if (live(ref.chunk) == 0) --chunks_with_objects_;
  ++left.objects;
  if (object.readers > 0) {
    object.state = ObjectState::quarantined;
    store_.set_runs(ref, {});
    move(object.page, tenant, pages, from, ObjectState::quarantined);
    left.pages_quarantined += pages;
    story_.tell(chunk.key, Event::quarantined, object.slot);
    return;
  }
  move(object.page, tenant, pages, from, ObjectState::free);
  left.pages_freed += pages;
  story_.tell(chunk.key, Event::freed, object.slot);
  room_.release(object.page, pages);
  remove_record(ref);
}

std::uint64_t Contents::resident_pages(ChunkId id) const {
  const Chunk& chunk = store_.chunk(id);
  if (chunk.resident == 0) return 0;
  const Geometry& geometry = geometries_[chunk.geometry];
  if (chunk.resident == geometry.slot_count()) return geometry.pages_total();
  std::uint64_t pages = 0;
  store_.each_object(id, [&](ObjectRef, const Object& object) {
    if (object.state == ObjectState::resident) pages += geometry.slots()[object.slot].pages;
  });
  return pages;
}

std::uint64_t Contents::metadata_bytes() const {
  return store_.bytes() + room_.metadata_bytes() + policy_->extra_bytes() + own_.bytes() +
         store_.chunks_ever() * static_cast<std::uint64_t>(sizeof(PolicyNode));
}

std::uint64_t Contents::fingerprint(ChunkId id) const {
  const Key& key = store_.chunk(id).key;
  return key.words[0] ^ key.words[1];
}

void Contents::update_base(ChunkId id) {
  const Lineage& lineage = store_.lineage(id);
  store_.chunk(id).base = lineage.children > 0 || lineage.in_flight > 0 ? 1 : 0;
}

void Contents::unqueue(ChunkId id) {
  Chunk& chunk = store_.chunk(id);
  if (!chunk.queued) return;
  chunk.queued = 0;
  if (chunk.listed) {
    chunk.listed = 0;
    own_.remove(store_.lineage(id).tenant, id);
  }
  policy_->leave(id);
}

// It has become a candidate: of its tenant's own, too, if that may be short of them.
void Contents::list(ChunkId id, ChunkId child) {
  const std::uint32_t tenant = store_.lineage(id).tenant;
  if (!ledger_.has_quota(tenant)) return;
  store_.chunk(id).listed = 1;
  if (child != kNoChunk) {
    own_.add_oldest(tenant, id);
  } else {
    own_.add_newest(tenant, id);
  }
}

// Whether the chunk is a candidate has perhaps changed; if so, because `child` has left, unless
// that is kNoChunk.
void Contents::requeue(ChunkId id, ChunkId child) {
  Chunk& chunk = store_.chunk(id);
  const bool candidate = chunk.indexed && !chunk.base && chunk.pins == 0 && chunk.resident > 0;
  if (candidate == (chunk.queued != 0)) return;
  if (!candidate) {
    unqueue(id);
    return;
  }
  chunk.queued = 1;
  if (ledger_.any_quota()) list(id, child);
  if (child != kNoChunk) {
    policy_->exposed(id, child);
  } else {
    policy_->enter(id);
  }
}

// Objects or children of the chunk have gone: when it has none left it leaves the index, and then
// perhaps its parent does, which may have been waiting for that.
void Contents::settle(ChunkId id) {
  ChunkId child = kNoChunk;
  while (id != kNoChunk) {
    Lineage& lineage = store_.lineage(id);
    if (!store_.chunk(id).indexed) {
      free_if_unheld(id);
      return;
    }
    if (live(id) > 0 || lineage.children > 0) {
      requeue(id, child);
      return;
    }
    const ChunkId parent = std::exchange(lineage.parent, kNoChunk);
    store_.unindex(id);
    free_if_unheld(id);
    if (parent == kNoChunk) return;
    --store_.lineage(parent).children;
    update_base(parent);
    child = std::exchange(id, parent);
  }
}

void Contents::free_if_unheld(ChunkId id) {
  const Chunk& chunk = store_.chunk(id);
  if (!chunk.indexed && chunk.pins == 0 && !store_.has_objects(id)) store_.free(id);
}

}  // namespace penstock
