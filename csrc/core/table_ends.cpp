// The table: how leases end, or become overdue, as many of their objects at a time as a step
// allows.
//
//   objects   [ 0 ... overdue_until ... size )          half way to overdue: -->
//               held back  |  as of a live lease
//   objects   [ 0 ... size )                            half way to its end: <--
//               as before   given back
//
// So after every step a lease is a smaller one, or two joined, and every sum agrees.
#include <cassert>

#include "core/table.hpp"

namespace penstock {

// Expired or orphaned: what a reader holds may leave the index but not its memory, and what a
// writer holds leaves the index at once, while the writer may be writing still. True when that is
// done; then the lease is over if it holds nothing back.
bool Table::make_overdue(BookId place, Step& step) {
  Lease& lease = leases_[place];
  assert(!lease.ending && !lease.is_overdue_whole());
  if (!lease.overdue) {
    lease.overdue = true;
    ++leases_overdue_;
    ++counters_.expired_leases;
    step.take(1);
  }
  const std::size_t from = lease.overdue_until;
  const std::size_t share = step.share_of(lease.objects.size() - from, lease.slots.size());
  const std::uint64_t pages_before = lease.pages_overdue;
  lease.overdue_until = from + share;
  if (lease.kind == Lease::Kind::read) {
    hold_back(lease, from, lease.overdue_until);
  } else {
    quarantine(lease, from, lease.overdue_until);
  }
  instances_[sessions_[lease.session].instance].pages_overdue += lease.pages_overdue - pages_before;
  step.take(share);
  if (lease.overdue_until < lease.objects.size()) return false;
  lease_expiry_.remove(place);
  if (lease.pages_overdue == 0) close_lease(place);
  return true;
}

void Table::hold_back(Lease& lease, std::size_t from, std::size_t until) {
  const std::size_t width = lease.slots.size();
  each_chunk(lease.from(from).first(until - from), width,
             [this](ChunkId id) { contents_.unpin(id); });
  const std::vector<Slot>& slots = contents_.geometry(lease.geometry).slots();
  for (std::size_t i = from; i < until; ++i) {
    if (!lease.objects[i].none()) lease.pages_overdue += slots[lease.slots[i % width]].pages;
  }
}

void Table::quarantine(Lease& lease, std::size_t from, std::size_t until) {
  lease.quarantined.resize(until);
  const std::vector<Slot>& slots = contents_.geometry(lease.geometry).slots();
  for (std::size_t i = from; i < until; ++i) {
    const ObjectRef ref = std::exchange(lease.objects[i], ObjectRef{});
    if (ref.none()) continue;
    --lease.objects_left;
    ++counters_.discarded_objects;
    const Object& object = contents_.object(ref);
    if (object.state == ObjectState::reserved && object.readers > 0) {
      contents_.add_reader(ref);  // the writer: whoever lets go of it last frees it
      contents_.discard(ref);
      lease.objects[i] = ref;
      lease.pages_overdue += slots[lease.slots[i % lease.slots.size()]].pages;
      continue;
    }
    if (object.state == ObjectState::loaded) {
      contents_.discard(ref);  // its load is complete: nobody writes it
      continue;
    }
    lease.quarantined[i] = contents_.quarantine(ref);
    lease.pages_overdue += lease.quarantined[i].pages;
  }
}

// Its owner touches nothing of it any more: whatever it still holds is given back, the last objects
// first. True when it is over.
bool Table::end_lease(BookId place, Step& step) {
  Lease& lease = leases_[place];
  if (!lease.ending) {
    lease.ending = true;
    lease_expiry_.remove(place);
    step.take(1);
  }
  const std::size_t share = step.share_of(lease.objects.size(), lease.slots.size());
  const std::size_t from = lease.objects.size() - share;
  const std::uint64_t pages_before = lease.pages_overdue;
  if (lease.kind == Lease::Kind::read) {
    give_back_reads(lease, from);
  } else {
    give_back_writes(lease, from);
  }
  lease.objects.resize(from);
  lease.overdue_until = std::min(lease.overdue_until, from);
  instances_[sessions_[lease.session].instance].pages_overdue -= pages_before - lease.pages_overdue;
  step.take(share);
  if (from > 0) return false;
  close_lease(place);
  return true;
}

void Table::end_lease(BookId place) {
  Step whole;
  end_lease(place, whole);
}

void Table::give_back_reads(Lease& lease, std::size_t from) {
  const std::vector<Slot>& slots = contents_.geometry(lease.geometry).slots();
  const std::size_t width = lease.slots.size();
  for (std::size_t i = from; i < lease.objects.size(); ++i) {
    if (lease.objects[i].none()) continue;
    contents_.drop_reader(lease.objects[i]);
    if (i < lease.overdue_until) lease.pages_overdue -= slots[lease.slots[i % width]].pages;
  }
  each_chunk(lease.from(std::max(from, lease.overdue_until)), width,
             [this](ChunkId id) { contents_.unpin(id); });
}

void Table::give_back_writes(Lease& lease, std::size_t from) {
  for (std::size_t i = from; i < lease.objects.size(); ++i) {
    if (lease.objects[i].none()) continue;
    if (i < lease.overdue_until) {
      let_go_of_written(lease, i);
      continue;
    }
    contents_.discard(lease.objects[i]);
    --lease.objects_left;
    ++counters_.discarded_objects;
  }
  if (from >= lease.quarantined.size()) return;
  for (const PageRun run : std::span(lease.quarantined).subspan(from)) {
    contents_.free_quarantined(run);
    lease.pages_overdue -= run.pages;
  }
  lease.quarantined.resize(from);
}

// One object of an overdue reservation that somebody reads: its writer is done with it.
void Table::let_go_of_written(Lease& lease, std::size_t index) {
  const ObjectRef ref = std::exchange(lease.objects[index], ObjectRef{});
  const std::vector<Slot>& slots = contents_.geometry(lease.geometry).slots();
  lease.pages_overdue -= slots[lease.slots[index % lease.slots.size()]].pages;
  contents_.drop_reader(ref);
}

// It holds nothing any more.
void Table::close_lease(BookId place) {
  const Lease& lease = leases_[place];
  Session& session = sessions_[lease.session];
  if (lease.overdue) {
    instances_[session.instance].pages_overdue -= lease.pages_overdue;
    --leases_overdue_;
  }
  lease_expiry_.remove(place);
  unlink(leases_, session.first_lease, place);
  leases_.close(place);
}

}  // namespace penstock
