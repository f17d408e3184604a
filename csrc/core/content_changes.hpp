// Which chunks have come and gone since somebody last asked.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/key_index.hpp"
#include "core/mapped_array.hpp"
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

  // `items_max`: chunks whose changes are kept, 52 bytes each. 0: none, ever.
  ContentChanges(std::uint32_t items_max, std::uint64_t hash_seed);

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
  [[nodiscard]] bool is_due() const { return is_kept() && (count_ > 0 || walked_ == 0); }
  [[nodiscard]] bool is_empty() const { return count_ == 0; }
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
    for (std::uint32_t nth = 0; nth < count_; ++nth) {
      const Entry& entry = kept_->ring[place(nth)];
      visit(entry.key, entry.change);
    }
  }

 private:
  struct Entry {
    Key key;
    std::int32_t change;
    std::uint32_t hash;
  };
  // Thrown away as a whole: to forget a quarter of a million changes takes no long step.
  struct Kept {
    Kept(std::uint32_t items_max, std::uint64_t seed) : index(items_max, seed), ring(items_max) {}
    KeyIndex index;  // by key, of places in the ring
    MappedArray<Entry> ring;
  };

  void note(const Key& key, int change);
  void forget();
  [[nodiscard]] Entry* find(const Key& key, std::uint32_t hash);
  // Of the nth change, the oldest first.
  [[nodiscard]] std::uint32_t place(std::uint32_t nth) const {
    const std::uint64_t at = std::uint64_t{first_} + nth;
    return static_cast<std::uint32_t>(at < items_max_ ? at : at - items_max_);
  }

  std::uint32_t items_max_;
  std::uint64_t hash_seed_;
  std::uint64_t walked_ = 0;
  std::unique_ptr<Kept> kept_;  // if any are
  std::uint32_t first_ = 0;     // place of the oldest
  std::uint32_t count_ = 0;
  std::uint64_t losses_ = 0;
};

}  // namespace penstock
