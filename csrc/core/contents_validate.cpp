// Contents: whether chunks, objects, extents, sums and the policy still agree.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "core/contents.hpp"

namespace penstock {

// One walk over everything. Every sum is counted anew and compared.
class Contents::Validator {
 public:
  Validator(const Contents& contents, const Holdings& holdings)
      : contents_(contents), store_(contents.store_), holdings_(holdings) {}

  void run() {
    free_.assign(store_.chunks_ever(), false);
    store_.each_free_chunk([this](ChunkId id) { free_[id] = true; });
    children_.assign(store_.chunks_ever(), 0);
    for (ChunkId id = 0; id < store_.chunks_ever(); ++id) {
      if (free_[id]) continue;
      ++used_;
      check_chunk(id);
      check_place(id);
    }
    for (ChunkId id = 0; id < store_.chunks_ever(); ++id) {
      if (free_[id]) continue;
      if (store_.lineage(id).children != children_[id]) fail("children miscounted", id);
      if (id < holdings_.pins.size() && store_.chunk(id).pins != holdings_.pins[id]) {
        fail("pins without, or besides, their holders", id);
      }
      check_ancestors(id);
    }
    check_lists();
    check_sums();
    check_holders();
    check_extents();
    check_changes();
    contents_.policy_->validate();
    contents_.room_.validate();
  }

 private:
  [[noreturn]] void fail(const std::string& what, ChunkId id) const {
    std::string text = "contents: " + what;
    if (id != kNoChunk) {
      text += " at chunk record " + std::to_string(id);
      for (const std::string& line : contents_.story_.of(store_.chunk(id).key)) {
        text += "\n  " + line;
      }
    }
    throw std::logic_error(text);
  }

  void check_chunk(ChunkId id) {
    const Chunk& chunk = store_.chunk(id);
    std::uint32_t resident = 0;
    std::uint32_t in_flight = 0;
    std::vector<std::uint16_t> slots;
    store_.each_object(id, [&](ObjectRef ref, const Object& object) {
      check_object(ref, object);
      if (object.state == ObjectState::resident) ++resident;
      if (is_in_flight(object.state)) ++in_flight;
      if (is_live(object.state)) slots.push_back(object.slot);
    });
    std::ranges::sort(slots);
    if (std::ranges::adjacent_find(slots) != slots.end()) fail("two objects of one slot", id);
    if (resident != chunk.resident) fail("resident objects miscounted", id);
    if (in_flight != store_.lineage(id).in_flight) fail("objects in flight miscounted", id);
    objects_live_ += resident + in_flight;
    if (resident + in_flight > 0) ++chunks_with_objects_;
    if (chunk.pins > 0) pages_pinned_ += contents_.resident_pages(id);
  }

  // A change that was not told yet says how its chunk is now.
  void check_changes() {
    const ContentChanges& changes = contents_.changes_;
    changes.each([&](const Key& key, int change) {
      const ChunkId id = contents_.find(key);
      const bool is_there =
          id != kNoChunk && id < changes.walked() && store_.chunk(id).resident > 0;
      if (change < -1 || change > 1) fail("a chunk came or went twice", id);
      if (change != 0 && is_there != (change > 0)) fail("a change that is not so", id);
    });
  }

  void check_object(ObjectRef ref, const Object& object) {
    const Slot& slot = contents_.slot_of(ref);
    const bool quarantined = object.state == ObjectState::quarantined;
    if (quarantined && object.readers == 0) fail("quarantined without a reader", ref.chunk);
    const Pool pool = contents_.room_.pool_of(object.page);
    pages(object.state, pool) += slot.pages;
    if (!quarantined && pool == Pool::cache) {
      tenants_[store_.lineage(ref.chunk).tenant] += slot.pages;
    }
    if (pool == Pool::pd) ++pd_objects_;
    if (pool == Pool::pd && object.state == ObjectState::resident) {
      fail("resident in the PD pool", ref.chunk);
    }
    runs_.push_back({object.page, slot.pages});
    ++objects_;
    const std::uint64_t packed = static_cast<std::uint64_t>(ref.chunk) << 32U | ref.object;
    for (std::uint32_t i = 0; i < object.readers; ++i) readers_.push_back(packed);
    if (is_in_flight(object.state)) in_flight_.push_back(packed);
  }

  // In the index and in the policy, or not.
  void check_place(ChunkId id) {
    const Chunk& chunk = store_.chunk(id);
    const Lineage& lineage = store_.lineage(id);
    const bool live = contents_.live(id) > 0;
    const bool base = lineage.children > 0 || lineage.in_flight > 0;
    if ((chunk.base != 0) != base) fail("a stale mark of what rests on it", id);
    if (chunk.indexed) {
      ++indexed_;
      if (store_.find(chunk.key) != id) fail("not found by its key", id);
      if (!live && lineage.children == 0) fail("in the index for nothing", id);
    } else {
      if (live) fail("live objects outside the index", id);
      if (lineage.children > 0 || lineage.parent != kNoChunk) fail("relatives outside", id);
      if (chunk.pins == 0 && !store_.has_objects(id)) fail("a record that nobody holds", id);
    }
    const bool candidate = chunk.indexed && !base && chunk.pins == 0 && chunk.resident > 0;
    if ((chunk.queued != 0) != candidate) fail("a candidate not queued, or the reverse", id);
    if (candidate) ++candidates_;
    if (chunk.listed && !candidate) fail("listed, and no candidate", id);
    if (chunk.listed) ++listed_[lineage.tenant];
    if (contents_.policy_->is_candidate(id) != candidate) fail("the policy thinks otherwise", id);
    if (lineage.parent != kNoChunk) {
      if (free_[lineage.parent]) fail("a parent that is gone", id);
      if (!store_.chunk(lineage.parent).indexed) fail("a parent outside the index", id);
      ++children_[lineage.parent];
    }
  }

  // Each tenant's list is of those that say so, and leads both ways.
  void check_lists() const {
    for (const auto& [tenant, count] : listed_) {
      std::uint32_t seen = 0;
      for (ChunkId id = contents_.own_.oldest(tenant); id != kNoChunk;
           id = contents_.own_.newer_than(id)) {
        if (!store_.chunk(id).listed || store_.lineage(id).tenant != tenant) {
          fail("in a tenant's list by mistake", id);
        }
        if (++seen > count) fail("a tenant's list goes on and on", id);
      }
      if (seen != count) fail("a tenant's list has lost some", kNoChunk);
    }
  }

  // No circles. Records that were seen to lead to a start are not followed again.
  void check_ancestors(ChunkId id) {
    if (rooted_.size() < store_.chunks_ever()) rooted_.assign(store_.chunks_ever(), false);
    std::vector<ChunkId> line;
    for (; id != kNoChunk && !rooted_[id]; id = store_.lineage(id).parent) {
      line.push_back(id);
      if (line.size() > used_) fail("a circle of parents", id);
    }
    for (const ChunkId member : line) rooted_[member] = true;
  }

  void check_sums() {
    if (used_ != store_.chunks_used()) fail("chunk records miscounted", kNoChunk);
    if (indexed_ != store_.chunks_indexed()) fail("index entries miscounted", kNoChunk);
    if (objects_ != store_.objects_used()) fail("object records miscounted", kNoChunk);
    if (pd_objects_ != contents_.pd_objects_ || pd_objects_ > contents_.pd_objects_max_) {
      fail("objects in the PD pool miscounted", kNoChunk);
    }
    if (objects_live_ != contents_.objects_live_) fail("objects miscounted", kNoChunk);
    if (chunks_with_objects_ != contents_.chunks_with_objects_) {
      fail("chunks with objects miscounted", kNoChunk);
    }
    if (pages_pinned_ != contents_.pages_pinned_) fail("pinned pages miscounted", kNoChunk);
    if (candidates_ != contents_.policy_->candidates()) fail("candidates miscounted", kNoChunk);
    for (const PageRun run : holdings_.quarantined) {
      pages(ObjectState::quarantined, contents_.room_.pool_of(run.first)) += run.pages;
    }
    for (const Pool pool : {Pool::cache, Pool::pd}) {
      if (pages(ObjectState::quarantined, pool) !=
          contents_.ledger_.pages(ObjectState::quarantined, pool)) {
        fail("quarantined pages miscounted", kNoChunk);
      }
      for (const ObjectState state :
           {ObjectState::reserved, ObjectState::loaded, ObjectState::resident}) {
        if (pages(state, pool) != contents_.ledger_.pages(state, pool)) {
          fail("pages of a state miscounted", kNoChunk);
        }
      }
    }
    const std::uint64_t resident = contents_.ledger_.pages(ObjectState::resident);
    if (contents_.policy_->pages_counted().value_or(resident) != resident) {
      fail("the policy has miscounted pages", kNoChunk);
    }
    if (tenants_ != contents_.ledger_.pages_by_tenant()) fail("tenants miscounted", kNoChunk);
  }

  // Everything that is held has its holder, and no holder has what is not there.
  void check_holders() {
    std::vector<std::uint64_t> readers = holdings_.readers;
    std::vector<std::uint64_t> in_flight = holdings_.in_flight;
    std::ranges::sort(readers);
    std::ranges::sort(readers_);
    std::ranges::sort(in_flight);
    std::ranges::sort(in_flight_);
    if (readers != readers_) fail("readers without, or besides, their leases", kNoChunk);
    if (in_flight != in_flight_) fail("objects in flight without their reservation", kNoChunk);
  }

  // No page belongs to two extents, and all others are free.
  void check_extents() {
    runs_.insert(runs_.end(), holdings_.quarantined.begin(), holdings_.quarantined.end());
    std::ranges::sort(runs_, {}, &PageRun::first);
    const ArenaRoom& room = contents_.room_;
    const std::uint64_t border = room.pages_total(Pool::cache);
    std::uint64_t end = 0;
    std::array<std::uint64_t, kPools> pages{};
    for (const PageRun run : runs_) {
      if (run.first < end) fail("two extents on page " + std::to_string(run.first), kNoChunk);
      end = static_cast<std::uint64_t>(run.first) + run.pages;
      if (run.first < border && end > border) fail("an extent in both pools", kNoChunk);
      pages[static_cast<std::size_t>(room.pool_of(run.first))] += run.pages;
    }
    if (end > border + room.pages_total(Pool::pd)) fail("an extent beyond the arena", kNoChunk);
    for (const Pool pool : {Pool::cache, Pool::pd}) {
      if (pages[static_cast<std::size_t>(pool)] + room.pages_free(pool) != room.pages_total(pool)) {
        fail("pages that are neither free nor anybody's", kNoChunk);
      }
    }
  }

  std::uint64_t& pages(ObjectState state, Pool pool) {
    return pages_[static_cast<std::size_t>(pool)][static_cast<std::size_t>(state)];
  }

  const Contents& contents_;
  const ChunkStore& store_;
  const Holdings& holdings_;
  std::vector<bool> free_;
  std::vector<bool> rooted_;
  std::vector<std::uint32_t> children_;
  std::vector<PageRun> runs_;
  std::vector<std::uint64_t> readers_;
  std::vector<std::uint64_t> in_flight_;
  std::array<std::array<std::uint64_t, kObjectStates>, kPools> pages_{};
  std::unordered_map<std::uint32_t, std::uint64_t> tenants_;
  std::unordered_map<std::uint32_t, std::uint32_t> listed_;  // by tenant
  std::uint64_t pages_pinned_ = 0;
  std::uint32_t used_ = 0;
  std::uint32_t indexed_ = 0;
  std::uint32_t objects_ = 0;
  std::uint32_t pd_objects_ = 0;
  std::uint32_t objects_live_ = 0;
  std::uint32_t chunks_with_objects_ = 0;
  std::uint32_t candidates_ = 0;
};

void Contents::validate(const Holdings& holdings) const {
  Validator(*this, holdings).run();
}

}  // namespace penstock
