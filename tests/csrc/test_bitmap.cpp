// Bitmaps and the hit rule against twins that look at one bit at a time.
#include <algorithm>
#include <random>
#include <vector>

#include "check.hpp"
#include "core/bitmap.hpp"

using penstock::Bitmap;
using penstock::BitmapMismatch;
using penstock::GroupPresence;
using penstock::HitRule;

namespace {

Bitmap random_bitmap(std::mt19937_64& random, std::size_t size, unsigned ones_of_16) {
  Bitmap bitmap(size);
  for (std::size_t i = 0; i < size; ++i) {
    if (random() % 16 < ones_of_16) {
      bitmap.set(i);
    }
  }
  return bitmap;
}

bool holds(const GroupPresence& group, std::size_t n) {
  std::size_t first = 0;
  if (group.rule == HitRule::window) {
    first = n - std::min(n, group.window_chunks);
  } else if (group.rule == HitRule::state) {
    first = n - std::min<std::size_t>(n, 1);
  }
  for (std::size_t i = first; i < n; ++i) {
    if (!group.present->test(i)) {
      return false;
    }
  }
  return true;
}

std::size_t longest_hit_by_trying_all(const std::vector<GroupPresence>& groups) {
  if (groups.empty()) {
    return 0;
  }
  for (std::size_t n = groups.front().present->size();; --n) {
    if (std::ranges::all_of(groups, [n](const GroupPresence& g) { return holds(g, n); })) {
      return n;
    }
  }
}

}  // namespace

TEST_CASE(folds_equal_a_walk_over_single_bits) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 2000; ++round) {
    const std::size_t size = random() % 200;
    const Bitmap bitmap = random_bitmap(random, size, 1 + random() % 16);
    std::size_t prefix = 0;
    while (prefix < size && bitmap.test(prefix)) {
      ++prefix;
    }
    CHECK_EQ(bitmap.prefix(), prefix);
    const std::size_t end = random() % (size + 1);
    std::size_t run = 0;
    while (run < end && bitmap.test(end - run - 1)) {
      ++run;
    }
    CHECK_EQ(bitmap.run_before(end), run);
    std::optional<std::size_t> highest;
    for (std::size_t i = 0; i < end; ++i) {
      highest = bitmap.test(i) ? i : highest;
    }
    CHECK(bitmap.highest_before(end) == highest);
    CHECK(Bitmap::from_bytes(bitmap.to_bytes(), size) == bitmap);
  }
}

TEST_CASE(joins_work_bit_by_bit) {
  std::mt19937_64 random(2);
  for (const std::size_t size : {0U, 1U, 63U, 64U, 65U, 130U}) {
    const Bitmap left = random_bitmap(random, size, 8);
    const Bitmap right = random_bitmap(random, size, 8);
    const Bitmap both = left & right;
    const Bitmap either = left | right;
    std::size_t ones = 0;
    for (std::size_t i = 0; i < size; ++i) {
      CHECK_EQ(both.test(i), left.test(i) && right.test(i));
      CHECK_EQ(either.test(i), left.test(i) || right.test(i));
      ones += either.test(i) ? 1 : 0;
    }
    CHECK_EQ(either.count(), ones);
  }
}

TEST_CASE(bits_beyond_the_size_are_ignored) {
  const std::vector<std::byte> packed{std::byte{0xFF}};
  const Bitmap bitmap = Bitmap::from_bytes(packed, 3);
  CHECK_EQ(bitmap.count(), 3U);
  CHECK_EQ(bitmap.prefix(), 3U);
}

TEST_CASE(misuse_is_refused) {
  Bitmap bitmap(10);
  CHECK_THROWS(bitmap.test(10), BitmapMismatch);
  CHECK_THROWS(bitmap.set(10), BitmapMismatch);
  CHECK_THROWS(bitmap.run_before(11), BitmapMismatch);
  CHECK_THROWS(bitmap &= Bitmap(11), BitmapMismatch);
  CHECK_THROWS(Bitmap::from_bytes({}, 1), BitmapMismatch);
  const std::vector<GroupPresence> no_window{{&bitmap, HitRule::window, 0}};
  CHECK_THROWS(penstock::longest_hit(no_window), BitmapMismatch);
}

// A16: attention alone would hit further than the recurrent state or the window allows.
TEST_CASE(the_hit_is_the_largest_n_at_which_every_group_holds) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 20000; ++round) {
    const std::size_t size = random() % 140;
    std::vector<Bitmap> bitmaps;
    for (std::size_t i = 0; i < random() % 4; ++i) {
      bitmaps.push_back(random_bitmap(random, size, 8 + random() % 9));
    }
    std::vector<GroupPresence> groups;
    for (const Bitmap& bitmap : bitmaps) {
      groups.push_back({&bitmap, static_cast<HitRule>(random() % 3), 1 + random() % 9});
    }
    CHECK_EQ(penstock::longest_hit(groups), longest_hit_by_trying_all(groups));
  }
}

CHECK_MAIN()
