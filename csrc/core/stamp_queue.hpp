// A queue of chunks ordered by a stamp, in which an old stamp finds its place in constant time.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/mapped_array.hpp"
#include "core/table_types.hpp"

namespace penstock {

// What a policy keeps of a chunk. `linked`: it is in a queue. The rest is the policy's own.
struct PolicyNode {
  ChunkId previous;          // the older neighbour in the queue
  ChunkId next;              // the newer one
  std::uint64_t stamp : 48;  // what the queue orders by; must not change while linked
  std::uint64_t linked : 1;
  std::uint64_t queue : 7;
  std::uint64_t frequency : 8;
};
static_assert(sizeof(PolicyNode) == 16);

using PolicyNodes = MappedArray<PolicyNode>;

// A list of chunks cut into kBuckets buckets of equal stamp range, each a doubly linked list,
// oldest first. When the range of stamps outgrows the buckets, neighbours are joined and each
// bucket covers twice as much. Within a bucket an entry looks back over at most kLookBack nodes
// from the newest end and over as many from the oldest, so its place is exact, or off by at most a
// bucket's width: 2/kBuckets of the widest range there was since the ring was last empty. Entries
// with the newest stamp so far, or none newer than the oldest, are always placed exactly.
class BucketRing {
 public:
  static constexpr std::uint32_t kBuckets = 4096;

  explicit BucketRing(PolicyNodes& nodes);

  // The node must not be linked; its stamp is set.
  void insert(ChunkId chunk);
  void remove(ChunkId chunk);
  // kNoChunk when empty.
  [[nodiscard]] ChunkId oldest() const;
  [[nodiscard]] std::uint32_t size() const { return size_; }
  // Its entries take few of its buckets, though these had to be widened once.
  [[nodiscard]] bool is_too_coarse() const;

  // Throws std::logic_error naming the first broken invariant.
  void validate() const;

 private:
  static constexpr std::uint32_t kLookBack = 4;
  static constexpr std::uint32_t kWords = kBuckets / 64;

  struct Bucket {
    ChunkId oldest = kNoChunk;
    ChunkId newest = kNoChunk;
  };

  // Buckets are numbered by stamp >> shift_ and lie in a ring; those in use span less than
  // kBuckets.
  [[nodiscard]] std::uint64_t number_of(std::uint64_t stamp) const { return stamp >> shift_; }
  [[nodiscard]] Bucket& bucket(std::uint64_t number) { return buckets_[number % kBuckets]; }
  void make_room_for(std::uint64_t stamp);
  void coarsen();
  void append(Bucket& bucket, const Bucket& newer);
  void link(ChunkId chunk, Bucket& bucket);
  [[nodiscard]] ChunkId older_neighbour(std::uint64_t stamp, const Bucket& bucket) const;
  void mark(std::uint64_t number, bool used);
  [[nodiscard]] std::uint64_t first_used_from(std::uint64_t number) const;

  PolicyNodes& nodes_;
  std::vector<Bucket> buckets_;
  std::array<std::uint64_t, kWords> used_{};  // bit i: buckets_[i] is not empty
  std::uint32_t shift_ = 0;
  std::uint64_t low_ = 0;   // no bucket in use has a lower number
  std::uint64_t high_ = 0;  // nor a higher one; high_ - low_ < kBuckets
  std::uint32_t size_ = 0;
};

// Chunks enter a policy's queue late: at their last release, or when their last child is gone.
// Their place is that of their stamp, not the newest end. A plain list would search for it; a heap
// would cost log n misses on every move.
//
// Two rings. All stamps of the older one are below boundary_, all of the newer one are not. When
// the newer ring has become too coarse, after its old entries have gone, it becomes the older one,
// which drains as it is evicted from, and a fresh one takes what comes.
class StampQueue {
 public:
  explicit StampQueue(PolicyNodes& nodes)
      : nodes_(nodes), rings_{BucketRing(nodes), BucketRing(nodes)} {}

  // The node must not be linked; its stamp is set.
  void insert(ChunkId chunk);
  void remove(ChunkId chunk) { ring_of(chunk).remove(chunk); }
  // kNoChunk when empty.
  [[nodiscard]] ChunkId oldest() const {
    return rings_[older_].size() > 0 ? rings_[older_].oldest() : rings_[1 - older_].oldest();
  }
  [[nodiscard]] bool empty() const { return size() == 0; }
  [[nodiscard]] std::uint32_t size() const { return rings_[0].size() + rings_[1].size(); }

  // Throws std::logic_error naming the first broken invariant.
  void validate() const;

 private:
  [[nodiscard]] BucketRing& ring_of(ChunkId chunk) {
    return rings_[nodes_[chunk].stamp < boundary_ ? older_ : 1 - older_];
  }

  PolicyNodes& nodes_;
  std::array<BucketRing, 2> rings_;
  std::size_t older_ = 0;
  std::uint64_t boundary_ = 0;
  std::uint64_t newest_ = 0;  // the newest stamp that ever entered
};

}  // namespace penstock
