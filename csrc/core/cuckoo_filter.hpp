// An approximate set of chunks, small enough to be sent to every peer: a cuckoo filter (Fan,
// Andersen, Kaminsky, Mitzenmacher: Cuckoo Filter: Practically Better Than Bloom, 2014), with
// buckets of four 12-bit fingerprints and any number of buckets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <vector>

#include "core/table_types.hpp"

namespace penstock {

// Bytes from elsewhere that are no part of a filter, or of another one.
class FilterMalformed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The first 8 bytes of a chunk's key, which is a digest: nothing is hashed again.
using ChunkName = std::uint64_t;

[[nodiscard]] inline ChunkName name_of(const Key& key) {
  return key.words[0];
}

// A multiset of names. Says yes to every name in it, and to about one in six hundred others when it
// is full. The same calls in the same order make the same filter, bit by bit, on every machine:
// what fits into the original fits into its copies.
//
// A name must be removed only if it was added before: otherwise another one may go.
class CuckooFilter {
 public:
  static constexpr std::uint64_t kBucketsMin = 64;
  static constexpr std::uint64_t kBucketsMax = std::uint64_t{1} << 32U;
  static constexpr std::uint64_t kBucketBytes = 6;
  static constexpr std::uint64_t kSlots = 4;  // of a bucket

  // Throws BadArgument unless there are kBucketsMin to kBucketsMax buckets.
  explicit CuckooFilter(std::uint64_t buckets);

  // So that so many names, and a quarter more, fit.
  [[nodiscard]] static std::uint64_t buckets_for(std::uint64_t keys);

  // False if there is no room: then nothing has changed, and a larger one is to be made.
  bool add(ChunkName name);
  // False if it was not there: then this is not the filter that the caller takes it for.
  bool remove(ChunkName name);
  [[nodiscard]] bool contains(ChunkName name) const;
  void prefetch(ChunkName name) const;

  [[nodiscard]] std::uint64_t keys() const { return keys_; }
  [[nodiscard]] std::uint64_t keys_max() const { return keys_max_; }
  [[nodiscard]] std::uint64_t buckets() const { return buckets_; }
  [[nodiscard]] std::uint64_t bytes() const { return cells_.size(); }
  // Whether a smaller one would do.
  [[nodiscard]] bool is_sparse() const { return buckets_ > kBucketsMin && keys_ < keys_max_ / 4; }

  // The filter in parts of at most kPartBytesMax, each of which can be checked alone:
  //   u32 magic, u32 buckets here, u64 buckets, u64 keys, u64 first bucket here,
  //   buckets, u64 CRC-64/NVME of all that; little-endian.
  static constexpr std::size_t kPartBytesMax = std::size_t{1} << 20U;
  [[nodiscard]] static std::uint64_t parts_of(std::uint64_t buckets);
  [[nodiscard]] std::uint64_t parts() const { return parts_of(buckets_); }
  [[nodiscard]] std::vector<std::byte> part(std::uint64_t number) const;  // throws BadArgument

 private:
  friend class FilterAssembly;
  using Fingerprint = std::uint32_t;  // 12 bits; 0: an empty slot

  static constexpr std::uint32_t kKicksMax = 500;

  struct Place {
    std::uint64_t bucket;
    std::uint32_t slot;
  };

  [[nodiscard]] static Fingerprint fingerprint_of(ChunkName name);
  [[nodiscard]] std::uint64_t bucket_of(ChunkName name) const;
  [[nodiscard]] std::uint64_t other_bucket(std::uint64_t bucket, Fingerprint fingerprint) const;
  [[nodiscard]] std::uint64_t load(std::uint64_t bucket) const;
  void store(std::uint64_t bucket, std::uint64_t cells);
  Fingerprint swap(Place place, Fingerprint fingerprint);
  bool replace(std::uint64_t bucket, Fingerprint from, Fingerprint to);
  bool add_by_moving(std::uint64_t bucket, Fingerprint fingerprint);
  [[nodiscard]] std::uint64_t count_taken(std::uint64_t first, std::uint64_t count) const;

  std::uint64_t buckets_;
  std::uint64_t keys_max_;
  std::uint64_t keys_ = 0;
  std::vector<std::byte> cells_;  // and 2 bytes more, so that a bucket is read as one word
};

// A filter that comes in parts, in any order, some of them twice perhaps.
class FilterAssembly {
 public:
  // What a part says of the whole, checked but for what is in its buckets. Throws FilterMalformed.
  struct Part {
    std::uint64_t buckets;
    std::uint64_t keys;
    std::uint64_t first;
    std::span<const std::byte> cells;
  };
  [[nodiscard]] static Part read(std::span<const std::byte> bytes);
  // What a filter of so many buckets will take.
  [[nodiscard]] static std::uint64_t bytes_of(std::uint64_t buckets) {
    return buckets * CuckooFilter::kBucketBytes + 2;
  }

  explicit FilterAssembly(const Part& first);
  // Throws FilterMalformed if it belongs to another filter.
  void take(const Part& part);
  [[nodiscard]] bool is_whole() const { return missing_ == 0; }
  [[nodiscard]] std::uint64_t bytes() const { return filter_.bytes(); }
  // Of a whole one. Throws FilterMalformed if it has not as many names as it says.
  [[nodiscard]] CuckooFilter finish() &&;

 private:
  CuckooFilter filter_;
  std::uint64_t keys_;
  std::uint64_t taken_ = 0;  // slots of the parts that came
  std::vector<bool> seen_;
  std::uint64_t missing_;
};

}  // namespace penstock
