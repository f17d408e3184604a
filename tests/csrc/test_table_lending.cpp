// What the node reads while engines write it: whoever is the last lets go of the memory, and
// nothing of it is anybody else's before.
#include <algorithm>
#include <array>
#include <limits>
#include <random>
#include <set>
#include <span>
#include <vector>

#include "check.hpp"
#include "core/table.hpp"

namespace penstock {
namespace {

constexpr std::uint64_t kPages = 64;
constexpr std::array<std::uint16_t, 2> kSlots = {0, 1};

struct Lent {
  Id lease;
  std::set<std::uint64_t> pages;
};

struct Written {
  Id lease;
  std::vector<Extent> extents;
};

class Lending {
 public:
  explicit Lending(std::uint64_t seed) : random_(seed) {
    table_.attach(0, 0);
    table_.attach(1, 1);
    geometry_ = table_.add_geometry({Group{HitRule::full, 0, {4096, 9000}, {2, 3}}});
  }

  void turn(std::uint64_t number) {
    now_ += 1;
    switch (random_() % 8) {
      case 0:
      case 1:
        return reserve(number);
      case 2:
      case 3:
        return lend(number);
      case 4:
        return give_back();
      case 5:
        return end_write();
      case 6:
        table_.expire(now_, 1 + random_() % 4);
        return;
      default:
        table_.evict(3 * kPageBytes, 2, now_);
        return;
    }
  }

  void end() {
    if (random_() % 2 == 0) table_.stream_lost(1);
    table_.session_over(1);
    table_.validate();
    while (!lent_.empty()) give_back();
    table_.evict(kPages * kPageBytes, UINT32_MAX, now_);
    table_.validate();
    CHECK_EQ(table_.free_bytes(), kPages * kPageBytes);
  }

  void validate() { table_.validate(); }

 private:
  void reserve(std::uint64_t number) {
    std::vector<Key> keys;
    const std::uint64_t prompt = random_() % 6;
    for (std::uint64_t i = 0; i < 1 + random_() % 4; ++i) keys.push_back({prompt, i, 2, 3});
    const Id lease{number + 1, 0};
    const KeyBatch batch(std::as_bytes(std::span(keys)));
    Table::Reserved reserved =
        table_.reserve(batch, {{}, geometry_, kSlots, 0, lease, 1, now_, now_ + 20, Pool::cache});
    bool granted = false;
    for (const Extent& extent : reserved.extents) {
      granted = granted || extent.bytes > 0;
      for (const Lent& lent : lent_) {  // nobody gets what somebody reads
        if (extent.bytes > 0) CHECK(!lent.pages.contains(extent.offset));
      }
    }
    if (granted) written_.push_back({lease, std::move(reserved.extents)});
  }

  void lend(std::uint64_t number) {
    if (written_.empty()) return;
    const Written& written = written_[random_() % written_.size()];
    const auto index = static_cast<std::uint32_t>(random_() % written.extents.size());
    if (written.extents[index].bytes == 0) return;
    const Id lease{number + 1, 1};
    const Table::Borrowed borrowed = table_.borrow_writing(
        written.lease, 1, std::array{index}, {lease, 0, now_, std::numeric_limits<double>::max()});
    if (borrowed.over) return;
    CHECK_EQ(borrowed.objects.front().offset, written.extents[index].offset);
    lent_.push_back({lease, {borrowed.objects.front().offset}});
  }

  void give_back() {
    if (lent_.empty()) return;
    const std::size_t which = random_() % lent_.size();
    table_.release(lent_[which].lease, 0, {}, now_);
    lent_.erase(lent_.begin() + static_cast<std::ptrdiff_t>(which));
  }

  void end_write() {
    if (written_.empty()) return;
    const std::size_t which = random_() % written_.size();
    const Written written = written_[which];
    written_.erase(written_.begin() + static_cast<std::ptrdiff_t>(which));
    if (random_() % 2 == 0) {
      table_.abort(written.lease, 1);
      return;
    }
    const auto granted = std::ranges::count_if(
        written.extents, [](const Extent& extent) { return extent.bytes > 0; });
    const std::vector<std::uint64_t> digests(static_cast<std::size_t>(granted), 7);
    table_.commit(written.lease, {1, true, {}, digests, {}, now_});
  }

  std::mt19937_64 random_;
  Table table_{{.arena_bytes = kPages * kPageBytes,
                .objects_max = 200,
                .quarantine_bytes_max = kPages * kPageBytes}};
  std::uint16_t geometry_ = 0;
  double now_ = 0;
  std::vector<Written> written_;
  std::vector<Lent> lent_;
};

TEST_CASE(what_is_lent_while_it_is_written_is_nobody_elses_before_all_have_let_go) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Lending lending(seed);
    for (std::uint64_t number = 0; number < 300; ++number) {
      lending.turn(number);
      lending.validate();
    }
    lending.end();
  }
}

}  // namespace
}  // namespace penstock
CHECK_MAIN()
