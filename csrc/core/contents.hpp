// What is in the arena: chunks, their objects and extents, and their place in the eviction policy.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "core/arena_room.hpp"
#include "core/chunk_store.hpp"
#include "core/content_changes.hpp"
#include "core/geometry.hpp"
#include "core/ledger.hpp"
#include "core/own_lists.hpp"
#include "core/policy.hpp"
#include "core/story.hpp"
#include "core/table_config.hpp"
#include "core/table_types.hpp"

namespace penstock {

// Life of an object (the states of ObjectState; who may do what is the leases' matter, see
// table.hpp):
//
//        reserve            commit                  evict, drop, damage
//   FREE -------> RESERVED --------> RESIDENT ----------------------------> FREE
//                  |  \                  ^    \                              ^
//                  |   load --> LOADED --'     '-- with readers --> QUARANTINED
//                  |              '-- discard --> FREE, or the same          ^
//                  |-- discard (its writer says it is done) --> FREE         |
//                  '-- quarantine (nobody knows) --> a run of pages, until its writer is proven
//                  done
//
// A chunk is in the index while it has live objects or children. Out of it, its record stays while
// somebody holds it: pins (tickets, live leases) or quarantined objects (overdue readers). It is a
// candidate of the policy while it is in the index, resident, and without pins, children and
// objects in flight.
class Contents final : public ChunkFacts {
 public:
  explicit Contents(const TableConfig& config);

  // Every call that touches chunks takes a new stamp from here.
  std::uint64_t next_stamp() { return ++stamp_; }

  // Finding.
  std::uint16_t add_geometry(std::vector<Group> groups);               // throws BadArgument
  [[nodiscard]] const Geometry& geometry(std::uint32_t number) const;  // throws GeometryUnknown
  [[nodiscard]] const Geometry& geometry_of(ChunkId id) const {
    return geometries_[store_.chunk(id).geometry];
  }
  [[nodiscard]] const Slot& slot_of(ObjectRef ref) const {
    return geometry_of(ref.chunk).slots()[store_.object(ref).slot];
  }
  void find(KeyBatch keys, std::span<ChunkId> found) const { store_.find(keys, found); }
  [[nodiscard]] ChunkId find(const Key& key) const { return store_.find(key); }
  [[nodiscard]] const Chunk& chunk(ChunkId id) const { return store_.chunk(id); }
  [[nodiscard]] const Object& object(ObjectRef ref) const { return store_.object(ref); }
  [[nodiscard]] const ChunkStore& store() const { return store_; }
  void prefetch_policy(ChunkId id) const { policy_->prefetch(id); }
  void prefetch_neighbours(ChunkId id) const {
    if (id != kNoChunk && store_.chunk(id).queued) policy_->prefetch_neighbours(id);
  }
  void prefetch(ObjectRef ref) const {
    if (ref.none()) return;
    store_.prefetch(ref.chunk);
    store_.prefetch_lineage(ref.chunk);
    policy_->prefetch(ref.chunk);
  }

  // Bit g: every shard of group g has an object in one of `states` (bit s: state s). `own` is the
  // chunk's geometry. 0 for kNoChunk.
  static constexpr std::uint32_t kReadable = state_bit(ObjectState::resident);
  static constexpr std::uint32_t kReadableByLoad = kReadable | state_bit(ObjectState::loaded);
  static constexpr std::uint32_t kPromised = kReadableByLoad | state_bit(ObjectState::reserved);
  [[nodiscard]] std::uint64_t groups_in(const Geometry& own, ChunkId id,
                                        std::uint32_t states) const {
    if (id == kNoChunk) return 0;
    if (store_.chunk(id).resident == own.slot_count()) return own.all_groups();
    return groups_by_object(own, id, states);
  }

  // Holding.
  void pin(ChunkId id);
  void unpin(ChunkId id);
  void touch(std::span<const ChunkId> suffix_first, std::uint64_t stamp) {
    policy_->touched(suffix_first, stamp);
  }
  void add_reader(ObjectRef ref) { ++store_.object(ref).readers; }
  // The last reader of a quarantined object frees it.
  void drop_reader(ObjectRef ref);

  // Backs the memory that reserving these keys will write, when so many chunks come before them.
  void make_ready(KeyBatch keys, std::size_t chunks_before, std::span<const std::uint32_t> row) {
    store_.make_ready(keys, chunks_before, row.size());
    room_.cache().make_ready(row, chunks_before, keys.size());
  }
  // Writing. The chunk of `key` is made if it is kNoChunk.
  struct Grant {
    Answer answer;
    ObjectRef object;  // if granted
  };
  Grant reserve(const Key& key, ChunkId& id, std::uint16_t geometry, std::uint16_t slot,
                std::uint32_t tenant, Pool pool = Pool::cache);
  // `child` rests on `parent` from now on, unless it rests on something or that would be a circle.
  // To tell, at most `ancestors_left` ancestors are looked at, which becomes less by as many; when
  // they do not suffice the child stays without a parent, so the parent may be evicted
  // before it.
  static constexpr std::uint32_t kAncestorsMax = 65536;  // for all chunks of one call
  void adopt(ChunkId parent, ChunkId child, std::uint32_t& ancestors_left);
  void load(ObjectRef ref, std::uint64_t digest, std::span<const std::uint64_t> runs);
  // RESERVED or LOADED -> RESIDENT. False, and discarded, if a reader found it damaged meanwhile.
  bool commit(ObjectRef ref, std::uint64_t stamp);
  bool commit(ObjectRef ref, std::uint64_t digest, std::span<const std::uint64_t> runs,
              std::uint64_t stamp);
  void discard(ObjectRef ref);             // in flight; nobody writes it any more
  PageRun quarantine(ObjectRef reserved);  // somebody may still write it
  void free_quarantined(PageRun run);

  // Leaving.
  struct Left {
    std::uint64_t pages_freed = 0;
    std::uint64_t pages_quarantined = 0;
    std::uint32_t objects = 0;
  };
  // A reader found it damaged. False if it had left the index anyway.
  bool damage(ObjectRef ref);
  [[nodiscard]] ChunkId victim() { return policy_->victim(stamp_); }
  Left evict(ChunkId victim);
  Left drop(ChunkId id);
  void drop_object(ObjectRef ref);
  // Whether the victim may stay, and another is to be asked for: contents_choosing.cpp.
  bool spare(ChunkId victim);
  // The victims of so many pages or chunks, one geometry's, in order and unharmed.
  std::vector<ChunkId> choose(std::uint64_t pages_wanted, std::uint32_t chunks_max);
  // The same of one tenant's own, if it was under a quota when they became idle: prompt by prompt,
  // those idle longest first, each from its end.
  [[nodiscard]] std::vector<ChunkId> choose_own(std::uint32_t tenant, std::uint64_t pages_wanted,
                                                std::uint32_t chunks_max) const;

  // Numbers.
  [[nodiscard]] std::uint64_t resident_pages(ChunkId id) const override;
  [[nodiscard]] bool has_children(ChunkId id) const override {
    return store_.lineage(id).children > 0;
  }
  [[nodiscard]] ChunkId parent(ChunkId id) const override { return store_.lineage(id).parent; }
  [[nodiscard]] std::uint64_t fingerprint(ChunkId id) const override;
  [[nodiscard]] std::uint64_t pages_pinned() const { return pages_pinned_; }
  [[nodiscard]] std::uint32_t chunks_with_objects() const { return chunks_with_objects_; }
  [[nodiscard]] std::uint32_t objects_live() const { return objects_live_; }
  [[nodiscard]] std::uint64_t metadata_bytes() const;
  [[nodiscard]] const ArenaRoom& room() const { return room_; }
  [[nodiscard]] Ledger& ledger() { return ledger_; }
  [[nodiscard]] const Ledger& ledger() const { return ledger_; }
  [[nodiscard]] ContentChanges& changes() { return changes_; }
  [[nodiscard]] const ContentChanges& changes() const { return changes_; }
  [[nodiscard]] Story& story() { return story_; }
  [[nodiscard]] const Story& story() const { return story_; }

  // What leases and tickets say they hold, for validate() to compare with what is recorded here.
  struct Holdings {
    std::vector<std::uint32_t> pins;       // by chunk record
    std::vector<std::uint64_t> readers;    // packed (chunk, object) of every reader
    std::vector<std::uint64_t> in_flight;  // the same of every object that a reservation holds
    std::vector<PageRun> quarantined;      // runs held by ended reservations
  };
  // Throws std::logic_error naming the first broken invariant.
  void validate(const Holdings& holdings) const;

 private:
  class Validator;

  [[nodiscard]] std::uint64_t groups_by_object(const Geometry& own, ChunkId id,
                                               std::uint32_t states) const;
  [[nodiscard]] bool rests_on(ChunkId id, ChunkId ancestor, std::uint32_t& ancestors_left) const;
  [[nodiscard]] std::uint32_t live(ChunkId id) const {
    return store_.chunk(id).resident + store_.lineage(id).in_flight;
  }
  // `pages` of a tenant's object, from this page on, go from one state to another.
  void move(std::uint32_t page, std::uint32_t tenant, std::uint64_t pages, ObjectState from,
            ObjectState to) {
    if (room_.pool_of(page) == Pool::cache) {
      ledger_.move(tenant, pages, from, to);
    } else {
      ledger_.move_pd(pages, from, to);
    }
  }
  // Whether there is a record for one more object, and for its chunk if it is kNoChunk. Those of
  // Pool::pd are kept for it: who has tiny objects takes no room from pushes either.
  [[nodiscard]] bool has_record(Pool pool, ChunkId id) const;
  void remove_record(ObjectRef ref);
  void leave_index(ObjectRef ref, Left& left);
  Left take_out(ChunkId id, Departure why);
  void take_out(ObjectRef resident);
  void update_base(ChunkId id);
  void requeue(ChunkId id, ChunkId child = kNoChunk);
  void unqueue(ChunkId id);
  void list(ChunkId id, ChunkId child);
  void settle(ChunkId id);
  void free_if_unheld(ChunkId id);

  ChunkStore store_;
  ArenaRoom room_;
  std::uint32_t pd_objects_max_;
  std::uint32_t pd_objects_ = 0;  // in Pool::pd, quarantined ones with readers too
  std::deque<Geometry> geometries_;
  std::unique_ptr<Policy> policy_;
  Ledger ledger_;
  OwnLists own_;  // candidates of tenants under a quota
  Story story_;
  ContentChanges changes_;
  std::uint64_t stamp_ = 0;
  std::uint64_t pages_pinned_ = 0;         // of RESIDENT objects in chunks with pins
  std::uint32_t chunks_with_objects_ = 0;  // in the index, with live objects
  std::uint32_t objects_live_ = 0;
  std::uint32_t spared_ = 0;  // candidates in a row
};

}  // namespace penstock
