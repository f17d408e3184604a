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

// Chunks enter a policy's queue late: at their last release, or when their last child is gone.
// Their place is that of their stamp, not the newest end. A plain list would search for it; a heap
// would cost log n misses on every move.
//
// So the list is cut into kBuckets buckets of equal stamp range, each a doubly linked list, oldest
// first. When the range of stamps outgrows the buckets, neighbours are joined and each bucket
// covers twice as much. Within a bucket a late entry looks back over at most kLookBack nodes, so
// its place is exact, or off by at most 1/kBuckets of the range. Entries with the newest stamp so
// far, or none newer than the oldest, are always placed exactly.
class StampQueue {
 public:
  static constexpr std::uint32_t kBuckets = 4096;

  explicit StampQueue(PolicyNodes& nodes);

  // The node must not be linked; its stamp is set.
  void insert(ChunkId chunk);
  void remove(ChunkId chunk);
  // kNoChunk when empty.
  [[nodiscard]] ChunkId oldest() const;
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] std::uint32_t size() const { return size_; }

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

}  // namespace penstock
