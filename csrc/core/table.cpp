// The table: who is asking, and what leases are.
#include "core/table.hpp"

#include <cassert>
#include <cmath>

namespace penstock {
namespace {

constexpr std::size_t kKeysMax = std::size_t{1} << 20U;     // in one call
constexpr std::uint32_t kStoryEventsMax = 1U << 24U;        // of 56 bytes
constexpr std::size_t kObjectsMax = std::size_t{1} << 20U;  // in one lease

TableConfig checked(const TableConfig& config) {
  constexpr std::uint64_t kPagesMax = (1ULL << 31U) - 1;
  const std::uint64_t pages = config.arena_bytes / kPageBytes;
  if (pages == 0 || config.arena_bytes % kPageBytes != 0 || pages > kPagesMax) {
    throw BadArgument("arena_bytes is " + std::to_string(config.arena_bytes) +
                      ": give a multiple of 4096 below 8 TiB");
  }
  const std::uint64_t pd_pages = config.pd_bytes / kPageBytes;
  if (config.pd_bytes % kPageBytes != 0 || pd_pages > kPagesMax - pages) {
    throw BadArgument("pd_bytes is " + std::to_string(config.pd_bytes) +
                      ": give a multiple of 4096, and less than 8 TiB with arena_bytes");
  }
  if (config.objects_max == 0 || config.objects_max > (1U << 31U)) {
    throw BadArgument("objects_max is " + std::to_string(config.objects_max) +
                      ": give 1 to 2147483648");
  }
  if ((pd_pages > 0) != (config.pd_objects_max > 0) ||
      config.pd_objects_max > (1U << 31U) - config.objects_max) {
    throw BadArgument("pd_objects_max is " + std::to_string(config.pd_objects_max) +
                      ": give 1 or more with pd_bytes, none without, and 2147483648 at most with "
                      "objects_max");
  }
  if (config.story_events_max > kStoryEventsMax) {
    throw BadArgument("story_events_max is " + std::to_string(config.story_events_max) +
                      ": give at most " + std::to_string(kStoryEventsMax));
  }
  // Every lease and ticket pins a chunk, and pins are counted in 24 bits. Prompts that repeat a key
  // pin more; require_pins() sees to those.
  const std::uint64_t holders = std::uint64_t{config.leases_max} + config.tickets_max;
  if (config.leases_max == 0 || config.tickets_max == 0 || holders > kPinsMax / 4) {
    throw BadArgument("leases_max and tickets_max are " + std::to_string(config.leases_max) +
                      " and " + std::to_string(config.tickets_max) +
                      ": give at least 1 each and 4194303 together at most");
  }
  return config;
}

}  // namespace

Table::Table(const TableConfig& config)
    : config_(checked(config)),
      contents_(config),
      leases_(config.leases_max),
      tickets_(config.tickets_max),
      returns_(std::make_shared<ReturnQueue>()),
      news_(config.news_max) {}

void Table::begin() {
  const std::thread::id caller = std::this_thread::get_id();
  if (thread_ == std::thread::id()) thread_ = caller;
  if (thread_ != caller) {
    throw WrongThread("a table belongs to the thread that called it first; ask that one");
  }
  if (!returns_->empty()) drain();
}

void Table::begin(double now) {
  begin();
  if (std::isnan(now)) throw BadArgument("now is not a number; give seconds");
  contents_.story().set_now(now);
}

std::uint32_t Table::drain() {
  const std::thread::id caller = std::this_thread::get_id();
  if (thread_ == std::thread::id()) thread_ = caller;
  if (thread_ != caller) throw WrongThread("handles are drained on the table's own thread");
  const std::uint32_t count =
      returns_->drain([this](const ReturnQueue::Return& returned) { take_back(returned); });
  counters_.returned_handles += count;
  return count;
}

void Table::take_back(const ReturnQueue::Return& returned) {
  if (returned.what == ReturnQueue::Return::What::ticket) {
    const BookId place = tickets_.find(returned.id);
    if (place != kNoBookId && tickets_[place].instance == returned.owner) end_ticket(place);
    return;
  }
  const BookId place = leases_.find(returned.id);
  if (place != kNoBookId && leases_[place].session == returned.owner) end_lease(place);
}

Outcome Table::stale() {
  ++counters_.stale_calls;
  return Outcome::stale;
}

std::uint16_t Table::add_geometry(std::vector<Group> groups) {
  begin();
  return contents_.add_geometry(std::move(groups));
}

void Table::set_quota(std::uint32_t tenant, std::uint64_t bytes_max) {
  begin();
  contents_.ledger().set_quota(tenant, bytes_max);
}

void Table::set_weight(std::uint32_t tenant, std::uint32_t weight) {
  begin();
  if (weight == 0 || weight > Ledger::kWeightMax) {
    throw BadArgument("a weight of " + std::to_string(weight) + ": give 1 to " +
                      std::to_string(Ledger::kWeightMax));
  }
  contents_.ledger().set_weight(tenant, weight);
}

std::uint64_t Table::bytes_of(std::uint32_t tenant) {
  begin();
  return contents_.ledger().pages_of(tenant) * kPageBytes;
}

void Table::attach(std::uint64_t session, std::uint64_t instance) {
  begin();
  if (sessions_.contains(session)) {
    throw SessionUnknown("session " + std::to_string(session) +
                         " is attached, or not over yet; number the new one otherwise");
  }
  sessions_[session].instance = instance;
  ++instances_[instance].sessions;
}

Session& Table::attached(std::uint64_t session) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end() || found->second.lost) {
    throw SessionUnknown("session " + std::to_string(session) + " is not attached; attach it");
  }
  return found->second;
}

// What the node itself holds back has bounds elsewhere, by whom it is held for: a store that hangs
// with its part must not keep others from saving and loading.
void Table::require_lease_room(const Session& session, const Id& lease) {
  const std::uint64_t bytes_overdue = instances_[session.instance].pages_overdue * kPageBytes;
  if (session.instance != kOwnInstance && bytes_overdue > 0 &&
      bytes_overdue >= config_.quarantine_bytes_max) {
    throw QuarantineFull("overdue leases of this engine hold back " +
                         std::to_string(bytes_overdue) + " bytes of at most " +
                         std::to_string(config_.quarantine_bytes_max) +
                         "; release them, or end the processes that hold them");
  }
  if (leases_.contains(lease)) throw IdTaken("a live lease has this id; draw another");
  if (leases_.full()) {
    throw TableFull("all " + std::to_string(config_.leases_max) +
                    " leases are in use; release some, or raise leases_max");
  }
}

void Table::require_count(KeyBatch keys) {
  if (keys.empty() || keys.size() > kKeysMax) {
    throw BadKeys(std::to_string(keys.size()) + " keys: give 1 to " + std::to_string(kKeysMax));
  }
}

void Table::require_geometry(std::span<const ChunkId> chunks, std::uint32_t geometry) const {
  for (const ChunkId id : chunks) {
    if (id != kNoChunk && contents_.chunk(id).geometry != geometry) {
      throw GeometryUnknown("a chunk of these keys was written under geometry " +
                            std::to_string(contents_.chunk(id).geometry) + ", not " +
                            std::to_string(geometry) + "; its namespace must differ");
    }
  }
}

void Table::require_slots(const Geometry& geometry, std::span<const std::uint16_t> slots,
                          std::size_t chunks) {
  if (slots.empty()) throw BadArgument("no slots were given; name at least one object a chunk");
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i] >= geometry.slot_count()) {
      throw BadArgument("slot " + std::to_string(slots[i]) + " of a geometry with " +
                        std::to_string(geometry.slot_count()) + " slots");
    }
    if (i > 0 && slots[i] <= slots[i - 1]) {
      throw BadArgument("slots must ascend, each given once");
    }
  }
  if (chunks * slots.size() > kObjectsMax) {
    throw BadArgument(std::to_string(slots.size()) + " slots of " + std::to_string(chunks) +
                      " chunks: give at most " + std::to_string(kObjectsMax) + " objects a lease");
  }
}

// Of this session and kind; kNoBookId if there is no such lease, live or overdue. One that is half
// way to its end is brought there first: whoever names a lease meets it whole.
BookId Table::lease_of(const Id& id, std::uint64_t session, Lease::Kind kind) {
  const BookId place = leases_.find(id);
  if (place == kNoBookId) return kNoBookId;
  const Lease& lease = leases_[place];
  if (lease.session != session || lease.kind != kind) return kNoBookId;
  Step whole;
  if (lease.ending) {
    end_lease(place, whole);
    return kNoBookId;
  }
  if (lease.overdue && !lease.is_overdue_whole()) make_overdue(place, whole);
  return leases_.contains(id) ? place : kNoBookId;
}

BookId Table::open_lease(const Id& id, std::uint64_t session, Lease::Kind kind, double expires) {
  const BookId place = leases_.open(id);
  Lease& lease = leases_[place];
  lease.session = session;
  lease.kind = kind;
  link_front(leases_, sessions_[session].first_lease, place);
  lease_expiry_.add(place, expires);
  return place;
}

// Makes a read lease of its objects, `width` a chunk: a reader of each, and a pin of their chunks.
// Throws TableFull, and holds nothing then.
void Table::hold(std::span<const ObjectRef> objects, std::size_t width) {
  each_chunk(objects, width, [this](ChunkId id) { require_pins(id); });
  for (std::size_t i = 0; i < objects.size(); ++i) {
    if (objects[i].none()) continue;
    if (contents_.object(objects[i]).readers == kReadersMax) {
      for (const ObjectRef undo : objects.first(i)) {
        if (!undo.none()) contents_.drop_reader(undo);
      }
      throw TableFull("an object has 65535 readers; release some leases first");
    }
    contents_.add_reader(objects[i]);
  }
  each_chunk(objects, width, [this](ChunkId id) { contents_.pin(id); });
}

std::vector<Extent> Table::extents_of(const Lease& lease) const {
  const std::vector<Slot>& slots = contents_.geometry(lease.geometry).slots();
  std::vector<Extent> extents(lease.objects.size());
  std::size_t column = 0;
  for (std::size_t i = 0; i < extents.size(); ++i) {
    const ObjectRef ref = lease.objects[i];
    if (!ref.none()) {
      const Object& object = contents_.object(ref);
      extents[i] = {object.page * kPageBytes, slots[lease.slots[column]].bytes, object.digest};
    }
    column = column + 1 == lease.slots.size() ? 0 : column + 1;
  }
  return extents;
}

LeaseHandle Table::lease_handle(const Id& lease, std::uint64_t session) {
  begin();
  return {returns_, std::make_unique<ReturnQueue::Return>(ReturnQueue::Return::What::lease, lease,
                                                          session, nullptr)};
}

LeaseHandle Table::ticket_handle(const Id& ticket, std::uint64_t instance) {
  begin();
  return {returns_, std::make_unique<ReturnQueue::Return>(ReturnQueue::Return::What::ticket, ticket,
                                                          instance, nullptr)};
}

}  // namespace penstock
