// The filter of a peer's chunks: no false no, few false yes, few bytes; copies that stay alike; and
// parts from elsewhere that are refused unless they are right.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <unordered_map>
#include <vector>

#include "check.hpp"
#include "core/cuckoo_filter.hpp"
#include "core/digest.hpp"

using penstock::BadArgument;
using penstock::ChunkName;
using penstock::CuckooFilter;
using penstock::FilterAssembly;
using penstock::FilterMalformed;

namespace {

CuckooFilter copy_by_parts(const CuckooFilter& filter) {
  FilterAssembly assembly(FilterAssembly::read(filter.part(0)));
  for (std::uint64_t number = filter.parts(); number-- > 0;) {
    const auto bytes = filter.part(number);
    CHECK(bytes.size() <= CuckooFilter::kPartBytesMax);
    CHECK(!assembly.is_whole());
    assembly.take(FilterAssembly::read(bytes));
    if (number > 0) assembly.take(FilterAssembly::read(bytes));
  }
  CHECK(assembly.is_whole());
  return std::move(assembly).finish();
}

bool is_same(const CuckooFilter& left, const CuckooFilter& right) {
  if (left.buckets() != right.buckets() || left.keys() != right.keys()) return false;
  for (std::uint64_t number = 0; number < left.parts(); ++number) {
    if (left.part(number) != right.part(number)) return false;
  }
  return true;
}

// Writes `value` at `offset` of a part, and a digest that fits.
template <typename Value>
std::vector<std::byte> altered(std::vector<std::byte> part, std::size_t offset, Value value) {
  std::memcpy(part.data() + offset, &value, sizeof(value));
  const std::size_t body = part.size() - sizeof(std::uint64_t);
  const std::uint64_t digest = penstock::crc64(std::span(part).first(body));
  std::memcpy(part.data() + body, &digest, sizeof(digest));
  return part;
}

}  // namespace

TEST_CASE(a_million_names_take_two_bytes_each_and_one_in_a_hundred_others_at_most) {
  constexpr std::uint64_t kNames = 1'000'000;
  constexpr std::uint64_t kOthers = 2'000'000;
  std::mt19937_64 random(7);
  CuckooFilter filter(CuckooFilter::buckets_for(kNames));
  std::vector<ChunkName> names(kNames);
  for (ChunkName& name : names) {
    name = random();
    CHECK(filter.add(name));
  }
  for (const ChunkName name : names) CHECK(filter.contains(name));
  std::uint64_t wrong = 0;
  for (std::uint64_t i = 0; i < kOthers; ++i) wrong += filter.contains(random()) ? 1 : 0;
  const double bytes_a_key = static_cast<double>(filter.bytes()) / kNames;
  const double wrong_share = static_cast<double>(wrong) / kOthers;
  std::printf("      made for a million names: %.3f bytes a name, %.4f %% wrong\n", bytes_a_key,
              100 * wrong_share);
  CHECK(bytes_a_key <= 2.0);
  CHECK(wrong_share <= 0.01);
  std::uint64_t more = 0;
  while (filter.add(random())) ++more;
  const auto full = static_cast<double>(filter.keys());
  wrong = 0;
  for (std::uint64_t i = 0; i < kOthers; ++i) wrong += filter.contains(random()) ? 1 : 0;
  std::printf("      full at %.0f (load %.3f): %.3f bytes a name, %.4f %% wrong\n", full,
              full / static_cast<double>(filter.buckets() * CuckooFilter::kSlots),
              static_cast<double>(filter.bytes()) / full,
              100.0 * static_cast<double>(wrong) / kOthers);
  CHECK(more >= kNames / 5);
  CHECK(static_cast<double>(wrong) / kOthers <= 0.01);
}

TEST_CASE(any_number_of_buckets_takes_nearly_as_many_names_as_it_has_slots) {
  std::mt19937_64 random(11);
  for (const std::uint64_t buckets : {64U, 65U, 97U, 1000U, 1024U, 4093U, 65537U}) {
    CuckooFilter filter(buckets);
    std::vector<ChunkName> names;
    for (ChunkName name = random(); filter.add(name); name = random()) names.push_back(name);
    CHECK(names.size() >= buckets * CuckooFilter::kSlots * 85 / 100);
    CHECK(names.size() <= filter.keys_max());
    for (const ChunkName name : names) CHECK(filter.contains(name));
    for (const ChunkName name : names) CHECK(filter.remove(name));
    CHECK_EQ(filter.keys(), 0U);
    CHECK(is_same(filter, CuckooFilter(buckets)));
  }
}

TEST_CASE(an_add_that_finds_no_room_changes_nothing) {
  std::mt19937_64 random(3);
  CuckooFilter filter(64);
  const ChunkName one = random();
  for (int i = 0; i < 8; ++i) CHECK(filter.add(one));
  const CuckooFilter before = filter;
  CHECK(!filter.add(one));
  CHECK(is_same(filter, before));
  CHECK_EQ(filter.keys(), 8U);
}

TEST_CASE(a_walk_of_adds_and_removes_agrees_with_a_set_that_is_exact) {
  std::mt19937_64 random(5);
  CuckooFilter filter(300);
  CuckooFilter twin(300);
  std::vector<ChunkName> there;
  for (int step = 0; step < 50'000; ++step) {
    if (there.size() < 1000 && random() % 2 == 0) {
      const ChunkName name = random();
      if (filter.add(name)) there.push_back(name);
      twin.add(name);
    } else if (!there.empty()) {
      std::swap(there[random() % there.size()], there.back());
      CHECK(filter.remove(there.back()));
      CHECK(twin.remove(there.back()));
      there.pop_back();
    }
    CHECK_EQ(filter.keys(), there.size());
    if (step % 1000 == 0) {
      for (const ChunkName name : there) CHECK(filter.contains(name));
      CHECK(is_same(filter, twin));
      twin = copy_by_parts(filter);
    }
  }
}

TEST_CASE(what_was_never_added_is_seldom_removed) {
  CuckooFilter filter(1024);
  std::mt19937_64 random(9);
  CHECK(!filter.remove(random()));
  CHECK(filter.add(1));
  CHECK(!filter.contains(std::uint64_t{1} << 63U));
  CHECK_EQ(filter.keys(), 1U);
}

TEST_CASE(a_filter_arrives_in_parts_in_any_order) {
  std::mt19937_64 random(13);
  CuckooFilter filter(CuckooFilter::buckets_for(600'000));
  for (int i = 0; i < 600'000; ++i) CHECK(filter.add(random()));
  CHECK(filter.parts() >= 2U);
  CuckooFilter copy = copy_by_parts(filter);
  CHECK(is_same(filter, copy));
  for (int i = 0; i < 1000; ++i) {
    const ChunkName name = random();
    CHECK_EQ(filter.add(name), copy.add(name));
  }
  CHECK(is_same(filter, copy));
}

TEST_CASE(a_part_that_is_damaged_cut_or_impossible_is_refused) {
  CuckooFilter filter(1000);
  for (ChunkName name = 1; name < 200; ++name) CHECK(filter.add(name * 0x9E3779B97F4A7C15));
  const std::vector<std::byte> part = filter.part(0);
  CHECK_THROWS(filter.part(1), BadArgument);
  for (std::size_t bytes = 0; bytes < part.size(); bytes += 97) {
    CHECK_THROWS(FilterAssembly::read(std::span(part).first(bytes)), FilterMalformed);
  }
  for (std::size_t at = 0; at < part.size(); at += 13) {
    std::vector<std::byte> damaged = part;
    damaged[at] ^= std::byte{0x10};
    CHECK_THROWS(FilterAssembly::read(damaged), FilterMalformed);
  }
  std::vector<std::byte> longer(CuckooFilter::kPartBytesMax + 1);
  CHECK_THROWS(FilterAssembly::read(longer), FilterMalformed);
  const std::uint64_t many = (std::uint64_t{1} << 32U) + 1;
  CHECK_THROWS(FilterAssembly::read(altered(part, 0, std::uint32_t{1})), FilterMalformed);
  CHECK_THROWS(FilterAssembly::read(altered(part, 4, std::uint32_t{999})), FilterMalformed);
  CHECK_THROWS(FilterAssembly::read(altered(part, 8, std::uint64_t{999})), FilterMalformed);
  CHECK_THROWS(FilterAssembly::read(altered(part, 8, std::uint64_t{0})), FilterMalformed);
  CHECK_THROWS(FilterAssembly::read(altered(part, 8, many)), FilterMalformed);
  CHECK_THROWS(FilterAssembly::read(altered(part, 16, std::uint64_t{4001})), FilterMalformed);
  CHECK_THROWS(FilterAssembly::read(altered(part, 24, std::uint64_t{1})), FilterMalformed);
}

TEST_CASE(parts_of_two_filters_make_none_and_a_wrong_count_is_seen) {
  CuckooFilter one(1000);
  CuckooFilter other(1001);
  CHECK(one.add(5));
  FilterAssembly assembly(FilterAssembly::read(one.part(0)));
  CHECK_THROWS(assembly.take(FilterAssembly::read(other.part(0))), FilterMalformed);
  const auto wrong = altered(one.part(0), 16, std::uint64_t{2});
  CHECK_THROWS(assembly.take(FilterAssembly::read(wrong)), FilterMalformed);
  FilterAssembly liar(FilterAssembly::read(wrong));
  liar.take(FilterAssembly::read(wrong));
  CHECK_THROWS(std::move(liar).finish(), FilterMalformed);
}

TEST_CASE(a_filter_has_a_smallest_and_a_largest_size) {
  CHECK_THROWS(CuckooFilter(0), BadArgument);
  CHECK_THROWS(CuckooFilter(CuckooFilter::kBucketsMin - 1), BadArgument);
  CHECK_THROWS(CuckooFilter(CuckooFilter::kBucketsMax + 1), BadArgument);
  CHECK_EQ(CuckooFilter::buckets_for(0), CuckooFilter::kBucketsMin);
  CHECK(CuckooFilter::buckets_for(UINT64_MAX) <= CuckooFilter::kBucketsMax);
  CHECK(!CuckooFilter(CuckooFilter::kBucketsMin).is_sparse());
  CHECK(CuckooFilter(1000).is_sparse());
}

CHECK_MAIN()
