#include "core/stamp_queue.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <stdexcept>
#include <string>

namespace penstock {
namespace {

[[noreturn]] void broken(const std::string& what, ChunkId chunk) {
  throw std::logic_error("stamp queue: " + what + " at chunk record " + std::to_string(chunk));
}

}  // namespace

BucketRing::BucketRing(PolicyNodes& nodes) : nodes_(nodes), buckets_(kBuckets) {}

void BucketRing::insert(ChunkId chunk) {
  assert(!nodes_[chunk].linked);
  const std::uint64_t stamp = nodes_[chunk].stamp;
  if (size_ == 0) {
    shift_ = 0;
    low_ = high_ = stamp;
  } else {
    make_room_for(stamp);
  }
  const std::uint64_t number = number_of(stamp);
  link(chunk, bucket(number));
  mark(number, true);
  ++size_;
}

void BucketRing::remove(ChunkId chunk) {
  PolicyNode& node = nodes_[chunk];
  assert(node.linked);
  const std::uint64_t number = number_of(node.stamp);
  Bucket& own = bucket(number);
  if (node.previous != kNoChunk) {
    nodes_[node.previous].next = node.next;
  } else {
    own.oldest = node.next;
  }
  if (node.next != kNoChunk) {
    nodes_[node.next].previous = node.previous;
  } else {
    own.newest = node.previous;
  }
  node.linked = 0;
  if (own.oldest == kNoChunk) mark(number, false);
  --size_;
}

ChunkId BucketRing::oldest() const {
  if (size_ == 0) return kNoChunk;
  return buckets_[first_used_from(low_) % kBuckets].oldest;
}

// Afterwards the stamp's bucket lies within the ring.
void BucketRing::make_room_for(std::uint64_t stamp) {
  low_ = first_used_from(low_);
  for (;;) {
    const std::uint64_t number = number_of(stamp);
    const std::uint64_t low = std::min(low_, number);
    const std::uint64_t high = std::max(high_, number);
    if (high - low < kBuckets) {
      low_ = low;
      high_ = high;
      return;
    }
    coarsen();
  }
}

// Joins each bucket with its neighbour: 2 * kBuckets list ends at most are touched.
void BucketRing::coarsen() {
  std::vector<Bucket> joined(kBuckets);
  for (std::uint64_t number = low_; number <= high_; ++number) {
    append(joined[(number >> 1U) % kBuckets], bucket(number));
  }
  buckets_.swap(joined);
  ++shift_;
  low_ >>= 1U;
  high_ >>= 1U;
  used_.fill(0);
  for (std::uint64_t number = low_; number <= high_; ++number) {
    if (bucket(number).oldest != kNoChunk) mark(number, true);
  }
}

void BucketRing::append(Bucket& bucket, const Bucket& newer) {
  if (newer.oldest == kNoChunk) return;
  if (bucket.oldest == kNoChunk) {
    bucket = newer;
    return;
  }
  nodes_[bucket.newest].next = newer.oldest;
  nodes_[newer.oldest].previous = bucket.newest;
  bucket.newest = newer.newest;
}

bool BucketRing::is_too_coarse() const {
  return shift_ > 0 && size_ > 0 && high_ - first_used_from(low_) < kBuckets / 16;
}

void BucketRing::link(ChunkId chunk, Bucket& bucket) {
  PolicyNode& node = nodes_[chunk];
  const ChunkId before = older_neighbour(node.stamp, bucket);
  const ChunkId after = before == kNoChunk ? bucket.oldest : nodes_[before].next;
  node.previous = before;
  node.next = after;
  node.linked = 1;
  (before == kNoChunk ? bucket.oldest : nodes_[before].next) = chunk;
  (after == kNoChunk ? bucket.newest : nodes_[after].previous) = chunk;
}

// Behind which entry of the bucket a stamp belongs, kNoChunk for none: from both ends, since late
// entries are either a little older than the newest or a little newer than the last victim.
ChunkId BucketRing::older_neighbour(std::uint64_t stamp, const Bucket& bucket) const {
  ChunkId older = kNoChunk;
  ChunkId next = bucket.oldest;
  ChunkId newer = bucket.newest;
  for (std::uint32_t step = 0; step < kLookBack; ++step) {
    if (newer == kNoChunk || nodes_[newer].stamp <= stamp) return newer;
    newer = nodes_[newer].previous;
    if (next == kNoChunk || nodes_[next].stamp >= stamp) return older;
    older = next;
    next = nodes_[next].next;
  }
  return older;
}

void BucketRing::mark(std::uint64_t number, bool used) {
  const std::uint64_t place = number % kBuckets;
  const std::uint64_t bit = 1ULL << (place % 64);
  if (used) {
    used_[place / 64] |= bit;
  } else {
    used_[place / 64] &= ~bit;
  }
}

// The lowest number >= `number` whose bucket is in use; there must be one within the ring.
std::uint64_t BucketRing::first_used_from(std::uint64_t number) const {
  if (size_ == 0) return number;
  const std::uint64_t place = number % kBuckets;
  std::uint64_t word = used_[place / 64] >> (place % 64);
  if (word != 0) return number + static_cast<std::uint64_t>(std::countr_zero(word));
  std::uint64_t distance = 64 - place % 64;
  for (; distance < kBuckets + 64; distance += 64) {
    word = used_[(place + distance) % kBuckets / 64];
    if (word != 0) return number + distance + static_cast<std::uint64_t>(std::countr_zero(word));
  }
  throw std::logic_error("bucket ring: not empty, but no bucket is in use");
}

void BucketRing::validate() const {
  std::uint32_t counted = 0;
  for (std::uint64_t place = 0; place < kBuckets; ++place) {
    const Bucket& own = buckets_[place];
    const bool used = (used_[place / 64] >> (place % 64) & 1U) != 0;
    if (used != (own.oldest != kNoChunk)) broken("a stale bit", own.oldest);
    ChunkId previous = kNoChunk;
    for (ChunkId chunk = own.oldest; chunk != kNoChunk; chunk = nodes_[chunk].next) {
      const PolicyNode& node = nodes_[chunk];
      if (!node.linked) broken("in a bucket but not linked", chunk);
      if (node.previous != previous) broken("a broken link", chunk);
      const std::uint64_t number = number_of(node.stamp);
      if (number % kBuckets != place) broken("in a wrong bucket", chunk);
      if (number < low_ || number > high_) broken("outside the ring", chunk);
      previous = chunk;
      if (++counted > size_) broken("more in the buckets than counted", chunk);
    }
    if (own.newest != previous) broken("a wrong newest end", previous);
  }
  if (counted != size_) broken("fewer in the buckets than counted", counted);
}

void StampQueue::insert(ChunkId chunk) {
  if (rings_[older_].size() == 0 && rings_[1 - older_].is_too_coarse()) {
    older_ = 1 - older_;
    boundary_ = newest_ + 1;
  }
  newest_ = std::max<std::uint64_t>(newest_, nodes_[chunk].stamp);
  ring_of(chunk).insert(chunk);
}

void StampQueue::validate() const {
  for (const BucketRing& ring : rings_) ring.validate();
  const ChunkId oldest = rings_[1 - older_].oldest();
  if (oldest != kNoChunk && nodes_[oldest].stamp < boundary_) broken("in the wrong ring", oldest);
}

}  // namespace penstock
