// The table: what ends without being asked, and what must make room.
#include "core/table.hpp"

namespace penstock {

Table::Expired Table::expire(double now, std::uint32_t objects_max) {
  begin(now);
  Expired expired;
  std::size_t objects = 0;
  const auto due = [&](const ExpiryHeap& heap) {
    return !heap.empty() && heap.next() <= now && (objects == 0 || objects < objects_max);
  };
  while (due(lease_expiry_)) {
    const BookId place = lease_expiry_.next_owner();
    const Lease& lease = leases_[place];
    ++(lease.kind == Lease::Kind::read ? expired.read_leases : expired.write_leases);
    objects += lease.objects.size();
    make_overdue(place);
  }
  while (due(ticket_expiry_)) {
    const BookId place = ticket_expiry_.next_owner();
    ++expired.tickets;
    objects += tickets_[place].chunks.size();
    end_ticket(place);
  }
  return expired;
}

double Table::next_expiry() {
  begin();
  return std::min(lease_expiry_.next(), ticket_expiry_.next());
}

std::uint32_t Table::stream_lost(std::uint64_t id) {
  begin();
  Session& session = attached(id);
  session.lost = true;
  for (BookId place = session.first_lease; place != kNoBookId;) {
    const BookId next = leases_[place].next;
    if (!leases_[place].overdue) make_overdue(place);
    place = next;
  }
  std::uint32_t left = 0;  // a lease that held no memory is over
  for (BookId place = session.first_lease; place != kNoBookId; place = leases_[place].next) ++left;
  return left;
}

std::uint32_t Table::orphan_some(std::uint64_t id, std::uint32_t objects_max) {
  begin();
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return 0;
  std::uint32_t orphaned = 0;
  std::size_t objects = 0;
  for (BookId place = found->second.first_lease; place != kNoBookId;) {
    const Lease& lease = leases_[place];
    const BookId next = lease.next;
    if (!lease.overdue) {
      if (orphaned > 0 && objects >= objects_max) break;
      objects += lease.objects.size();
      make_overdue(place);
      ++orphaned;
    }
    place = next;
  }
  return orphaned;
}

std::uint32_t Table::end_some(std::uint64_t id, std::uint32_t objects_max) {
  begin();
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return 0;
  const Session& session = found->second;
  std::uint32_t ended = 0;
  std::size_t objects = 0;
  while (session.first_lease != kNoBookId && (ended == 0 || objects < objects_max)) {
    objects += leases_[session.first_lease].objects.size();
    end_lease(session.first_lease);
    ++ended;
  }
  return ended;
}

std::uint32_t Table::session_over(std::uint64_t id) {
  begin();
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return 0;
  std::uint32_t ended = 0;
  while (found->second.first_lease != kNoBookId) {
    end_lease(found->second.first_lease);
    ++ended;
  }
  const std::uint64_t instance = found->second.instance;
  sessions_.erase(found);
  if (--instances_[instance].sessions == 0) {
    close_tickets(instance);
    instances_.erase(instance);
  }
  return ended;
}

std::uint32_t Table::instance_gone(std::uint64_t instance) {
  begin();
  return instances_.contains(instance) ? close_tickets(instance) : 0;
}

std::uint32_t Table::close_tickets(std::uint64_t instance) {
  std::uint32_t closed = 0;
  for (const Instance& owner = instances_[instance]; owner.first_ticket != kNoBookId; ++closed) {
    end_ticket(owner.first_ticket);
  }
  return closed;
}

Table::Evicted Table::evict(std::uint64_t bytes_wanted, std::uint32_t chunks_max, double now) {
  begin(now);
  Evicted evicted;
  static_cast<void>(contents_.next_stamp());
  while (evicted.bytes < bytes_wanted && evicted.keys.size() < chunks_max) {
    const ChunkId victim = contents_.victim();
    if (victim == kNoChunk) break;
    evicted.keys.push_back(contents_.chunk(victim).key);
    const Contents::Left left = contents_.evict(victim);
    evicted.bytes += left.pages_freed * kPageBytes;
    evicted.quarantined_bytes += left.pages_quarantined * kPageBytes;
    evicted.objects += left.objects;
  }
  counters_.evicted_chunks += evicted.keys.size();
  counters_.evicted_bytes += evicted.bytes + evicted.quarantined_bytes;
  return evicted;
}

std::uint32_t Table::drop(KeyBatch keys) {
  begin();
  std::uint32_t dropped = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const ChunkId id = contents_.find(keys[i]);
    if (id != kNoChunk && contents_.drop(id).objects > 0) ++dropped;
  }
  return dropped;
}

}  // namespace penstock
