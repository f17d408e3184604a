// The hash index from chunk keys to chunk records.
#pragma once

#include <cstdint>

#include "core/mapped_array.hpp"
#include "core/table_types.hpp"

namespace penstock {

// Open addressing with linear probing at a load of at most 2/3, 8 bytes an entry, at its full size
// from the start.
//
// An entry holds 32 bits of the key's hash and the chunk's id. Its home is those bits scaled to the
// size, so that probing and erasing (by shifting back; there are no tombstones) need no look at any
// chunk, and a chunk is looked at for a key it does not have once in some hundreds of lookups. The
// keys themselves are in the chunks' records.
class KeyIndex {
 public:
  // Holds up to `entries_max` keys. `seed` makes the hash unknown to those who choose keys.
  KeyIndex(std::uint32_t entries_max, std::uint64_t seed);

  [[nodiscard]] std::uint32_t hash(const Key& key) const;

  // Brings the cache line on its way in which a search for `hash` begins.
  void prefetch(std::uint32_t hash) const { entries_.prefetch(home(hash)); }

  // Backs the memory with which an insertion begins: see MappedArray::touch.
  void touch(std::uint32_t hash) { entries_.touch(home(hash), 1); }

  // One step of a search: the next chunk whose key may be the one. kNoChunk ends it.
  class Search {
   public:
    Search(const KeyIndex& index, std::uint32_t hash)
        : index_(&index), hash_(hash), position_(index.home(hash)) {}
    [[nodiscard]] ChunkId next();

   private:
    const KeyIndex* index_;
    std::uint32_t hash_;
    std::uint32_t position_;
  };

  // The key must not be there yet, and there must be room.
  void insert(std::uint32_t hash, ChunkId chunk);
  // The pair must be there.
  void erase(std::uint32_t hash, ChunkId chunk);

  [[nodiscard]] std::uint32_t size() const { return size_; }
  [[nodiscard]] std::uint64_t bytes() const { return entries_.size() * sizeof(Entry); }

 private:
  // Zero bytes are an empty entry.
  struct Entry {
    std::uint32_t hash;
    std::uint32_t chunk_plus_1;
  };

  [[nodiscard]] std::uint32_t home(std::uint32_t hash) const {
    return static_cast<std::uint32_t>(hash * static_cast<std::uint64_t>(entries_.size()) >> 32U);
  }
  [[nodiscard]] std::uint32_t after(std::uint32_t position) const {
    return position + 1 == entries_.size() ? 0 : position + 1;
  }

  MappedArray<Entry> entries_;
  std::array<std::uint64_t, 4> seeds_;
  std::uint32_t size_ = 0;
};

inline ChunkId KeyIndex::Search::next() {
  for (;; position_ = index_->after(position_)) {
    const Entry entry = index_->entries_[position_];
    if (entry.chunk_plus_1 == 0) return kNoChunk;
    if (entry.hash == hash_) {
      position_ = index_->after(position_);
      return entry.chunk_plus_1 - 1;
    }
  }
}

}  // namespace penstock
