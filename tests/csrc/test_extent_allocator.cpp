// Random operations on the extent allocator against a dumb twin: a vector with an owner per page.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/extent_allocator.hpp"

namespace {

using penstock::ExtentAllocator;
using penstock::kPageBytes;

constexpr std::uint64_t kMiB = 1024ULL * 1024;
constexpr std::uint64_t kGiB = 1024 * kMiB;

std::uint32_t taken(ExtentAllocator& allocator, std::uint32_t pages) {
  const auto first = allocator.allocate(pages);
  CHECK(first.has_value());
  return first.value_or(0);
}

struct Run {
  std::uint32_t first;
  std::uint32_t pages;
};

// The twin: owner[page] is 0 when the page is free. First fit and every question by looking at all
// pages.
class Twin {
 public:
  explicit Twin(std::uint32_t pages) : owner_(pages, 0) {}

  void take(const Run& run, std::uint32_t owner) {
    CHECK(run.first + static_cast<std::uint64_t>(run.pages) <= owner_.size());
    for (std::uint32_t page = run.first; page < run.first + run.pages; ++page) {
      CHECK(owner_[page] == 0);
      owner_[page] = owner;
    }
  }

  void give(const Run& run, std::uint32_t owner) {
    for (std::uint32_t page = run.first; page < run.first + run.pages; ++page) {
      CHECK(owner_[page] == owner);
      owner_[page] = 0;
    }
  }

  [[nodiscard]] std::uint64_t free_pages() const {
    std::uint64_t count = 0;
    for (const auto owner : owner_) count += owner == 0 ? 1 : 0;
    return count;
  }

  [[nodiscard]] std::uint64_t largest() const {
    std::uint64_t best = 0;
    std::uint64_t run = 0;
    for (const auto owner : owner_) {
      run = owner == 0 ? run + 1 : 0;
      if (run > best) best = run;
    }
    return best;
  }

 private:
  std::vector<std::uint32_t> owner_;
};

void random_operations(std::uint64_t seed, std::uint32_t arena_pages, std::uint32_t size_max) {
  std::mt19937_64 random(seed);
  ExtentAllocator allocator(arena_pages * kPageBytes);
  Twin twin(arena_pages);
  struct Owned {
    Run run;
    std::uint32_t owner;
  };
  std::vector<Owned> owned;
  std::uint32_t next_owner = 1;
  for (int step = 0; step < 4000; ++step) {
    // Swings between filling and emptying, so that the arena is seen full, empty and torn.
    const bool filling = (step / 500) % 2 == 0;
    if (owned.empty() || random() % 10 < (filling ? 7U : 3U)) {
      const auto pages = static_cast<std::uint32_t>(1 + random() % size_max);
      const auto first = allocator.allocate(pages);
      if (first) {
        owned.push_back({{*first, pages}, next_owner});
        twin.take(owned.back().run, next_owner++);
      } else {
        // Few runs here, so that the bounded search sees them all: a refusal must be the truth.
        CHECK(twin.largest() < pages);
      }
    } else {
      const std::size_t index = random() % owned.size();
      twin.give(owned[index].run, owned[index].owner);
      allocator.release(owned[index].run.first, owned[index].run.pages);
      owned[index] = owned.back();
      owned.pop_back();
    }
    allocator.validate();
    if (step % 50 == 0) {
      CHECK(allocator.pages_free() == twin.free_pages());
      CHECK(allocator.largest_free_pages() == twin.largest());
    }
  }
  for (const auto& one : owned) allocator.release(one.run.first, one.run.pages);
  allocator.validate();
  CHECK(allocator.pages_free() == arena_pages);
  CHECK(allocator.largest_free_pages() == arena_pages);
}

TEST_CASE(random_operations_agree_with_the_twin) {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    random_operations(seed, 512, 40);
    random_operations(seed + 100, 4096, 700);
    random_operations(seed + 200, 1, 2);
  }
}

TEST_CASE(an_exact_hole_is_used_again) {
  // 8193 and 8194 pages share a class: plain TLSF would pass over the hole and find nothing.
  ExtentAllocator allocator((3 * 8193ULL) * kPageBytes);
  taken(allocator, 8193);
  const std::uint32_t middle = taken(allocator, 8193);
  taken(allocator, 8193);
  CHECK(allocator.pages_free() == 0);
  allocator.release(middle, 8193);
  CHECK(!allocator.allocate(8194));
  CHECK(taken(allocator, 8193) == middle);
  allocator.validate();
}

TEST_CASE(misuse_is_refused_and_changes_nothing) {
  CHECK_THROWS(ExtentAllocator(0), std::invalid_argument);
  CHECK_THROWS(ExtentAllocator(4097), std::invalid_argument);
  CHECK_THROWS(ExtentAllocator(8192 * kGiB), std::invalid_argument);
  ExtentAllocator allocator(64 * kPageBytes);
  const std::uint32_t first = taken(allocator, 8);
  CHECK_THROWS(allocator.allocate(0), std::invalid_argument);
  CHECK_THROWS(allocator.release(first, 7), std::logic_error);
  CHECK_THROWS(allocator.release(first, 9), std::logic_error);
  CHECK_THROWS(allocator.release(first + 1, 7), std::logic_error);
  CHECK_THROWS(allocator.release(64, 1), std::logic_error);
  CHECK_THROWS(allocator.release(first, 0), std::logic_error);
  CHECK_THROWS(allocator.release(first + 8, 56), std::logic_error);
  allocator.validate();
  allocator.release(first, 8);
  CHECK_THROWS(allocator.release(first, 8), std::logic_error);
  allocator.validate();
  CHECK(!allocator.allocate(65) && allocator.pages_free() == 64);
}

std::uint64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t size = 0;
  std::uint64_t resident = 0;
  statm >> size >> resident;
  CHECK(!statm.fail());
  return resident * kPageBytes;
}

TEST_CASE(a_large_arena_costs_what_is_used) {
  const std::uint64_t before = resident_bytes();
  ExtentAllocator allocator(40 * kGiB);
  std::vector<std::uint32_t> firsts;
  while (const auto first = allocator.allocate(8192)) firsts.push_back(*first);
  CHECK(firsts.size() == 1280);
  const std::uint64_t cost = resident_bytes() - before;
  CHECK(cost <= 12 * kMiB);  // the table whole: 120 MiB
  for (const auto first : firsts) allocator.release(first, 8192);
  CHECK(allocator.largest_free_pages() == 40 * kGiB / kPageBytes);
}

}  // namespace

CHECK_MAIN()
