// The table: what the node itself reads, to save it elsewhere: objects by name, what engines have
// committed, and what eviction would take next. Borrowing touches no chunk: it is no use of it.
#include <algorithm>
#include <cmath>
#include <string_view>

#include "core/borrowing.hpp"
#include "core/table.hpp"

namespace penstock {

void Table::require_borrower(const BorrowRequest& request) {
  if (std::isnan(request.expires)) throw BadArgument("expires is not a number; give seconds");
  require_lease_room(attached(request.session), request.lease);
}

// The RESIDENT objects of a chunk, by slot, as a new row, if there are any. `wanted`: by slot,
// those that are not 0; empty: all.
void Table::pick_chunk(ChunkId id, Picks& picks, std::string_view wanted) {
  std::vector<Picks::Pick> row;
  contents_.store().each_object(id, [&](ObjectRef ref, const Object& object) {
    if (object.state != ObjectState::resident) return;
    if (wanted.empty() || wanted[object.slot] != 0) row.push_back({ref, 0, object.slot});
  });
  if (row.empty()) return;
  std::ranges::sort(row, {}, &Picks::Pick::slot);
  picks.begin_row();
  for (const Picks::Pick& pick : row) picks.add(pick.ref, pick.slot);
}

// A read lease of what was picked. Throws TableFull, and holds nothing then.
void Table::hold_picks(const Picks& picks, std::uint32_t geometry, const BorrowRequest& request) {
  if (picks.empty()) return;
  std::vector<std::uint16_t> slots = picks.slots();
  std::vector<ObjectRef> objects = picks.grid();
  hold(objects, slots.size());
  Lease& lease =
      leases_[open_lease(request.lease, request.session, Lease::Kind::read, request.expires)];
  lease.geometry = static_cast<std::uint16_t>(geometry);
  lease.slots = std::move(slots);
  lease.objects = std::move(objects);
}

void Table::tell_borrowed(ObjectRef ref, Borrowed& borrowed) const {
  const Object& object = contents_.object(ref);
  const Slot& slot = contents_.slot_of(ref);
  const Key& key = contents_.chunk(ref.chunk).key;
  if (borrowed.keys.empty() || !(borrowed.keys.back() == key)) borrowed.keys.push_back(key);
  std::span<const std::uint64_t> runs = contents_.store().runs(ref);
  if (slot.runs == 1) runs = {&object.digest, 1};
  borrowed.objects.push_back({
      .offset = object.page * kPageBytes,
      .bytes = slot.bytes,
      .digest = object.digest,
      .chunk = static_cast<std::uint32_t>(borrowed.keys.size() - 1),
      .tenant = contents_.store().lineage(ref.chunk).tenant,
      .slot = object.slot,
      .reserved = 0,
      .runs = static_cast<std::uint32_t>(runs.size()),
  });
  borrowed.runs.insert(borrowed.runs.end(), runs.begin(), runs.end());
  borrowed.bytes += slot.pages * kPageBytes;
}

Table::Borrowed Table::borrow(KeyBatch keys, std::uint32_t number, const BorrowRequest& request,
                              std::string_view wanted) {
  begin(request.now);
  require_count(keys);
  const Geometry& geometry = contents_.geometry(number);
  const std::size_t width = geometry.slot_count();
  if (!wanted.empty() && wanted.size() != keys.size() * width) {
    throw BadArgument("wanted has " + std::to_string(wanted.size()) + " bytes for " +
                      std::to_string(keys.size()) + " chunks of " + std::to_string(width) +
                      " slots; give one for each object, or none");
  }
  if (keys.size() * geometry.slot_count() > (std::uint64_t{1} << 20U)) {
    throw BadArgument(std::to_string(keys.size()) + " chunks of " +
                      std::to_string(geometry.slot_count()) +
                      " slots: give at most 1048576 objects a lease");
  }
  require_borrower(request);
  if (found_.size() < keys.size()) found_.resize(keys.size());
  const std::span<ChunkId> found = std::span(found_).first(keys.size());
  contents_.find(keys, found);
  hide_foreign(found, number);
  Picks picks(geometry);
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i] == kNoChunk || contents_.chunk(found[i]).resident == 0) continue;
    pick_chunk(found[i], picks, wanted.empty() ? wanted : wanted.substr(i * width, width));
  }
  hold_picks(picks, number, request);
  Borrowed borrowed{.geometry = number};
  for (const Picks::Pick& pick : picks.picks()) tell_borrowed(pick.ref, borrowed);
  return borrowed;
}

// What is still written: a part of it may be whole, as only its writer knows. Its readers keep the
// memory when the reservation has ended, however that was.
Table::Borrowed Table::borrow_writing(const Id& lease, std::uint64_t writer,
                                      std::span<const std::uint32_t> indices,
                                      const BorrowRequest& request) {
  begin(request.now);
  require_borrower(request);
  const BookId place = lease_of(lease, writer, Lease::Kind::write);
  if (place == kNoBookId || leases_[place].overdue) {
    static_cast<void>(stale());
    return {.geometry = UINT32_MAX, .over = true};
  }
  const Lease& writing = leases_[place];
  const std::size_t width = writing.slots.size();
  Borrowed borrowed{.geometry = writing.geometry};
  Picks picks(contents_.geometry(writing.geometry));
  std::size_t next = 0;        // the least that may follow
  std::size_t row = SIZE_MAX;  // of the pick before
  for (const std::uint32_t index : indices) {
    const ObjectRef ref = index < writing.objects.size() ? writing.objects[index] : ObjectRef{};
    if (index < next || ref.none() || contents_.object(ref).state != ObjectState::reserved) {
      throw BadArgument("index " + std::to_string(index) + " of a reservation of " +
                        std::to_string(writing.objects.size()) +
                        " objects: give what was granted and is not committed, in ascending order");
    }
    next = std::size_t{index} + 1;
    if (contents_.object(ref).readers + 1 >= kReadersMax) {  // the writer may become one, too
      throw TableFull("an object has 65534 readers; release some leases first");
    }
    if (row != index / width) picks.begin_row();
    row = index / width;
    picks.add(ref, writing.slots[index % width]);
  }
  hold_picks(picks, borrowed.geometry, request);
  for (const Picks::Pick& pick : picks.picks()) tell_borrowed(pick.ref, borrowed);
  return borrowed;
}

// The oldest news of one geometry and one tenant. What `bytes_max` leaves no room for is only
// named.
Table::Borrowed Table::take_committed(std::uint32_t objects_max, std::uint64_t bytes_max,
                                      const BorrowRequest& request) {
  begin(request.now);
  require_borrower(request);
  Borrowed borrowed{.geometry = UINT32_MAX};
  std::optional<Picks> picks;
  const CommitNews::Item* last = nullptr;  // of the row under way
  std::vector<CommitNews::Item> taken;     // in place: `last` points into it
  taken.reserve(std::min(objects_max, news_.size()));
  std::uint64_t bytes = 0;
  std::uint32_t tenant = 0;
  while (taken.size() + borrowed.gone < objects_max && !news_.empty()) {
    const CommitNews::Item& item = news_.oldest();
    const ChunkId id = contents_.find(item.key);
    const ObjectRef ref =
        id == kNoChunk ? ObjectRef{} : contents_.store().find_object(id, item.slot);
    if (ref.none() || contents_.object(ref).state != ObjectState::resident) {
      ++borrowed.gone;
      news_.pop();
      continue;
    }
    const std::uint32_t geometry = contents_.chunk(id).geometry;
    const std::uint32_t its_tenant = contents_.store().lineage(id).tenant;
    if (!picks) {
      picks.emplace(contents_.geometry(borrowed.geometry = geometry));
      tenant = its_tenant;
    }
    if (geometry != borrowed.geometry || its_tenant != tenant || !picks->has_room(item.slot)) break;
    taken.push_back(item);
    news_.pop();
    const Slot& slot = contents_.slot_of(ref);
    if (bytes + slot.pages * kPageBytes > bytes_max) {
      borrowed.named.push_back({taken.back().key, slot.bytes, taken.back().slot});
      continue;
    }
    bytes += slot.pages * kPageBytes;
    if (last == nullptr || !(last->key == taken.back().key) || last->slot >= taken.back().slot) {
      picks->begin_row();
    }
    picks->add(ref, taken.back().slot);
    last = &taken.back();
  }
  if (!picks) return borrowed;
  hold_picks(*picks, borrowed.geometry, request);
  for (const Picks::Pick& pick : picks->picks()) tell_borrowed(pick.ref, borrowed);
  return borrowed;
}

// What evict() would take, held and not evicted; of the first one's geometry. In some steps all are
// spared: then there is none, and it is not over.
Table::Borrowed Table::victims(std::uint64_t bytes_wanted, std::uint32_t chunks_max,
                               const BorrowRequest& request) {
  begin(request.now);
  require_borrower(request);
  static_cast<void>(contents_.next_stamp());
  const std::uint64_t pages = bytes_wanted / kPageBytes + (bytes_wanted % kPageBytes > 0 ? 1 : 0);
  const std::vector<ChunkId> chosen = contents_.choose(pages, chunks_max);
  if (chosen.empty()) return {.geometry = UINT32_MAX, .over = contents_.victim() == kNoChunk};
  return lend(chosen, request);
}

Table::Borrowed Table::victims_own(std::uint32_t tenant, std::uint64_t bytes_wanted,
                                   std::uint32_t chunks_max, const BorrowRequest& request) {
  begin(request.now);
  require_borrower(request);
  static_cast<void>(contents_.next_stamp());
  const std::uint64_t pages = bytes_wanted / kPageBytes + (bytes_wanted % kPageBytes > 0 ? 1 : 0);
  const std::vector<ChunkId> chosen = contents_.choose_own(tenant, pages, chunks_max);
  if (chosen.empty()) return {.geometry = UINT32_MAX, .over = true};
  return lend(chosen, request);
}

// All of these chunks, which are of one geometry.
Table::Borrowed Table::lend(const std::vector<ChunkId>& chosen, const BorrowRequest& request) {
  Borrowed borrowed{.geometry = contents_.chunk(chosen.front()).geometry};
  Picks picks(contents_.geometry(borrowed.geometry));
  for (const ChunkId id : chosen) pick_chunk(id, picks);
  hold_picks(picks, borrowed.geometry, request);
  for (const Picks::Pick& pick : picks.picks()) tell_borrowed(pick.ref, borrowed);
  return borrowed;
}

// Those of these chunks that nobody holds, in this order; what has been read meanwhile included.
Table::Evicted Table::evict_these(KeyBatch keys, double now) {
  begin(now);
  Evicted evicted;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const ChunkId id = contents_.find(keys[i]);
    if (id != kNoChunk && contents_.chunk(id).queued) evict_one(id, evicted);
  }
  count_evicted(evicted);
  return evicted;
}

Outcome Table::let_go(const Id& id, std::uint64_t session, double now) {
  begin(now);
  const BookId place = lease_of(id, session, Lease::Kind::read);
  if (place == kNoBookId || leases_[place].overdue) return stale();
  Step whole;
  make_overdue(place, whole);
  return Outcome::ok;
}

std::uint32_t Table::drop_objects(KeyBatch keys, std::span<const std::uint16_t> slots) {
  begin();
  if (keys.size() != slots.size()) {
    throw BadArgument(std::to_string(slots.size()) + " slots for " + std::to_string(keys.size()) +
                      " keys; give one for each");
  }
  std::uint32_t dropped = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const ChunkId id = contents_.find(keys[i]);
    if (id == kNoChunk) continue;
    const ObjectRef ref = contents_.store().find_object(id, slots[i]);
    if (ref.none() || contents_.object(ref).state != ObjectState::resident) continue;
    contents_.drop_object(ref);
    ++dropped;
  }
  return dropped;
}

}  // namespace penstock
