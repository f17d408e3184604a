// Two pools in one arena: any reservations in both, and neither ever lies in the other.
#include <array>
#include <random>
#include <span>
#include <vector>

#include "check.hpp"
#include "core/table.hpp"

namespace penstock {
namespace {

constexpr double kNever = 1e9;
constexpr std::uint64_t kCachePages = 40;
constexpr std::uint64_t kPdPages = 24;
constexpr std::array<std::uint16_t, 2> kSlots = {0, 1};

struct Written {
  Id lease;
  Pool pool;
  std::size_t granted;
};

std::vector<Key> prompt_of(std::uint64_t prompt, std::uint64_t chunks) {
  std::vector<Key> keys;
  for (std::uint64_t i = 0; i < chunks; ++i) keys.push_back({prompt, i, 2, 3});
  return keys;
}

TEST_CASE(reservations_of_each_pool_stay_in_it_and_the_pushed_ones_drain) {
  Table table({.arena_bytes = kCachePages * kPageBytes,
               .pd_bytes = kPdPages * kPageBytes,
               .objects_max = 40,
               .pd_objects_max = 20,
               .quarantine_bytes_max = kPageBytes});
  const std::uint16_t geometry = table.add_geometry({Group{HitRule::full, 0, {4096, 9000}, {}}});
  table.attach(1, 1);
  std::mt19937_64 random(7);
  std::vector<Written> leases;
  for (std::uint64_t turn = 0; turn < 3000; ++turn) {
    if (leases.size() < 6 || random() % 2 == 0) {
      const Pool pool = random() % 2 == 0 ? Pool::pd : Pool::cache;
      const std::vector<Key> keys = prompt_of(random() % 12, 1 + random() % 6);
      const KeyBatch batch(std::as_bytes(std::span(keys)));
      const Table::Reserved reserved =
          table.reserve(batch, {{}, geometry, kSlots, 0, {turn + 1, 0}, 1, 0, kNever, pool});
      std::size_t granted = 0;
      for (const Extent& extent : reserved.extents) {
        if (extent.bytes == 0) continue;
        ++granted;
        CHECK_EQ(extent.offset >= kCachePages * kPageBytes, pool == Pool::pd);
      }
      if (granted > 0) leases.push_back({{turn + 1, 0}, pool, granted});
    } else {
      const std::size_t which = random() % leases.size();
      const Written written = leases[which];
      leases[which] = leases.back();
      leases.pop_back();
      const std::vector<std::uint64_t> digests(written.granted, turn);
      const Table::CommitRequest all{1, true, {}, digests, {}, 0};
      if (random() % 2 == 0) {
        table.loaded(written.lease, all);
        table.validate();
      }
      if (written.pool == Pool::cache && random() % 2 == 0) {
        table.commit(written.lease, {1, true, {}, digests, {}, 0});
      } else {
        table.abort(written.lease, 1);
      }
    }
    if (random() % 4 == 0) table.evict(3 * kPageBytes, 2, 0);
    table.validate();
  }
  table.session_over(1);
  table.validate();
  CHECK_EQ(table.statistics().pd_bytes_free, kPdPages * kPageBytes);
}

}  // namespace
}  // namespace penstock

CHECK_MAIN()
