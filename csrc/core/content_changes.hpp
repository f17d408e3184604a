// Which chunks have come and gone since somebody last asked.
#pragma once

#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#include "core/table_types.hpp"

namespace penstock {

// Somebody else's knowledge of the chunks that lookups can hit, kept exact: what they were told,
// and the changes they have not taken yet, make the chunks there are in all records that they have
// been through. Of records that they have not come to, nothing is kept.
//
//   begin_walk() -> told() of each record, in order, moved_to() -> ... -> over()
//          ^                                                               |
//          '----------- more than `items_max` changes: all are lost <------'
//
// Changes of one chunk are one, or none when they cancel out.
class ContentChanges {
 public:
  struct Taken {
    std::vector<Key> added;
    std::vector<Key> gone;
  };

  // `items_max`: chunks whose changes are kept, about 120 bytes each. 0: none, ever.
  ContentChanges(std::uint32_t items_max, std::uint64_t hash_seed)
      : items_max_(items_max), places_(0, KeyHash{hash_seed}) {}

  [[nodiscard]] bool is_kept() const { return items_max_ > 0; }

  // Of a chunk in this record: it has its first RESIDENT object; its last one has left.
  void came(const Key& key, ChunkId id) {
    if (id < walked_) note(key, 1);
  }
  void went(const Key& key, ChunkId id) {
    if (id < walked_) note(key, -1);
  }

  // At most so many changes, the oldest first.
  Taken take(std::uint32_t items_max);
  // Changes may be waiting, or were lost.
  [[nodiscard]] bool is_due() const { return is_kept() && (!entries_.empty() || walked_ == 0); }
  [[nodiscard]] bool is_empty() const { return entries_.empty(); }
  // Nothing is kept until a walk begins: none has begun, or changes were lost since.
  [[nodiscard]] bool is_lost() const { return walked_ == 0; }
  [[nodiscard]] std::uint64_t losses() const { return losses_; }

  // Walking. `walked()`: the first record that was not come to.
  static constexpr std::uint64_t kAll = std::uint64_t{1} << 32U;
  void begin_walk();
  // Whether the chunk is to be told now; otherwise its change is, when that is taken.
  bool told(const Key& key);
  void moved_to(std::uint64_t record) { walked_ = record; }
  void over() { walked_ = kAll; }
  [[nodiscard]] std::uint64_t walked() const { return walked_; }

  // Calls visit(const Key&, int change) for each kept change: 1 came, -1 went, 0 both.
  template <typename Visitor>
  void each(Visitor visit) const {
    for (const Entry& entry : entries_) visit(entry.key, entry.change);
  }

 private:
  struct Entry {
    Key key;
    int change;
  };
  struct KeyHash {
    std::uint64_t seed;
    std::size_t operator()(const Key& key) const noexcept {
      return (key.words[1] ^ seed) * 0x9E3779B97F4A7C15;
    }
  };

  void note(const Key& key, int change);
  void forget();

  std::uint32_t items_max_;
  std::uint64_t walked_ = 0;
  std::deque<Entry> entries_;
  std::uint64_t taken_ = 0;                                 // number of entries_.front()
  std::unordered_map<Key, std::uint64_t, KeyHash> places_;  // numbers of entries
  std::uint64_t losses_ = 0;
};

}  // namespace penstock
