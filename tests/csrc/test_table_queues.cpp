// The ordered queue of the policies, the expiry heap and the ghosts, each against something
// obvious.
#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "check.hpp"
#include "core/expiry_heap.hpp"
#include "core/ghosts.hpp"
#include "core/stamp_queue.hpp"

namespace penstock {
namespace {

using Random = std::mt19937_64;

// A bit-field cannot be passed by reference.
std::uint64_t stamp_of(const PolicyNodes& nodes, ChunkId chunk) {
  return nodes[chunk].stamp;
}

// Stamps within a range that the buckets can tell apart: the order must be exact.
TEST_CASE(queue_orders_exactly_what_its_buckets_can_tell_apart) {
  constexpr std::uint32_t kNodes = 300;
  Random random(1);
  PolicyNodes nodes(kNodes);
  StampQueue queue(nodes);
  std::set<std::pair<std::uint64_t, ChunkId>> twin;
  std::uint64_t base = 1ULL << 40U;
  for (int step = 0; step < 60000; ++step) {
    const auto chunk = static_cast<ChunkId>(random() % kNodes);
    PolicyNode& node = nodes[chunk];
    if (node.linked) {
      queue.remove(chunk);
      twin.erase({stamp_of(nodes, chunk), chunk});
    } else {
      // Not far from each other, slowly rising, often in the past.
      base += random() % 2;
      node.stamp = base + random() % (BucketRing::kBuckets / 2);
      queue.insert(chunk);
      twin.emplace(stamp_of(nodes, chunk), chunk);
    }
    CHECK_EQ(queue.size(), twin.size());
    if (twin.empty()) continue;
    // What stays in the queue must not stretch its range beyond the buckets.
    if (base > twin.begin()->first + BucketRing::kBuckets / 2 - 1) {
      const ChunkId oldest = queue.oldest();
      CHECK_EQ(stamp_of(nodes, oldest), twin.begin()->first);
      twin.erase({stamp_of(nodes, oldest), oldest});
      queue.remove(oldest);
    }
    if (step % 64 == 0) queue.validate();
  }
}

// A wide range: buckets are joined; the oldest may be off by a bucket's width and no more.
TEST_CASE(queue_orders_a_wide_range_to_a_bucket_of_it) {
  constexpr std::uint32_t kNodes = 20000;
  Random random(2);
  PolicyNodes nodes(kNodes);
  StampQueue queue(nodes);
  constexpr std::uint64_t kRange = 100'000'000;
  for (ChunkId chunk = 0; chunk < kNodes; ++chunk) {
    nodes[chunk].stamp = random() % kRange;
    queue.insert(chunk);
  }
  queue.validate();
  std::multiset<std::uint64_t> stamps;
  for (ChunkId chunk = 0; chunk < kNodes; ++chunk) stamps.insert(stamp_of(nodes, chunk));
  while (!queue.empty()) {
    const ChunkId oldest = queue.oldest();
    const std::uint64_t width = 2 * kRange / BucketRing::kBuckets;
    CHECK(nodes[oldest].stamp <= *stamps.begin() + width);
    stamps.erase(stamps.find(stamp_of(nodes, oldest)));
    queue.remove(oldest);
  }
}

// What is touched in order leaves in that order, however many there are and however wide the range.
TEST_CASE(queue_keeps_the_order_of_rising_stamps_exactly) {
  constexpr std::uint32_t kNodes = 50000;
  PolicyNodes nodes(kNodes);
  StampQueue queue(nodes);
  for (ChunkId chunk = 0; chunk < kNodes; ++chunk) {
    nodes[chunk].stamp = 1 + static_cast<std::uint64_t>(chunk) * chunk;
    queue.insert(chunk);
  }
  queue.validate();
  for (ChunkId chunk = 0; chunk < kNodes; ++chunk) {
    CHECK_EQ(queue.oldest(), chunk);
    queue.remove(chunk);
    // A parent that is as old as what has just left goes next.
    if (chunk % 7 == 0) {
      queue.insert(chunk);
      CHECK_EQ(queue.oldest(), chunk);
      queue.remove(chunk);
    }
  }
}

// A range that was wide once must not blur the order for ever.
TEST_CASE(queue_is_exact_again_once_its_wide_past_has_gone) {
  constexpr std::uint32_t kNodes = 2000;
  Random random(5);
  PolicyNodes nodes(kNodes);
  StampQueue queue(nodes);
  std::uint64_t stamp = 0;
  for (ChunkId chunk = 0; chunk < kNodes; ++chunk) {
    nodes[chunk].stamp = stamp += 100'000;
    queue.insert(chunk);
  }
  // Everything turns over, one stamp at a time, a few times.
  for (std::uint32_t turn = 0; turn < 4 * kNodes; ++turn) {
    const ChunkId oldest = queue.oldest();
    queue.remove(oldest);
    nodes[oldest].stamp = ++stamp;
    queue.insert(oldest);
    if (turn % 100 == 0) queue.validate();
  }
  // Late entries, anywhere in what is there now.
  std::multiset<std::uint64_t> stamps;
  for (ChunkId chunk = 0; chunk < kNodes; ++chunk) {
    queue.remove(chunk);
    nodes[chunk].stamp = stamp - random() % kNodes;
    queue.insert(chunk);
    stamps.insert(stamp_of(nodes, chunk));
  }
  queue.validate();
  for (const std::uint64_t expected : stamps) {
    const ChunkId oldest = queue.oldest();
    CHECK_EQ(stamp_of(nodes, oldest), expected);
    queue.remove(oldest);
  }
}

TEST_CASE(expiry_heap_gives_the_earliest_whatever_was_removed) {
  constexpr std::uint32_t kOwners = 200;
  Random random(3);
  ExpiryHeap heap;
  std::map<std::uint32_t, double> twin;
  for (int step = 0; step < 50000; ++step) {
    const auto owner = static_cast<std::uint32_t>(random() % kOwners);
    if (twin.contains(owner)) {
      heap.remove(owner);
      twin.erase(owner);
    } else {
      const auto time = static_cast<double>(random() % 1000);
      heap.add(owner, time);
      twin.emplace(owner, time);
    }
    CHECK_EQ(heap.contains(owner), twin.contains(owner));
    const auto earliest =
        std::ranges::min_element(twin, {}, [](const auto& entry) { return entry.second; });
    CHECK_EQ(heap.next(), earliest == twin.end() ? ExpiryHeap::kNever : earliest->second);
    if (!twin.empty()) CHECK_EQ(twin.at(heap.next_owner()), heap.next());
  }
  heap.add(kOwners, ExpiryHeap::kNever);
  CHECK(!heap.contains(kOwners));
  heap.remove(kOwners);
}

TEST_CASE(ghosts_count_until_their_horizon_and_once) {
  Random random(4);
  Ghosts ghosts(10000, 1000);
  std::vector<std::uint64_t> prints(3000);
  for (std::uint64_t& print : prints) {
    print = random();
    ghosts.insert(print, 1);
  }
  int recent = 0;
  int old = 0;
  for (std::size_t i = 0; i < prints.size(); ++i) {
    const bool counts = ghosts.take(prints[i]);
    (i >= 2000 ? recent : old) += counts ? 1 : 0;
    CHECK(!ghosts.take(prints[i]));
  }
  CHECK(old == 0 || old == 1);  // the one at the horizon itself
  CHECK(recent >= 990);         // a full bucket forgets some early
  int strangers = 0;
  for (int i = 0; i < 10000; ++i) strangers += ghosts.take(random()) ? 1 : 0;
  CHECK(strangers <= 10);
}

}  // namespace
}  // namespace penstock

CHECK_MAIN()
