// Random operations on the extent allocator against a dumb twin: a vector with an owner per page.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/extent_allocator.hpp"

namespace {

using penstock::ExtentAllocator;
using penstock::kPageBytes;

constexpr std::uint64_t kMiB = 1024ULL * 1024;
constexpr std::uint64_t kGiB = 1024 * kMiB;

void check(bool holds, const char* what, std::uint64_t detail = 0) {
  if (holds) return;
  std::fprintf(stderr, "FAILED: %s (%llu)\n", what, static_cast<unsigned long long>(detail));
  std::exit(1);
}

template <typename Error, typename Call>
void check_throws(const char* what, Call call) {
  try {
    call();
  } catch (const Error&) {
    return;
  }
  check(false, what);
}

std::uint32_t taken(ExtentAllocator& allocator, std::uint32_t pages) {
  const auto first = allocator.allocate(pages);
  check(first.has_value(), "room for an extent", pages);
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
    check(run.first + static_cast<std::uint64_t>(run.pages) <= owner_.size(),
          "run beyond the arena");
    for (std::uint32_t page = run.first; page < run.first + run.pages; ++page) {
      check(owner_[page] == 0, "page owned twice", page);
      owner_[page] = owner;
    }
  }

  void give(const Run& run, std::uint32_t owner) {
    for (std::uint32_t page = run.first; page < run.first + run.pages; ++page) {
      check(owner_[page] == owner, "page lost its owner", page);
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
        check(twin.largest() < pages, "refused although there was room", pages);
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
      check(allocator.pages_free() == twin.free_pages(), "free pages", allocator.pages_free());
      check(allocator.largest_free_pages() == twin.largest(), "largest", twin.largest());
    }
  }
  for (const auto& one : owned) allocator.release(one.run.first, one.run.pages);
  allocator.validate();
  check(allocator.pages_free() == arena_pages, "not all came back", allocator.pages_free());
  check(allocator.largest_free_pages() == arena_pages, "not merged into one run");
}

void an_exact_hole_is_used_again() {
  // 8193 and 8200 pages share a class: plain TLSF would pass over the hole and find nothing.
  ExtentAllocator allocator((3 * 8193ULL) * kPageBytes);
  taken(allocator, 8193);
  const std::uint32_t middle = taken(allocator, 8193);
  taken(allocator, 8193);
  check(allocator.pages_free() == 0, "three fill the arena");
  allocator.release(middle, 8193);
  check(!allocator.allocate(8194), "larger than the hole");
  check(taken(allocator, 8193) == middle, "the hole is taken again");
  allocator.validate();
}

void misuse_is_refused_and_changes_nothing() {
  check_throws<std::invalid_argument>("no pages", [] { const ExtentAllocator none(0); });
  check_throws<std::invalid_argument>("odd bytes", [] { const ExtentAllocator odd(4097); });
  check_throws<std::invalid_argument>("too large",
                                      [] { const ExtentAllocator large(8192 * kGiB); });
  ExtentAllocator allocator(64 * kPageBytes);
  const std::uint32_t first = taken(allocator, 8);
  const auto throws_logic = [&allocator](const char* what, std::uint32_t page,
                                         std::uint32_t pages) {
    check_throws<std::logic_error>(what, [&] { allocator.release(page, pages); });
    allocator.validate();
  };
  check_throws<std::invalid_argument>("zero", [&] { static_cast<void>(allocator.allocate(0)); });
  throws_logic("shorter", first, 7);
  throws_logic("longer", first, 9);
  throws_logic("inside", first + 1, 7);
  throws_logic("beyond", 64, 1);
  throws_logic("nothing", first, 0);
  throws_logic("free run", first + 8, 56);
  allocator.release(first, 8);
  throws_logic("twice", first, 8);
  check(!allocator.allocate(65) && allocator.pages_free() == 64, "larger than the arena");
}

std::uint64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t size = 0;
  std::uint64_t resident = 0;
  statm >> size >> resident;
  check(!statm.fail(), "statm cannot be read");
  return resident * kPageBytes;
}

void a_large_arena_costs_what_is_used() {
  const std::uint64_t before = resident_bytes();
  ExtentAllocator allocator(40 * kGiB);
  std::vector<std::uint32_t> firsts;
  while (const auto first = allocator.allocate(8192)) firsts.push_back(*first);
  check(firsts.size() == 1280, "1280 objects of 32 MiB in 40 GiB", firsts.size());
  const std::uint64_t cost = resident_bytes() - before;
  check(cost <= 12 * kMiB, "12 MiB at most for 1280 objects", cost);  // the table whole: 120 MiB
  for (const auto first : firsts) allocator.release(first, 8192);
  check(allocator.largest_free_pages() == 40 * kGiB / kPageBytes, "one run again");
}

}  // namespace

int main() {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    random_operations(seed, 512, 40);
    random_operations(seed + 100, 4096, 700);
    random_operations(seed + 200, 1, 2);
  }
  an_exact_hole_is_used_again();
  misuse_is_refused_and_changes_nothing();
  a_large_arena_costs_what_is_used();
  std::puts("extent allocator: ok");
  return 0;
}
