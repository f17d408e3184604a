// The table: lookups, tickets and read leases.
#include <algorithm>
#include <cmath>

#include "core/table.hpp"

namespace penstock {
namespace {

constexpr std::uint32_t kReadersPerTicketMax = 128;

[[noreturn]] void throw_unknown_ticket() {
  throw TicketUnknown("no such ticket: it was closed, has expired, or is another instance's");
}

}  // namespace

std::uint32_t Table::peek(KeyBatch keys, std::uint32_t geometry) {
  begin();
  return scan(keys, geometry).hit;
}

std::uint32_t Table::promised(KeyBatch keys, std::uint32_t geometry) {
  begin();
  return scan(keys, geometry).promised;
}

// To a reader a chunk of another geometry is as good as absent: nothing of it can be read, and who
// wrote it is no fault of the reader's.
void Table::hide_foreign(std::span<ChunkId> found, std::uint32_t geometry) const {
  for (ChunkId& id : found) {
    if (id != kNoChunk && contents_.chunk(id).geometry != geometry) id = kNoChunk;
  }
}

// Leaves the chunks it looked at in found_; these are all up to the promised ones.
Table::Hit Table::scan(KeyBatch keys, std::uint32_t number) {
  const Geometry& geometry = contents_.geometry(number);
  require_count(keys);
  if (found_.size() < keys.size()) found_.resize(keys.size());
  HitScan now(geometry);
  HitScan later(geometry);
  for (std::size_t base = 0; base < keys.size() && !later.over(); base += ChunkStore::kWindow) {
    const std::size_t count = std::min(ChunkStore::kWindow, keys.size() - base);
    const std::span<ChunkId> found = std::span(found_).subspan(base, count);
    contents_.find(keys.range(base, count), found);
    hide_foreign(found, number);
    for (const ChunkId id : found) {
      if (id != kNoChunk) contents_.prefetch_policy(id);
    }
    for (const ChunkId id : found) {
      const std::uint64_t readable = contents_.groups_in(geometry, id, Contents::kReadable);
      now.feed(readable);
      later.feed(readable == geometry.all_groups()
                     ? readable
                     : contents_.groups_in(geometry, id, Contents::kPromised));
    }
  }
  return {now.hit(), later.hit()};
}

Table::Hit Table::lookup(KeyBatch keys, const TicketRequest& request) {
  begin(request.now);
  require_ticket(request);
  const Hit hit = scan(keys, request.geometry);
  if (hit.hit > 0) {
    const std::span<const ChunkId> chunks = std::span(found_).first(hit.hit);
    require_pins(chunks);
    Ticket& ticket = tickets_[make_ticket(request)];
    ticket.looked_up = hit.hit;
    pin_for(ticket, chunks);
  }
  return hit;
}

void Table::open_ticket(const TicketRequest& request) {
  begin(request.now);
  require_ticket(request);
  static_cast<void>(contents_.geometry(request.geometry));
  make_ticket(request);
}

std::uint32_t Table::extend(const Id& id, KeyBatch keys, double now) {
  begin(now);
  return grow(ticket_of(id), keys, Contents::kReadableByLoad, Sight::near).hit;
}

Ticket& Table::ticket_of(const Id& id) {
  const BookId place = tickets_.find(id);
  if (place == kNoBookId) throw_unknown_ticket();
  return tickets_[place];
}

void Table::require_ticket(const TicketRequest& request) const {
  if (request.readers < 1 || request.readers > kReadersPerTicketMax) {
    throw BadArgument(std::to_string(request.readers) + " readers: give 1 to 128");
  }
  if (std::isnan(request.expires)) throw BadArgument("expires is not a number; give seconds");
  if (!instances_.contains(request.instance)) {
    throw SessionUnknown("instance " + std::to_string(request.instance) +
                         " has no session; attach one");
  }
  if (tickets_.contains(request.id)) throw IdTaken("a live ticket has this id; draw another");
  if (tickets_.full()) {
    throw TableFull("all " + std::to_string(config_.tickets_max) +
                    " tickets are in use; close some, or raise tickets_max");
  }
}

BookId Table::make_ticket(const TicketRequest& request) {
  const BookId place = tickets_.open(request.id);
  Ticket& ticket = tickets_[place];
  ticket.instance = request.instance;
  ticket.geometry = static_cast<std::uint16_t>(request.geometry);
  ticket.readers = request.readers;
  link_front(tickets_, instances_[request.instance].first_ticket, place);
  ticket_expiry_.add(place, request.expires);
  return place;
}

void Table::require_pins(std::span<const ChunkId> chunks) const {
  for (const ChunkId id : chunks) {
    if (id != kNoChunk) require_pins(id);
  }
}

// Only prompts that repeat one key very often can come near this. What is left is more than
// the 2^20 chunks or objects that one call can name.
void Table::require_pins(ChunkId id) const {
  if (contents_.chunk(id).pins > kPinsMax / 2) {
    throw TableFull("a chunk is pinned 8388608 times; close tickets and release leases first");
  }
}

void Table::pin_for(Ticket& ticket, std::span<const ChunkId> chunks) {
  ticket.chunks.insert(ticket.chunks.end(), chunks.begin(), chunks.end());
  for (const ChunkId id : chunks) contents_.prefetch_neighbours(id);
  touched_.clear();
  for (auto id = chunks.rbegin(); id != chunks.rend(); ++id) {
    if (*id == kNoChunk) continue;
    contents_.pin(*id);
    touched_.push_back(*id);
  }
  contents_.touch(touched_, contents_.next_stamp());
}

void Table::require_prompt_of(const Ticket& ticket, KeyBatch keys) const {
  const std::size_t end = ticket.chunks.size();
  if (keys.size() < end) {
    throw BadKeys(std::to_string(keys.size()) + " keys for a ticket of " + std::to_string(end) +
                  " chunks; give those of the whole prompt");
  }
  if (end == 0 || ticket.chunks[end - 1] == kNoChunk) return;
  if (contents_.chunk(ticket.chunks[end - 1]).key != keys[end - 1]) {
    throw BadKeys("these keys are not those of the ticket's prompt; look that one up anew");
  }
}

Table::Acquired Table::acquire(const Id& id, const AcquireRequest& request) {
  begin(request.now);
  const Session& session = attached(request.session);
  const BookId place = tickets_.find(id);
  if (place == kNoBookId || tickets_[place].instance != session.instance) throw_unknown_ticket();
  Ticket& ticket = tickets_[place];
  if (request.rank >= ticket.readers) {
    throw BadArgument("rank " + std::to_string(request.rank) + " of a ticket with " +
                      std::to_string(ticket.readers) + " readers");
  }
  const BookId before = lease_of_rank(ticket, request.rank);
  if (before != kNoBookId) {
    if (leases_[before].session != request.session) {
      throw RankTaken("rank " + std::to_string(request.rank) + " was acquired by session " +
                      std::to_string(leases_[before].session));
    }
    return acquired(leases_[before]);
  }
  require_slots(contents_.geometry(ticket.geometry), request.slots, ticket.chunks.size());
  if (request.first_chunk > ticket.chunks.size()) {
    throw BadArgument("first_chunk " + std::to_string(request.first_chunk) + " of a ticket with " +
                      std::to_string(ticket.chunks.size()) + " chunks");
  }
  if (std::isnan(request.expires)) throw BadArgument("expires is not a number; give seconds");
  require_lease_room(session, request.lease);
  std::vector<ObjectRef> objects = readable_objects(ticket, request);
  hold(objects, request.slots.size());
  Lease& lease =
      leases_[open_lease(request.lease, request.session, Lease::Kind::read, request.expires)];
  lease.geometry = ticket.geometry;
  lease.slots.assign(request.slots.begin(), request.slots.end());
  lease.objects = std::move(objects);
  set_rank(ticket, request.rank, request.lease);
  return acquired(lease);
}

BookId Table::lease_of_rank(const Ticket& ticket, std::uint32_t rank) const {
  for (const auto& [taken, id] : ticket.ranks) {
    if (taken != rank) continue;
    const BookId place = leases_.find(id);
    if (place == kNoBookId || leases_[place].overdue || leases_[place].ending) return kNoBookId;
    return place;
  }
  return kNoBookId;
}

void Table::set_rank(Ticket& ticket, std::uint32_t rank, const Id& lease) {
  for (auto& [taken, id] : ticket.ranks) {
    if (taken != rank) continue;
    id = lease;
    return;
  }
  ticket.ranks.emplace_back(rank, lease);
}

// Chunk-major. What the lookup pinned must be RESIDENT; what the ticket was extended over may be
// LOADED.
std::vector<ObjectRef> Table::readable_objects(const Ticket& ticket,
                                               const AcquireRequest& request) const {
  const std::span<const ChunkId> chunks = std::span(ticket.chunks).subspan(request.first_chunk);
  const std::size_t width = request.slots.size();
  std::vector<ObjectRef> objects(chunks.size() * width);
  std::vector<ObjectRef> column(width == 1 ? 0 : chunks.size());
  for (std::size_t s = 0; s < width; ++s) {
    const std::span<ObjectRef> found = width == 1 ? std::span(objects) : std::span(column);
    contents_.store().find_objects(chunks, request.slots[s], found);
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      if (found[i].none()) {
        objects[i * width + s] = {};
        continue;
      }
      const bool by_load = request.first_chunk + i >= ticket.looked_up;
      const Object& object = contents_.object(found[i]);
      const std::uint32_t states = by_load ? Contents::kReadableByLoad : Contents::kReadable;
      const bool readable = (states & state_bit(object.state)) != 0 && !object.damaged;
      objects[i * width + s] = readable ? found[i] : ObjectRef{};
    }
  }
  return objects;
}

Table::Acquired Table::acquired(const Lease& lease) const {
  return {lease.id, static_cast<std::uint32_t>(lease.objects.size() / lease.slots.size()),
          extents_of(lease)};
}

Outcome Table::release(const Id& id, std::uint64_t session, std::span<const std::uint32_t> damaged,
                       double now) {
  begin(now);
  const BookId place = lease_of(id, session, Lease::Kind::read);
  if (place == kNoBookId) return stale();
  const Lease& lease = leases_[place];
  for (const std::uint32_t index : damaged) {
    if (index >= lease.objects.size() || lease.objects[index].none()) {
      throw BadArgument("damaged names extent " + std::to_string(index) + ", which is not in " +
                        "this lease");
    }
  }
  for (const std::uint32_t index : damaged) {
    if (contents_.damage(lease.objects[index])) ++counters_.damaged_objects;
  }
  const bool overdue = lease.overdue;
  end_lease(place);
  return overdue ? stale() : Outcome::ok;
}

Outcome Table::close_ticket(const Id& id, std::uint64_t instance) {
  begin();
  const BookId place = tickets_.find(id);
  if (place == kNoBookId || tickets_[place].instance != instance) return stale();
  tickets_[place].end_is_told = false;
  end_ticket(place);
  return Outcome::ok;
}

std::uint32_t Table::chunks_of(const Id& id) {
  begin();
  const BookId place = tickets_.find(id);
  return place == kNoBookId ? 0 : static_cast<std::uint32_t>(tickets_[place].chunks.size());
}

void Table::end_ticket(BookId place) {
  const Ticket& ticket = tickets_[place];
  for (const ChunkId id : ticket.chunks) {
    if (id != kNoChunk) contents_.unpin(id);
  }
  if (ticket.end_is_told) ended_.push_back(ticket.id);
  ticket_expiry_.remove(place);
  unlink(tickets_, instances_[ticket.instance].first_ticket, place);
  tickets_.close(place);
}

std::uint32_t Table::touch(KeyBatch keys, double now) {
  begin(now);
  require_count(keys);
  if (found_.size() < keys.size()) found_.resize(keys.size());
  const std::span<ChunkId> found = std::span(found_).first(keys.size());
  contents_.find(keys, found);
  touched_.clear();
  for (auto id = found.rbegin(); id != found.rend(); ++id) {
    if (*id != kNoChunk && contents_.chunk(*id).resident > 0) touched_.push_back(*id);
  }
  contents_.touch(touched_, contents_.next_stamp());
  return static_cast<std::uint32_t>(touched_.size());
}

}  // namespace penstock
