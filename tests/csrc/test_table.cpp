// The whole table under random calls: every invariant holds after each, and nothing leaks. Meant
// for AddressSanitizer.
#include <algorithm>
#include <array>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "check.hpp"
#include "core/table.hpp"

namespace penstock {
namespace {

using Random = std::mt19937_64;

constexpr std::uint64_t kPages = 600;
constexpr std::uint32_t kPrompts = 12;
constexpr std::uint32_t kChunks = 10;
constexpr std::uint64_t kSessions = 3;

// What all seeds together have met: that it was worth the while.
struct Seen {
  std::uint64_t refused = 0;
  std::uint64_t extents = 0;
  std::uint64_t evicted = 0;
  std::uint64_t expired = 0;
  std::uint64_t damaged = 0;
  std::uint64_t quarantined = 0;
  std::uint64_t borrowed = 0;
  std::uint64_t followed = 0;
};

// Calls with arguments that are mostly right. Leases and tickets are drawn from all that ever were.
class Driver {
 public:
  Driver(PolicyKind policy, std::uint64_t seed)
      : random_(seed),
        table_({.arena_bytes = kPages * kPageBytes,
                .objects_max = 150,
                .policy = policy,
                .quarantine_bytes_max = 100 * kPageBytes,
                .story_events_max = 100,
                .news_max = 40,
                .changes_max = 30,
                .fair_share = seed % 2 == 0}) {
    table_.add_geometry(
        {{HitRule::full, 0, {5000, 12000}, {3, 1}}, {HitRule::window, 2, {20000}, {}}});
    for (std::uint64_t session = 1; session <= kSessions; ++session) table_.attach(session, 1);
    table_.attach(kOwnSession, 2);
  }

  void step() {
    try {
      call();
    } catch (const TableError&) {
      ++refused_;  // and nothing may have changed, as validate() will tell
    }
    follow();
    table_.validate();
    if (table_.statistics().bytes_quarantined > 0) ++quarantined_;
  }

  // All sessions end: then nothing is held, and eviction empties the table.
  void finish(Seen& seen) {
    for (std::uint64_t session = 0; session <= kSessions; ++session) table_.session_over(session);
    const Table::Statistics held = table_.statistics();
    CHECK_EQ(held.leases + held.overdue_leases + held.tickets, 0U);
    CHECK_EQ(held.bytes_quarantined + held.bytes_reserved + held.bytes_pinned, 0U);
    static_cast<void>(table_.evict(UINT64_MAX, UINT32_MAX, now_));
    table_.validate();
    const Table::Statistics empty = table_.statistics();
    CHECK_EQ(empty.bytes_free, kPages * kPageBytes);
    CHECK_EQ(empty.chunks + empty.placeholders + empty.objects, 0U);
    for (int turn = 0; turn < 1000; ++turn) follow();
    CHECK(known_.empty());
    CHECK(!table_.changes().is_due());
    seen.refused += refused_;
    seen.extents += extents_;
    seen.evicted += empty.evicted_chunks;
    seen.expired += empty.expired_leases;
    seen.damaged += empty.damaged_objects;
    seen.quarantined += quarantined_;
    seen.borrowed += borrowed_;
    seen.followed += followed_;
  }

 private:
  std::uint64_t draw(std::uint64_t below) { return random_() % below; }
  bool often() { return draw(8) != 0; }

  std::vector<Key> prompt() {
    const std::uint64_t name = draw(kPrompts);
    std::vector<Key> keys(1 + draw(kChunks));
    // The first half is common to all prompts.
    for (std::uint64_t i = 0; i < keys.size(); ++i) {
      keys[i] = {i < kChunks / 2 ? 99 : name, i, 0, 0};
    }
    if (draw(20) == 0) std::ranges::shuffle(keys, random_);
    return keys;
  }
  static KeyBatch batch(const std::vector<Key>& keys) {
    return KeyBatch(std::as_bytes(std::span(keys)));
  }

  struct Known {
    Id id{};
    std::uint64_t session = 1;
    std::uint32_t objects = 0;
  };
  // One of the newest; its own session mostly, or a wrong one.
  Known known(const std::vector<Known>& all) {
    if (all.empty()) return {};
    Known one = all[all.size() - 1 - draw(std::min<std::size_t>(all.size(), 12))];
    if (!often()) one.session = session();
    return one;
  }
  Id fresh() {
    ++drawn_;
    return {drawn_, ~drawn_};
  }
  std::vector<std::uint16_t> slots() {
    if (often()) return {0, 1, 2};
    return draw(2) == 0 ? std::vector<std::uint16_t>{1} : std::vector<std::uint16_t>{0, 2};
  }
  std::uint64_t session() { return 1 + draw(kSessions); }
  double soon() { return now_ + static_cast<double>(3 + draw(40)); }

  // Somebody who keeps a summary of the chunks: what he is told fits what he was told before.
  void follow() {
    const ContentChanges& changes = table_.changes();
    if (changes.is_lost()) {
      known_.clear();
      learn(table_.resident_keys(0, static_cast<std::uint32_t>(1 + draw(30))).keys, {});
    } else if (changes.walked() != ContentChanges::kAll) {
      learn(table_.resident_keys(changes.walked(), static_cast<std::uint32_t>(1 + draw(30))).keys,
            {});
    } else if (draw(6) == 0) {
      const ContentChanges::Taken taken = table_.take_changes(static_cast<std::uint32_t>(draw(40)));
      followed_ += taken.added.size() + taken.gone.size();
      learn(taken.added, taken.gone);
    }
  }
  void learn(const std::vector<Key>& added, const std::vector<Key>& gone) {
    for (const Key& key : added) CHECK(known_.emplace(key.words[0], key.words[1]).second);
    for (const Key& key : gone) CHECK_EQ(known_.erase({key.words[0], key.words[1]}), 1U);
  }

  void call() {
    switch (draw(12)) {
      case 0:
      case 1:
        return write();
      case 2:
      case 3:
        return settle();
      case 4:
      case 5:
        return read();
      case 6:
        return finish_reading();
      case 7:
        return make_room();
      case 8:
        return borrow();
      default:
        return live();
    }
  }

  void write() {
    const std::vector<Key> keys = prompt();
    const std::vector<std::uint16_t> chosen = slots();
    const std::uint64_t skip = often() ? 0 : draw(keys.size());
    std::optional<Key> parent;
    if (skip > 0 && often()) parent = keys[skip - 1];
    const Known made{fresh(), session(),
                     static_cast<std::uint32_t>((keys.size() - skip) * chosen.size())};
    table_.reserve(batch(keys).range(skip, keys.size() - skip),
                   {parent, 0, chosen, static_cast<std::uint32_t>(draw(3)), made.id, made.session,
                    now_, soon()});
    writing_.push_back(made);
    if (often()) settle();
  }

  void settle() {
    const Known lease = known(often() ? writing_ : reading_);
    if (draw(6) == 0) {
      table_.abort(lease.id, lease.session);
      return;
    }
    const bool whole = draw(3) != 0;
    std::vector<std::uint32_t> indices;
    for (std::uint32_t i = 0; i < lease.objects; ++i) {
      if (whole || draw(2) == 0) indices.push_back(i);
    }
    if (indices.empty()) return;
    const std::vector<std::uint64_t> digests(indices.size(), 7);
    const Table::CommitRequest request{lease.session, false, indices, digests, {}, now_};
    if (draw(4) == 0) table_.loaded(lease.id, request);
    if (draw(4) != 0) table_.commit(lease.id, request);
  }

  void read() {
    const std::vector<Key> keys = prompt();
    const Table::TicketRequest request{fresh(), 0, 1, 2, now_, soon()};
    tickets_.push_back({request.id});
    if (draw(3) == 0) {
      table_.open_ticket(request);
      table_.extend(request.id, batch(keys), now_);
    } else if (table_.lookup(batch(keys), request).hit == 0) {
      return;
    }
    const std::vector<std::uint16_t> chosen = slots();
    const Known made{fresh(), session(), 0};
    const Table::Acquired acquired =
        table_.acquire(request.id, {0, chosen, 0, made.id, made.session, now_, soon()});
    reading_.push_back(made);
    extents_ += acquired.extents.size();
  }

  void finish_reading() {
    std::vector<std::uint32_t> damaged;
    if (draw(2) == 0) damaged.push_back(static_cast<std::uint32_t>(draw(4)));
    const Known lease = known(often() ? reading_ : writing_);
    table_.close_ticket(known(tickets_).id, 1 + draw(8) / 7);
    table_.release(lease.id, lease.session, damaged, now_);
  }

  void make_room() {
    static_cast<void>(table_.evict(draw(40) * kPageBytes, UINT32_MAX, now_));
    if (draw(8) == 0) table_.drop(batch(prompt()));
    table_.set_quota(1, draw(100) * kPageBytes);
    table_.touch(batch(prompt()), now_);
  }

  // What is borrowed is given back soon, or when its session ends.
  void borrow() {
    while (own_.size() > draw(6)) {
      table_.lease_handle(own_.front().id, kOwnSession).give_back();
      own_.erase(own_.begin());
    }
    const Known made{fresh(), kOwnSession, 0};
    const Table::BorrowRequest request{made.id, kOwnSession, now_, often() ? 1e9 : soon()};
    const std::uint64_t how = draw(3);
    const Table::Borrowed borrowed =
        how == 0   ? table_.borrow(batch(prompt()), 0, request)
        : how == 1 ? table_.take_committed(static_cast<std::uint32_t>(1 + draw(30)),
                                           draw(60) * kPageBytes, request)
                   : table_.victims(draw(40) * kPageBytes, static_cast<std::uint32_t>(1 + draw(9)),
                                    request);
    borrowed_ += borrowed.objects.size();
    own_.push_back(made);
    if (draw(6) == 0) static_cast<void>(table_.let_go(made.id, kOwnSession, now_));
    if (draw(3) == 0) table_.evict_these(batch(borrowed.keys), now_);
    if (draw(8) != 0) return;
    std::vector<Key> keys;
    std::vector<std::uint16_t> slots;
    for (const Table::BorrowedObject& object : borrowed.objects) {
      keys.push_back(borrowed.keys[object.chunk]);
      slots.push_back(object.slot);
    }
    table_.drop_objects(batch(keys), slots);
    table_.set_weight(static_cast<std::uint32_t>(draw(3)), static_cast<std::uint32_t>(1 + draw(5)));
  }

  void live() {
    if (draw(5) != 0) {
      const bool whole = draw(2) == 0;
      table_.expire(now_ += static_cast<double>(draw(4)), whole ? UINT32_MAX : 3);
      return;
    }
    const std::uint64_t one = session();
    const auto step = static_cast<std::uint32_t>(1 + draw(5));
    if (draw(2) == 0) table_.orphan_some(one, step);
    if (draw(4) == 0) table_.end_some(one, step);
    if (draw(4) == 0) table_.close_some(1, step);
    if (draw(2) == 0) table_.stream_lost(one);
    if (often()) {
      table_.session_over(one);
      table_.attach(one, 1);
    }
  }

  Random random_;
  Table table_;
  std::vector<Known> writing_;
  std::vector<Known> reading_;
  std::vector<Known> tickets_;
  std::vector<Known> own_;
  std::uint64_t drawn_ = 0;
  std::uint64_t refused_ = 0;
  std::uint64_t extents_ = 0;
  std::uint64_t quarantined_ = 0;
  std::uint64_t borrowed_ = 0;
  std::uint64_t followed_ = 0;                               // changes taken
  std::set<std::pair<std::uint64_t, std::uint64_t>> known_;  // chunks, to who follows them
  double now_ = 0;
};

void drive(PolicyKind policy, std::uint64_t seeds, int steps) {
  Seen seen;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    Driver driver(policy, seed);
    try {
      for (int step = 0; step < steps; ++step) driver.step();
      driver.finish(seen);
    } catch (const std::exception& error) {
      check::fail(__FILE__, __LINE__, "seed=" + std::to_string(seed) + ": " + error.what());
    }
  }
  CHECK(seen.refused > seeds);
  CHECK(seen.extents > 100 * seeds);
  CHECK(seen.evicted > 50 * seeds);
  CHECK(seen.expired > 10 * seeds);
  CHECK(seen.damaged > seeds);
  CHECK(seen.quarantined > seeds);
  CHECK(seen.borrowed > 50 * seeds);
  CHECK(seen.followed > 50 * seeds);
}

TEST_CASE(everything_holds_together_under_lru) {
  drive(PolicyKind::lru, 12, 1500);
}

TEST_CASE(everything_holds_together_under_s3fifo) {
  drive(PolicyKind::s3fifo, 12, 1500);
}

TEST_CASE(everything_holds_together_under_sieve) {
  drive(PolicyKind::sieve, 6, 1500);
}

TEST_CASE(everything_holds_together_under_arc) {
  drive(PolicyKind::arc, 6, 1500);
}

TEST_CASE(everything_holds_together_under_tinylfu) {
  drive(PolicyKind::tinylfu, 6, 1500);
}

TEST_CASE(everything_holds_together_under_prospect) {
  drive(PolicyKind::prospect, 6, 1500);
}

TEST_CASE(a_table_that_cannot_be_is_refused) {
  CHECK_THROWS(Table({.arena_bytes = 0, .objects_max = 1}), BadArgument);
  CHECK_THROWS(Table({.arena_bytes = 4097, .objects_max = 1}), BadArgument);
  CHECK_THROWS(Table({.arena_bytes = 1ULL << 43U, .objects_max = 1}), BadArgument);
  CHECK_THROWS(Table({.arena_bytes = 4096, .objects_max = 0}), BadArgument);
  CHECK_THROWS(Table({.arena_bytes = 4096, .objects_max = 1, .leases_max = 0}), BadArgument);
  CHECK_THROWS(Table({.arena_bytes = 4096, .objects_max = 1, .leases_max = 1U << 23U}),
               BadArgument);
}

}  // namespace
}  // namespace penstock

CHECK_MAIN()
