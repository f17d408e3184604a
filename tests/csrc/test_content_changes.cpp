// Which chunks come and go, followed through walks, takes and losses: a twin knows what there is.
#include <cstdint>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "check.hpp"
#include "core/content_changes.hpp"

using penstock::ChunkId;
using penstock::ContentChanges;
using penstock::Key;

namespace {

Key key_of(std::uint64_t number) {
  return Key{{number, number * 3, 0, 0}};
}

// Some records, each with a chunk or without, and whoever follows them.
struct Follower {
  std::vector<std::optional<std::uint64_t>> records = std::vector<std::optional<std::uint64_t>>(12);
  std::set<std::uint64_t> there{};
  std::set<std::uint64_t> known{};
  ContentChanges changes;

  explicit Follower(std::uint32_t items_max) : changes(items_max, 7) {}

  void come(std::size_t record, std::uint64_t chunk) {
    if (records[record] || there.contains(chunk)) return;
    records[record] = chunk;
    there.insert(chunk);
    changes.came(key_of(chunk), static_cast<ChunkId>(record));
  }
  void go(std::size_t record) {
    if (!records[record]) return;
    there.erase(*records[record]);
    changes.went(key_of(*records[record]), static_cast<ChunkId>(record));
    records[record].reset();
  }
  void learn(const Key& key, bool is_there) {
    const std::uint64_t chunk = key.words[0];
    CHECK_EQ(known.contains(chunk), !is_there);
    if (is_there) {
      known.insert(chunk);
    } else {
      known.erase(chunk);
    }
  }
  void take(std::uint32_t most) {
    const ContentChanges::Taken taken = changes.take(most);
    CHECK(taken.added.size() + taken.gone.size() <= most);
    for (const Key& key : taken.added) learn(key, true);
    for (const Key& key : taken.gone) learn(key, false);
  }
  void begin() {
    known.clear();
    changes.begin_walk();
  }
  void walk(std::size_t steps) {
    for (; steps > 0 && changes.walked() < records.size(); --steps) {
      const std::uint64_t at = changes.walked();
      if (records[at] && changes.told(key_of(*records[at]))) learn(key_of(*records[at]), true);
      changes.moved_to(at + 1);
    }
    if (changes.walked() == records.size()) changes.over();
  }
};

}  // namespace

TEST_CASE(whoever_follows_knows_what_there_is) {
  for (const std::uint32_t items_max : {2U, 6U, 1000U}) {
    std::mt19937_64 random(items_max);
    Follower follower(items_max);
    std::uint64_t lost = 0;
    for (int step = 0; step < 40'000; ++step) {
      const std::uint64_t drawn = random();
      const std::size_t record = drawn % 12;
      if (step % 500 == 0) follower.begin();
      if (drawn >> 60U < 6) follower.come(record, (drawn >> 8U) % 20);
      if (drawn >> 60U > 9) follower.go(record);
      if (drawn >> 60U == 6) follower.take(1 + record % 4);
      if (drawn >> 60U == 7) follower.walk(record);
      if (follower.changes.losses() > lost) {
        lost = follower.changes.losses();
        CHECK(follower.changes.is_lost());
        CHECK(follower.changes.is_empty());
        follower.begin();
        follower.walk(3);
      }
      if (follower.changes.walked() == ContentChanges::kAll && drawn % 97 == 0) {
        follower.take(1000);
        CHECK(follower.known == follower.there);
        CHECK(!follower.changes.is_due());
      }
    }
    CHECK((lost > 0) == (items_max < 1000));
  }
}

TEST_CASE(what_came_and_went_is_told_of_only_if_it_changed_anything) {
  Follower follower(10);
  follower.come(0, 1);
  follower.begin();
  follower.walk(12);
  CHECK(follower.known == follower.there);
  follower.go(0);
  follower.come(5, 1);
  follower.come(1, 2);
  follower.go(1);
  CHECK(follower.changes.is_due());
  const ContentChanges::Taken taken = follower.changes.take(10);
  CHECK(taken.added.empty());
  CHECK(taken.gone.empty());
  CHECK(!follower.changes.is_due());
}

TEST_CASE(a_table_that_keeps_none_is_never_due) {
  Follower follower(0);
  follower.come(0, 1);
  follower.go(0);
  CHECK(!follower.changes.is_due());
  CHECK(!follower.changes.is_kept());
  CHECK(follower.changes.is_empty());
}

CHECK_MAIN()
