// The table: its numbers, and whether it still holds together.
#include <stdexcept>

#include "core/table.hpp"

namespace penstock {
namespace {

[[noreturn]] void broken(const std::string& what) {
  throw std::logic_error("table: " + what);
}

void require(bool holds, const char* what) {
  if (!holds) broken(what);
}

std::uint64_t packed(ObjectRef ref) {
  return static_cast<std::uint64_t>(ref.chunk) << 32U | ref.object;
}

}  // namespace

std::uint64_t Table::free_bytes() {
  begin();
  return contents_.room().pages_free(Pool::cache) * kPageBytes;
}

Table::Statistics Table::statistics() {
  begin();
  const Ledger& ledger = contents_.ledger();
  const ArenaRoom& room = contents_.room();
  const auto bytes = [&](ObjectState state, Pool pool = Pool::cache) {
    return ledger.pages(state, pool) * kPageBytes;
  };
  const std::uint32_t indexed = contents_.store().chunks_indexed();
  return {
      .bytes_total = room.pages_total(Pool::cache) * kPageBytes,
      .bytes_free = room.pages_free(Pool::cache) * kPageBytes,
      .bytes_reserved = bytes(ObjectState::reserved),
      .bytes_loaded = bytes(ObjectState::loaded),
      .bytes_resident = bytes(ObjectState::resident),
      .bytes_quarantined = bytes(ObjectState::quarantined),
      .bytes_pinned = contents_.pages_pinned() * kPageBytes,
      .largest_free_bytes = room.largest_free_pages(Pool::cache) * kPageBytes,
      .chunks = contents_.chunks_with_objects(),
      .placeholders = indexed - contents_.chunks_with_objects(),
      .objects = contents_.objects_live(),
      .leases = leases_.size() - leases_overdue_,
      .overdue_leases = leases_overdue_,
      .tickets = tickets_.size(),
      .sessions = static_cast<std::uint32_t>(sessions_.size()),
      .metadata_bytes = contents_.metadata_bytes(),
      .evicted_chunks = counters_.evicted_chunks,
      .evicted_bytes = counters_.evicted_bytes,
      .damaged_objects = counters_.damaged_objects,
      .discarded_objects = counters_.discarded_objects,
      .expired_leases = counters_.expired_leases,
      .stale_calls = counters_.stale_calls,
      .returned_handles = counters_.returned_handles,
      .pd_bytes_total = room.pages_total(Pool::pd) * kPageBytes,
      .pd_bytes_free = room.pages_free(Pool::pd) * kPageBytes,
      .pd_bytes_reserved = bytes(ObjectState::reserved, Pool::pd),
      .pd_bytes_loaded = bytes(ObjectState::loaded, Pool::pd),
      .pd_bytes_quarantined = bytes(ObjectState::quarantined, Pool::pd),
      .pd_largest_free_bytes = room.largest_free_pages(Pool::pd) * kPageBytes,
  };
}

std::vector<std::string> Table::story(const Key& key) {
  begin();
  return contents_.story().of(key);
}

void Table::validate() {
  begin();
  Contents::Holdings holdings;
  holdings.pins.resize(contents_.store().chunks_ever());
  validate_leases(holdings);
  validate_tickets(holdings);
  contents_.validate(holdings);
}

// Adds what leases hold to `holdings`.
void Table::validate_leases(Contents::Holdings& holdings) const {
  std::uint32_t overdue = 0;
  std::unordered_map<std::uint64_t, std::uint64_t> pages_overdue;
  std::unordered_map<std::uint64_t, std::uint32_t> sessions;
  leases_.each([&](BookId place, const Lease& lease) {
    const auto session = sessions_.find(lease.session);
    require(session != sessions_.end(), "a lease of no session");
    require(!session->second.lost || lease.is_overdue_whole(), "a live lease of a lost session");
    require(!lease.is_overdue_whole() || !lease_expiry_.contains(place),
            "an overdue lease that expires");
    require(!lease.ending || !lease_expiry_.contains(place), "a lease at its end that expires");
    require(lease.overdue_until <= lease.objects.size() && (lease.overdue || !lease.overdue_until),
            "a lease that is overdue beyond its end");
    require(lease.objects.size() % lease.slots.size() == 0, "a lease of broken rows");
    if (lease.overdue) {
      ++overdue;
      pages_overdue[session->second.instance] += lease.pages_overdue;
    }
    validate_lease(lease, holdings);
  });
  require(overdue == leases_overdue_, "overdue leases miscounted");
  std::uint32_t listed = 0;
  for (const auto& [id, session] : sessions_) {
    ++sessions[session.instance];
    for (BookId place = session.first_lease; place != kNoBookId; place = leases_[place].next) {
      require(leases_[place].session == id, "a lease in another session's list");
      ++listed;
    }
  }
  require(listed == leases_.size(), "a lease in no session's list");
  require(sessions.size() == instances_.size(), "an instance without sessions");
  for (const auto& [id, instance] : instances_) {
    require(instance.sessions == sessions[id], "sessions of an instance miscounted");
    require(instance.pages_overdue == pages_overdue[id], "overdue pages miscounted");
  }
}

void Table::validate_lease(const Lease& lease, Contents::Holdings& holdings) const {
  const ArenaRoom& room = contents_.room();
  const std::vector<Slot>& slots = contents_.geometry(lease.geometry).slots();
  std::uint32_t present = 0;
  std::uint64_t pages = 0;  // of an overdue reservation
  ChunkId pinned = kNoChunk;
  for (std::size_t i = 0; i < lease.objects.size(); ++i) {
    const ObjectRef ref = lease.objects[i];
    if (i % lease.slots.size() == 0) pinned = kNoChunk;
    if (ref.none()) continue;
    const Object& object = contents_.object(ref);
    require(lease.kind == Lease::Kind::read || room.pool_of(object.page) == lease.pool,
            "a reservation in the wrong part of the arena");
    require(lease.kind == Lease::Kind::write || lease.session == kOwnSession ||
                object.state != ObjectState::reserved,
            "an engine reads what is being written");
    if (lease.kind == Lease::Kind::write && i < lease.overdue_until) {
      require(object.state == ObjectState::quarantined, "an overdue writer's object in the index");
      holdings.readers.push_back(packed(ref));
      pages += slots[lease.slots[i % lease.slots.size()]].pages;
      continue;
    }
    ++present;
    (lease.kind == Lease::Kind::read ? holdings.readers : holdings.in_flight)
        .push_back(packed(ref));
    if (lease.kind == Lease::Kind::write || i < lease.overdue_until) continue;
    if (pinned == kNoChunk) ++holdings.pins[ref.chunk];
    pinned = ref.chunk;
  }
  if (lease.kind == Lease::Kind::read) return;
  require(present == lease.objects_left, "a reservation's objects miscounted");
  require(!lease.is_overdue_whole() || present == 0, "objects in flight of an overdue lease");
  require(lease.overdue || lease.ending || present > 0, "a reservation with nothing left");
  require(lease.quarantined.size() == lease.overdue_until, "quarantine of a part not overdue");
  for (const PageRun run : lease.quarantined) {
    pages += run.pages;
    if (run.pages > 0) holdings.quarantined.push_back(run);
  }
  require(pages == lease.pages_overdue, "a reservation's quarantined pages miscounted");
}

// Adds what tickets pin to `holdings`.
void Table::validate_tickets(Contents::Holdings& holdings) const {
  tickets_.each([&](BookId, const Ticket& ticket) {
    require(instances_.contains(ticket.instance), "a ticket of no instance");
    require(ticket.ranks.size() <= ticket.readers, "more ranks than readers");
    for (const ChunkId id : ticket.chunks) {
      if (id != kNoChunk) ++holdings.pins[id];
    }
  });
  std::uint32_t listed = 0;
  for (const auto& [id, instance] : instances_) {
    for (BookId place = instance.first_ticket; place != kNoBookId; place = tickets_[place].next) {
      require(tickets_[place].instance == id, "a ticket in another instance's list");
      ++listed;
    }
  }
  require(listed == tickets_.size(), "a ticket in no instance's list");
}

}  // namespace penstock
