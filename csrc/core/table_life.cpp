// The table: what ends without being asked, and what must make room.
#include "core/table.hpp"

namespace penstock {

Table::Expired Table::expire(double now, std::uint32_t objects_max) {
  begin(now);
  Expired expired;
  Step step(objects_max);
  const auto due = [&](const ExpiryHeap& heap) {
    return !heap.empty() && heap.next() <= now && !step.is_over();
  };
  while (due(lease_expiry_)) {
    const BookId place = lease_expiry_.next_owner();
    const bool reads = leases_[place].kind == Lease::Kind::read;
    if (make_overdue(place, step)) ++(reads ? expired.read_leases : expired.write_leases);
  }
  while (due(ticket_expiry_)) {
    const BookId place = ticket_expiry_.next_owner();
    ++expired.tickets;
    step.take(1 + tickets_[place].chunks.size());
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
  Step whole;
  orphan(session, whole);
  session.lost = true;
  std::uint32_t left = 0;  // a lease that held no memory is over
  for (BookId place = session.first_lease; place != kNoBookId; place = leases_[place].next) ++left;
  return left;
}

Table::Ended Table::orphan_some(std::uint64_t id, std::uint32_t objects_max) {
  begin();
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return {.count = 0, .over = true};
  Step step(objects_max);
  return orphan(found->second, step);
}

Table::Ended Table::forsake_some(std::uint64_t id, std::uint32_t objects_max, Pool pool) {
  begin();
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return {.count = 0, .over = true};
  Step step(objects_max);
  return orphan(found->second, step, pool);
}

// What its owner has given up already is ended, as it would have been.
Table::Ended Table::orphan(const Session& session, Step& step, std::optional<Pool> writing_only) {
  Ended orphaned;
  for (BookId place = session.first_lease; place != kNoBookId;) {
    const Lease& lease = leases_[place];
    const BookId next = lease.next;
    const bool meant =
        !writing_only || (lease.kind == Lease::Kind::write && lease.pool == *writing_only);
    if (meant && (lease.ending || !lease.is_overdue_whole())) {
      if (step.is_over()) return orphaned;
      if (!(lease.ending ? end_lease(place, step) : make_overdue(place, step))) return orphaned;
      ++orphaned.count;
    }
    place = next;
  }
  orphaned.over = true;
  return orphaned;
}

Table::Ended Table::end_some(std::uint64_t id, std::uint32_t objects_max) {
  begin();
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return {.count = 0, .over = true};
  Step step(objects_max);
  return end_all(found->second, step);
}

// Its leases, and the tickets of its instance if it is the last of it. Counted are the leases.
Table::Ended Table::end_all(const Session& session, Step& step) {
  Ended ended;
  while (session.first_lease != kNoBookId) {
    if (step.is_over() || !end_lease(session.first_lease, step)) return ended;
    ++ended.count;
  }
  ended.over =
      instances_[session.instance].sessions > 1 || close_tickets(session.instance, step).over;
  return ended;
}

std::uint32_t Table::session_over(std::uint64_t id) {
  begin();
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return 0;
  Step whole;
  const std::uint32_t ended = end_all(found->second, whole).count;
  const std::uint64_t instance = found->second.instance;
  sessions_.erase(found);
  if (--instances_[instance].sessions == 0) instances_.erase(instance);
  return ended;
}

std::uint32_t Table::instance_gone(std::uint64_t instance) {
  begin();
  if (!instances_.contains(instance)) return 0;
  Step whole;
  return close_tickets(instance, whole).count;
}

Table::Ended Table::close_some(std::uint64_t instance, std::uint32_t chunks_max) {
  begin();
  if (!instances_.contains(instance)) return {.count = 0, .over = true};
  Step step(chunks_max);
  return close_tickets(instance, step);
}

Table::Ended Table::close_tickets(std::uint64_t instance, Step& step) {
  Ended closed;
  for (const Instance& owner = instances_[instance]; owner.first_ticket != kNoBookId;
       ++closed.count) {
    if (step.is_over()) return closed;
    step.take(1 + tickets_[owner.first_ticket].chunks.size());
    end_ticket(owner.first_ticket);
  }
  closed.over = true;
  return closed;
}

Table::Evicted Table::evict(std::uint64_t bytes_wanted, std::uint32_t chunks_max, double now) {
  begin(now);
  Evicted evicted;
  static_cast<void>(contents_.next_stamp());
  for (std::uint32_t left = chunks_max; left > 0 && evicted.bytes < bytes_wanted; --left) {
    const ChunkId victim = contents_.victim();
    evicted.over = victim == kNoChunk;
    if (evicted.over) break;
    if (!contents_.spare(victim)) evict_one(victim, evicted);
  }
  count_evicted(evicted);
  return evicted;
}

Table::Evicted Table::evict_own(std::uint32_t tenant, std::uint64_t bytes_wanted,
                                std::uint32_t chunks_max, double now) {
  begin(now);
  Evicted evicted;
  static_cast<void>(contents_.next_stamp());
  const std::uint64_t pages = bytes_wanted / kPageBytes + (bytes_wanted % kPageBytes > 0 ? 1 : 0);
  const std::vector<ChunkId> chosen = contents_.choose_own(tenant, pages, chunks_max);
  for (const ChunkId id : chosen) evict_one(id, evicted);
  evicted.over = chosen.empty() && pages > 0 && chunks_max > 0;
  count_evicted(evicted);
  return evicted;
}

void Table::evict_one(ChunkId victim, Evicted& evicted) {
  evicted.keys.push_back(contents_.chunk(victim).key);
  const Contents::Left left = contents_.evict(victim);
  evicted.bytes += left.pages_freed * kPageBytes;
  evicted.quarantined_bytes += left.pages_quarantined * kPageBytes;
  evicted.objects += left.objects;
}

void Table::count_evicted(const Evicted& evicted) {
  counters_.evicted_chunks += evicted.keys.size();
  counters_.evicted_bytes += evicted.bytes + evicted.quarantined_bytes;
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
