// Contents: how objects come to be.
#include <cassert>

#include "core/contents.hpp"

namespace penstock {

Contents::Grant Contents::reserve(const Key& key, ChunkId& id, std::uint16_t geometry,
                                  std::uint16_t slot, std::uint32_t tenant, Pool pool) {
  if (id != kNoChunk) {
    const ObjectRef present = store_.find_object(id, slot);
    if (!present.none()) {
      const bool resident = store_.object(present).state == ObjectState::resident;
      return {resident ? Answer::resident : Answer::in_flight, {}};
    }
  }
  const bool taken = id != kNoChunk && live(id) > 0;
  const std::uint32_t payer = taken ? store_.lineage(id).tenant : tenant;
  const std::uint32_t pages = geometries_[geometry].slots()[slot].pages;
  if (pool == Pool::cache && !ledger_.within_quota(payer, pages)) return {Answer::quota, {}};
  if (!has_record(pool, id)) return {Answer::no_room, {}};
  const std::optional<std::uint32_t> page = room_.allocate(pool, pages);
  if (!page) return {Answer::no_room, {}};
  if (id == kNoChunk) id = store_.create(key, geometry);
  if (!taken) {
    store_.lineage(id).tenant = tenant;
    ++chunks_with_objects_;
  }
  const ObjectRef made = store_.add_object(id, slot, *page);
  ++objects_live_;
  if (pool == Pool::pd) ++pd_objects_;
  ++store_.lineage(id).in_flight;
  store_.chunk(id).base = 1;
  unqueue(id);
  move(*page, payer, pages, ObjectState::free, ObjectState::reserved);
  story_.tell(key, Event::reserved, slot);
  return {Answer::granted, made};
}

void Contents::adopt(ChunkId parent, ChunkId child, std::uint32_t& ancestors_left) {
  if (parent == kNoChunk || child == kNoChunk) return;
  if (store_.lineage(child).parent != kNoChunk) return;
  if (rests_on(parent, child, ancestors_left)) return;
  store_.lineage(child).parent = parent;
  ++store_.lineage(parent).children;
  store_.chunk(parent).base = 1;
  unqueue(parent);
  policy_->extended(parent);
}

// When no more ancestors may be looked at, what might be a circle is taken for one.
bool Contents::rests_on(ChunkId id, ChunkId ancestor, std::uint32_t& ancestors_left) const {
  if (id == ancestor) return true;
  if (store_.lineage(ancestor).children == 0) return false;
  for (; id != kNoChunk; id = store_.lineage(id).parent) {
    if (id == ancestor || ancestors_left == 0) return true;
    --ancestors_left;
  }
  return false;
}

void Contents::load(ObjectRef ref, std::uint64_t digest, std::span<const std::uint64_t> runs) {
  Object& object = store_.object(ref);
  assert(object.state == ObjectState::reserved);
  object.state = ObjectState::loaded;
  object.digest = digest;
  store_.set_runs(ref, runs);
  move(object.page, store_.lineage(ref.chunk).tenant, slot_of(ref).pages, ObjectState::reserved,
       ObjectState::loaded);
  story_.tell(store_.chunk(ref.chunk).key, Event::loaded, object.slot);
}

bool Contents::commit(ObjectRef ref, std::uint64_t digest, std::span<const std::uint64_t> runs,
                      std::uint64_t stamp) {
  store_.object(ref).digest = digest;
  store_.set_runs(ref, runs);
  return commit(ref, stamp);
}

bool Contents::commit(ObjectRef ref, std::uint64_t stamp) {
  Object& object = store_.object(ref);
  assert(is_in_flight(object.state) && room_.pool_of(object.page) == Pool::cache);
  if (object.damaged) {
    discard(ref);
    return false;
  }
  Chunk& chunk = store_.chunk(ref.chunk);
  Lineage& lineage = store_.lineage(ref.chunk);
  const std::uint32_t pages = slot_of(ref).pages;
  ledger_.move(lineage.tenant, pages, object.state, ObjectState::resident);
  object.state = ObjectState::resident;
  if (--lineage.in_flight == 0) update_base(ref.chunk);
  if (chunk.pins > 0) pages_pinned_ += pages;
  if (++chunk.resident == 1) {
    policy_->added(ref.chunk, fingerprint(ref.chunk), pages, stamp);
    changes_.came(chunk.key, ref.chunk);
  } else {
    policy_->resized(ref.chunk, pages);
  }
  requeue(ref.chunk);
  story_.tell(chunk.key, Event::committed, object.slot);
  return true;
}

void Contents::discard(ObjectRef ref) {
  assert(is_in_flight(store_.object(ref).state));
  story_.tell(store_.chunk(ref.chunk).key, Event::discarded, store_.object(ref).slot);
  Left left;
  leave_index(ref, left);
  settle(ref.chunk);
}

PageRun Contents::quarantine(ObjectRef reserved) {
  Object& object = store_.object(reserved);
  assert(object.state == ObjectState::reserved && object.readers == 0);
  const PageRun run{object.page, slot_of(reserved).pages};
  Lineage& lineage = store_.lineage(reserved.chunk);
  move(run.first, lineage.tenant, run.pages, ObjectState::reserved, ObjectState::quarantined);
  story_.tell(store_.chunk(reserved.chunk).key, Event::quarantined, object.slot);
  --lineage.in_flight;
  update_base(reserved.chunk);
  --objects_live_;
  if (live(reserved.chunk) == 0) --chunks_with_objects_;
  remove_record(reserved);
  settle(reserved.chunk);
  return run;
}

void Contents::free_quarantined(PageRun run) {
  if (run.pages == 0) return;
  // The tenant paid until the object left the index.
  move(run.first, 0, run.pages, ObjectState::quarantined, ObjectState::free);
  room_.release(run.first, run.pages);
}

}  // namespace penstock
