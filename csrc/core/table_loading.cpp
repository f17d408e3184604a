// The table, for what is loaded from below: what is missing, whose watermark moves, and what is
// left of a load that failed in part.
#include <algorithm>
#include <limits>
#include <utility>

#include "core/table.hpp"

namespace penstock {

// Chunk-major, one for each slot of the geometry.
std::vector<Presence> Table::presence(KeyBatch keys, std::uint32_t number) {
  begin();
  const Geometry& geometry = contents_.geometry(number);
  require_count(keys);
  const std::size_t width = geometry.slot_count();
  std::vector<Presence> present(keys.size() * width, Presence::absent);
  if (found_.size() < keys.size()) found_.resize(keys.size());
  const std::span<ChunkId> found = std::span(found_).first(keys.size());
  contents_.find(keys, found);
  hide_foreign(found, number);
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i] == kNoChunk) continue;
    const std::span<Presence> row = std::span(present).subspan(i * width, width);
    if (contents_.chunk(found[i]).resident == width) {
      std::ranges::fill(row, Presence::resident);
      continue;
    }
    contents_.store().each_object(found[i], [&](ObjectRef, const Object& object) {
      if (object.damaged || object.state == ObjectState::quarantined) return;
      row[object.slot] =
          object.state == ObjectState::resident ? Presence::resident : Presence::coming;
    });
  }
  return present;
}

bool Table::has_ticket(const Id& id) {
  begin();
  return tickets_.contains(id);
}

void Table::tell_end(const Id& id) {
  begin();
  ticket_of(id).end_is_told = true;
}

std::vector<Id> Table::take_ended() {
  begin();
  return std::exchange(ended_, {});
}

Table::Hit Table::follow(const Id& id, KeyBatch keys, double now) {
  begin(now);
  return grow(ticket_of(id), keys, Contents::kReadable, Sight::far);
}

Table::Hit Table::step(const Id& id, KeyBatch keys, double now) {
  begin(now);
  return grow(ticket_of(id), keys, Contents::kReadable, Sight::near);
}

// Pins what has become readable beyond the ticket's end, where an object in one of `states` counts.
// What the ticket has already counts as it was counted then. With nothing but full groups only what
// is new is looked at, and of what is promised, with `Sight::near`, no more than that.
Table::Hit Table::grow(Ticket& ticket, KeyBatch keys, std::uint32_t states, Sight sight) {
  require_count(keys);
  require_prompt_of(ticket, keys);
  const auto end = static_cast<std::uint32_t>(ticket.chunks.size());
  if (end == keys.size()) return {end, end};
  const Geometry& geometry = contents_.geometry(ticket.geometry);
  const bool only_full = geometry.full_groups() == geometry.all_groups();
  HitScan reached(geometry);
  HitScan later(geometry);
  if (!only_full) {
    for (const ChunkId id : ticket.chunks) {
      const std::uint64_t groups = contents_.groups_in(geometry, id, Contents::kReadableByLoad);
      reached.feed(groups);
      later.feed(groups);
    }
  }
  const std::size_t more = keys.size() - end;
  if (found_.size() < more) found_.resize(more);
  const bool is_near = sight == Sight::near && only_full;
  for (std::size_t base = 0; base < more && !later.over(); base += ChunkStore::kWindow) {
    if (is_near && reached.over()) break;
    const std::size_t count = std::min(ChunkStore::kWindow, more - base);
    const std::span<ChunkId> found = std::span(found_).subspan(base, count);
    contents_.find(keys.range(end + base, count), found);
    hide_foreign(found, ticket.geometry);
    for (const ChunkId id : found) {
      reached.feed(contents_.groups_in(geometry, id, states));
      later.feed(contents_.groups_in(geometry, id, Contents::kPromised));
    }
  }
  const std::uint32_t known = only_full ? end : 0;
  const Hit hit{std::max(end, known + reached.hit()), std::max(end, known + later.hit())};
  if (hit.hit > end) {
    const std::span<const ChunkId> gained = std::span(found_).first(hit.hit - end);
    require_pins(gained);
    pin_for(ticket, gained);
  }
  return hit;
}

// The rest of the lease leaves the index; its memory comes back when the lease is ended, which
// whoever may still write it says by that.
bool Table::salvage(const Id& id, std::uint64_t session, const Id& into) {
  begin();
  const BookId place = lease_of(id, session, Lease::Kind::write);
  if (place == kNoBookId || leases_[place].overdue) {
    static_cast<void>(stale());
    return false;
  }
  if (leases_.contains(into)) throw IdTaken("a live lease has this id; draw another");
  Lease& lease = leases_[place];
  // What is whole needs a lease of its own: the old one lasts until nobody writes any more. Without
  // one nothing is kept, and the loader hears that all was lost.
  std::vector<ObjectRef> whole(leases_.full() ? 0 : lease.objects.size());
  std::uint32_t count = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const ObjectRef ref = lease.objects[i];
    if (ref.none() || contents_.object(ref).state != ObjectState::loaded) continue;
    whole[i] = std::exchange(lease.objects[i], ObjectRef{});
    ++count;
  }
  lease.objects_left -= count;
  const std::uint16_t geometry = lease.geometry;
  const Pool pool = lease.pool;
  std::vector<std::uint16_t> slots = lease.slots;
  Step all;
  make_overdue(place, all);
  if (count == 0) return false;
  Lease& left = leases_[open_lease(into, session, Lease::Kind::write,
                                   std::numeric_limits<double>::infinity())];
  left.geometry = geometry;
  left.pool = pool;
  left.slots = std::move(slots);
  left.objects = std::move(whole);
  left.objects_left = count;
  return true;
}

}  // namespace penstock
