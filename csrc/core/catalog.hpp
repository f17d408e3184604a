// A ledger of named objects under an eviction policy, without memory of its own to share out.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/key_index.hpp"
#include "core/mapped_array.hpp"
#include "core/policy.hpp"
#include "core/table_types.hpp"

namespace penstock {

// What an exclusive store knows of one object it holds.
struct Item {
  std::uint64_t bytes;
  std::uint64_t place;  // the store's own word for where it is
  std::uint32_t tenant;
};

// Objects that were chosen to go, packed.
struct Victims {
  std::vector<Key> keys;
  std::vector<std::uint64_t> sizes;
  std::vector<std::uint64_t> places;
  std::uint64_t bytes = 0;
};

// What a replay of recorded prompts has counted.
struct Replayed {
  std::uint64_t references = 0;
  std::uint64_t hits = 0;     // in the unbroken prefix of their prompt
  std::uint64_t refused = 0;  // no room even after eviction
  std::uint64_t evictions = 0;
};

// Which objects there are, how large, where and whose, and which go first. Objects are ordered by
// the same policies as the chunks of L1.
//
// Life of an object:  put -> PRESENT -> victims() -> CHOSEN -> remove() -> gone
//                                ^         put, touch, spare |
//                                '---------------------------'
//
// A chosen object is present in every respect but one: it is not chosen again. Objects that came by
// reference() rest on one another as the chunks of a prompt do: one with children is never chosen,
// and its record stays, without its object, when it is removed before them.
//
// Not thread-safe: belongs to one thread at a time.
class Catalog final : public ChunkFacts {
 public:
  static constexpr std::uint64_t kNowhere = UINT64_MAX;
  static constexpr std::uint64_t kBytesMax = 1ULL << 52U;  // of one object

  struct Limits {
    std::uint32_t objects_max;
    std::uint64_t capacity_bytes;  // what policies share out; more may be put
    PolicyKind policy;
    std::uint64_t hash_seed;
  };

  // Throws BadArgument for a limit of 0.
  explicit Catalog(const Limits& limits);

  // New objects, or new facts of old ones, which counts as a touch. Throws, having changed
  // nothing: BadArgument when counts differ or a size is over kBytesMax, TableFull when there might
  // be more than objects_max.
  void put(KeyBatch keys, std::span<const std::uint64_t> sizes,
           std::span<const std::uint64_t> places, std::span<const std::uint32_t> tenants);

  // One answer per key; nothing is touched. nullptr: absent.
  [[nodiscard]] const Item* find(const Key& key) const;

  // Keys in prompt order: the last is touched first, so that it goes first. How many are here.
  std::uint32_t touch(KeyBatch keys);
  // How many were here.
  std::uint32_t remove(KeyBatch keys);
  // The objects to go next, in order, until they have `bytes_wanted` bytes or are `count_max`.
  [[nodiscard]] Victims victims(std::uint64_t bytes_wanted, std::uint32_t count_max);
  // These were chosen, but stay. How many of them had been chosen.
  std::uint32_t spare(KeyBatch keys);

  // A prompt asks for its chunks, each an object of `bytes`: the resident prefix is a hit, the rest
  // is put in prompt order, each after what must go for it. Nothing of the prompt goes meanwhile.
  // Throws BadArgument for a size of 0 or over kBytesMax.
  void reference(KeyBatch prompt, std::uint64_t bytes, std::uint32_t tenant, Replayed& replayed);

  // The same for many prompts, each of so many keys. Throws BadArgument unless the lengths add up.
  Replayed replay(KeyBatch prompts, std::span<const std::uint32_t> lengths, std::uint64_t bytes,
                  std::uint32_t tenant);

  [[nodiscard]] std::uint64_t used_bytes() const { return used_bytes_; }
  [[nodiscard]] std::uint64_t capacity_bytes() const { return limits_.capacity_bytes; }
  [[nodiscard]] std::uint32_t objects() const { return objects_; }
  [[nodiscard]] std::uint64_t bytes_of(std::uint32_t tenant) const;
  [[nodiscard]] std::uint64_t metadata_bytes() const;

  // ChunkFacts
  [[nodiscard]] std::uint64_t resident_pages(ChunkId id) const override;
  [[nodiscard]] bool has_children(ChunkId id) const override { return records_[id].children > 0; }
  [[nodiscard]] ChunkId parent(ChunkId id) const override { return records_[id].parent; }
  [[nodiscard]] std::uint64_t fingerprint(ChunkId id) const override;

  // Throws std::logic_error naming the first broken invariant.
  void validate() const;

 private:
  struct Record {
    Key key;
    Item item;
    ChunkId parent;             // of a free record: the next free one
    std::uint32_t children;     // records that rest on it
    std::uint32_t present : 1;  // has an object; otherwise it is kept for its children
    std::uint32_t chosen : 1;
    std::uint32_t held : 1;  // by the prompt that is being referenced
    std::uint32_t queued : 1;
    std::uint32_t used : 1;
  };

  static void require_size(std::uint64_t bytes);
  [[nodiscard]] static std::uint64_t pages_of(std::uint64_t bytes);
  [[nodiscard]] ChunkId find_record(const Key& key) const;
  void find_records(KeyBatch keys);
  ChunkId create(const Key& key);
  void insert(ChunkId id, const Item& item, std::uint64_t stamp);
  void replace(ChunkId id, const Item& item);
  void take_out(ChunkId id, Departure why);
  std::size_t hold_prefix();
  ChunkId ensure(const Key& key, ChunkId before, const Item& item, Replayed& replayed);
  bool make_room(std::uint64_t bytes, std::uint32_t records, Replayed& replayed);
  void requeue(ChunkId id, ChunkId child = kNoChunk);
  void settle(ChunkId id);
  void count(const Item& item, bool more);

  Limits limits_;
  KeyIndex index_;
  MappedArray<Record> records_;
  std::unique_ptr<Policy> policy_;
  std::unordered_map<std::uint32_t, std::uint64_t> bytes_by_tenant_;  // those with objects only
  std::uint32_t records_ever_ = 0;
  std::uint32_t records_used_ = 0;
  ChunkId free_record_ = kNoChunk;
  std::uint32_t objects_ = 0;
  std::uint64_t used_bytes_ = 0;
  std::uint64_t stamp_ = 0;
  std::vector<ChunkId> found_;    // of the call under way
  std::vector<ChunkId> touched_;  // the same
};

}  // namespace penstock
