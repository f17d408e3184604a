// The table: reservations and what becomes of them.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/table.hpp"

namespace penstock {
namespace {

constexpr std::size_t kAhead = 8;  // objects whose records are brought on their way

// Outcomes of a request without a living lease. What all of it is, only its digests tell.
std::size_t outcomes_of(const Table::CommitRequest& request) {
  return request.all ? request.digests.size() : request.indices.size();
}

}  // namespace

void Table::make_ready(KeyBatch keys, std::uint32_t number, std::span<const std::uint16_t> slots,
                       std::uint32_t chunks_before) {
  begin();
  const Geometry& geometry = contents_.geometry(number);
  require_count(keys);
  require_slots(geometry, slots, keys.size());
  std::vector<std::uint32_t> row;
  for (const std::uint16_t slot : slots) row.push_back(geometry.slots()[slot].pages);
  contents_.make_ready(keys, chunks_before, row);
}

Table::Reserved Table::reserve(KeyBatch keys, const ReserveRequest& request) {
  begin(request.now);
  const Session& session = attached(request.session);
  const Geometry& geometry = contents_.geometry(request.geometry);
  require_count(keys);
  require_slots(geometry, request.slots, keys.size());
  if (std::isnan(request.expires)) throw BadArgument("expires is not a number; give seconds");
  require_lease_room(session, request.lease);
  if (found_.size() < keys.size()) found_.resize(keys.size());
  const std::span<ChunkId> found = std::span(found_).first(keys.size());
  contents_.find(keys, found);
  require_geometry(found, request.geometry);

  Reservation work{.geometry = &geometry, .request = &request};
  work.reserved.answers.reserve(keys.size() * request.slots.size());
  work.reserved.extents.resize(keys.size() * request.slots.size());
  work.objects.resize(keys.size() * request.slots.size());
  ChunkId before = request.parent ? contents_.find(*request.parent) : kNoChunk;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Key key = keys[i];
    // A key that is given twice was found by none of the two searches.
    ChunkId id = found[i] == kNoChunk && work.granted > 0 ? contents_.find(key) : found[i];
    reserve_chunk(key, id, work);
    contents_.adopt(before, id, work.ancestors_left);
    before = id;
  }
  if (work.granted > 0) {
    Lease& lease =
        leases_[open_lease(request.lease, request.session, Lease::Kind::write, request.expires)];
    lease.geometry = static_cast<std::uint16_t>(request.geometry);
    lease.pool = request.pool;
    lease.slots.assign(request.slots.begin(), request.slots.end());
    lease.objects = std::move(work.objects);
    lease.objects_left = work.granted;
  }
  return std::move(work.reserved);
}

// The answers for one chunk, which is made if anything is granted.
void Table::reserve_chunk(const Key& key, ChunkId& id, Reservation& work) {
  const ReserveRequest& request = *work.request;
  for (const std::uint16_t slot : request.slots) {
    const std::size_t index = work.reserved.answers.size();
    const Slot& shape = work.geometry->slots()[slot];
    if (!work.refusal) {
      const Contents::Grant grant =
          contents_.reserve(key, id, static_cast<std::uint16_t>(request.geometry), slot,
                            request.tenant, request.pool);
      work.reserved.answers.push_back(grant.answer);
      if (grant.answer == Answer::granted) {
        ++work.granted;
        work.pages_granted += shape.pages;
        work.objects[index] = grant.object;
        const std::uint32_t page = contents_.object(grant.object).page;
        work.reserved.extents[index] = {page * kPageBytes, shape.bytes, 0};
      }
      if (grant.answer == Answer::no_room || grant.answer == Answer::quota) {
        work.refusal = grant.answer;
      }
    } else {
      work.reserved.answers.push_back(*work.refusal);
    }
    const Answer answer = work.reserved.answers.back();
    if (answer != Answer::no_room && answer != Answer::quota) continue;
    if (id == kNoChunk || contents_.store().find_object(id, slot).none()) {
      count_missing(shape.pages, work);
    }
  }
}

// Counted is only what evicting could make room for: from the first object on that would not fit
// even if nobody else's were kept (under a quota: nothing else of the tenant's), more room helps
// nothing of this prompt. Nothing is evicted from Pool::pd, but all of it drains.
void Table::count_missing(std::uint64_t pages, Reservation& work) {
  const Ledger& ledger = contents_.ledger();
  const bool own = work.refusal == Answer::quota;
  std::uint64_t& missing = own ? work.reserved.own_bytes_missing : work.reserved.bytes_missing;
  const std::uint64_t pages_missing = missing / kPageBytes + pages;
  const ArenaRoom& room = contents_.room();
  const std::uint64_t evictable = ledger.pages(ObjectState::resident) - contents_.pages_pinned();
  bool helps = pages_missing <= room.pages_free(Pool::cache) + evictable;
  if (own) helps = ledger.fits_quota(work.request->tenant, pages_missing);
  if (work.request->pool == Pool::pd) {
    helps = work.pages_granted + pages_missing <= room.pages_total(Pool::pd);
  }
  if (!helps) work.beyond_help = true;
  if (!work.beyond_help) missing = pages_missing * kPageBytes;
}

std::vector<Outcome> Table::commit(const Id& lease, const CommitRequest& request) {
  return settle_writes(lease, request, Goal::resident, SIZE_MAX).outcomes;
}

Table::Committed Table::commit_some(const Id& lease, const CommitRequest& request,
                                    std::uint32_t objects_max) {
  if (objects_max == 0) throw BadArgument("a commit of no objects: give objects_max of 1 or more");
  return settle_writes(lease, request, Goal::resident, objects_max);
}

std::vector<Outcome> Table::loaded(const Id& lease, const CommitRequest& request) {
  return settle_writes(lease, request, Goal::loaded, SIZE_MAX).outcomes;
}

// The owner says that these objects are whole. What no living lease is behind is settled at once,
// however many there are.
Table::Committed Table::settle_writes(const Id& id, const CommitRequest& request, Goal goal,
                                      std::size_t objects_max) {
  begin(request.now);
  const BookId place = lease_of(id, request.session, Lease::Kind::write);
  if (place == kNoBookId) {
    static_cast<void>(stale());
    return {std::vector<Outcome>(outcomes_of(request), Outcome::stale)};
  }
  Lease& lease = leases_[place];
  for (const std::uint32_t index : request.indices) {
    if (index >= lease.objects.size()) {
      throw BadArgument("index " + std::to_string(index) + " of a reservation of " +
                        std::to_string(lease.objects.size()) + " objects");
    }
  }
  if (goal == Goal::resident && lease.pool == Pool::pd) {
    throw BadArgument("objects in the PD pool are temporary: they are loaded, and never committed");
  }
  if (lease.overdue) return {settle_overdue_writes(place, request)};
  std::vector<std::uint32_t> indices(request.indices.begin(), request.indices.end());
  if (request.all) {
    for (std::uint32_t i = 0; i < lease.objects.size(); ++i) {
      if (!lease.objects[i].none()) indices.push_back(i);
    }
  }
  require_digests(lease, request, indices, goal);
  indices.resize(std::min(indices.size(), objects_max));

  const std::vector<Slot>& slots = contents_.geometry(lease.geometry).slots();
  const std::uint64_t stamp = contents_.next_stamp();
  std::vector<Outcome> outcomes(indices.size());
  std::size_t run = 0;
  for (std::size_t i = 0; i < indices.size(); ++i) {
    if (i + kAhead < indices.size()) contents_.prefetch(lease.objects[indices[i + kAhead]]);
    Write write{.index = indices[i], .stamp = stamp, .digest = {}, .runs = {}};
    if (!request.digests.empty()) write.digest = request.digests[i];
    if (!request.runs.empty()) {
      const std::uint32_t runs = slots[lease.slots[indices[i] % lease.slots.size()]].runs;
      write.runs = request.runs.subspan(run, runs);
      run += runs;
    }
    outcomes[i] = settle_write(lease, write, goal);
  }
  if (lease.objects_left == 0) close_lease(place);
  return {std::move(outcomes), run};
}

Outcome Table::settle_write(Lease& lease, const Write& write, Goal goal) {
  const ObjectRef ref = lease.objects[write.index];
  if (ref.none()) return stale();
  // One run is the object itself.
  const auto runs = write.runs.size() > 1 ? write.runs : std::span<const std::uint64_t>();
  if (goal == Goal::loaded) {
    if (!write.digest || contents_.object(ref).state == ObjectState::loaded) return stale();
    contents_.load(ref, *write.digest, runs);
    return Outcome::ok;
  }
  lease.objects[write.index] = {};
  --lease.objects_left;
  const bool whole = write.digest ? contents_.commit(ref, *write.digest, runs, write.stamp)
                                  : contents_.commit(ref, write.stamp);
  if (whole) {
    if (lease.session != kOwnSession) {
      const Object& object = contents_.object(ref);
      news_.tell({contents_.chunk(ref.chunk).key, contents_.slot_of(ref).bytes, object.slot});
    }
    return Outcome::ok;
  }
  ++counters_.discarded_objects;
  return stale();
}

// Too late to be of use; but what its owner has finished writing is proven to be written no more.
std::vector<Outcome> Table::settle_overdue_writes(BookId place, const CommitRequest& request) {
  Lease& lease = leases_[place];
  const std::size_t count = outcomes_of(request);
  static_cast<void>(stale());
  if (request.all) {
    end_lease(place);
    return std::vector<Outcome>(count, Outcome::stale);
  }
  for (const std::uint32_t index : request.indices) {
    const PageRun run = std::exchange(lease.quarantined[index], PageRun{});
    const std::uint64_t pages_before = lease.pages_overdue;
    contents_.free_quarantined(run);
    lease.pages_overdue -= run.pages;
    if (!lease.objects[index].none()) let_go_of_written(lease, index);
    instances_[sessions_[lease.session].instance].pages_overdue -=
        pages_before - lease.pages_overdue;
  }
  if (lease.pages_overdue == 0) close_lease(place);
  return std::vector<Outcome>(count, Outcome::stale);
}

void Table::require_digests(const Lease& lease, const CommitRequest& request,
                            std::span<const std::uint32_t> indices, Goal goal) const {
  if (request.digests.empty()) {
    const bool kept =
        goal == Goal::resident && std::ranges::all_of(indices, [&](std::uint32_t index) {
          const ObjectRef ref = lease.objects[index];
          return ref.none() || contents_.object(ref).state == ObjectState::loaded;
        });
    if (!kept && !indices.empty()) {
      throw BadArgument("no digests for objects that have none yet; give one u64 for each");
    }
  } else if (request.digests.size() != indices.size()) {
    throw BadArgument(std::to_string(request.digests.size()) + " digests for " +
                      std::to_string(indices.size()) + " objects; give one u64 for each");
  }
  if (request.runs.empty()) return;
  const std::vector<Slot>& slots = contents_.geometry(lease.geometry).slots();
  const std::size_t runs = std::accumulate(
      indices.begin(), indices.end(), std::size_t{0}, [&](std::size_t sum, std::uint32_t index) {
        return sum + slots[lease.slots[index % lease.slots.size()]].runs;
      });
  if (request.runs.size() != runs || request.digests.empty()) {
    throw BadArgument(std::to_string(request.runs.size()) + " run digests and " +
                      std::to_string(request.digests.size()) + " digests for objects of " +
                      std::to_string(runs) + " runs; give all of them, or no runs");
  }
}

Outcome Table::abort(const Id& id, std::uint64_t session) {
  begin();
  const BookId place = lease_of(id, session, Lease::Kind::write);
  if (place == kNoBookId) return stale();
  const bool overdue = leases_[place].overdue;
  end_lease(place);
  return overdue ? stale() : Outcome::ok;
}

std::vector<std::uint64_t> Table::runs(const Key& key, std::uint16_t slot) {
  begin();
  const ChunkId id = contents_.find(key);
  if (id == kNoChunk) return {};
  const ObjectRef ref = contents_.store().find_object(id, slot);
  if (ref.none() || contents_.object(ref).state != ObjectState::resident) return {};
  if (contents_.slot_of(ref).runs == 1) return {contents_.object(ref).digest};
  const std::span<const std::uint64_t> runs = contents_.store().runs(ref);
  return {runs.begin(), runs.end()};
}

}  // namespace penstock
