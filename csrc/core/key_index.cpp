#include "core/key_index.hpp"

#include <cassert>

namespace penstock {
namespace {

// Entries for `entries_max` keys at a load of 2/3; one stays empty always, which ends every search.
std::size_t entries_for(std::uint32_t entries_max) {
  return static_cast<std::size_t>(entries_max) + entries_max / 2 + 8;
}

// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
std::uint64_t next_random(std::uint64_t& state) {
  state += 0x9E3779B97F4A7C15ULL;
  std::uint64_t mixed = state;
  mixed = (mixed ^ (mixed >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  mixed = (mixed ^ (mixed >> 27U)) * 0x94D049BB133111EBULL;
  return mixed ^ (mixed >> 31U);
}

// Both halves of the 128-bit product, folded: every bit of both factors is in it.
std::uint64_t folded_product(std::uint64_t left, std::uint64_t right) {
  const auto product = static_cast<unsigned __int128>(left) * right;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64U);
}

}  // namespace

KeyIndex::KeyIndex(std::uint32_t entries_max, std::uint64_t seed)
    : entries_(entries_for(entries_max)), seeds_{} {
  for (std::uint64_t& word : seeds_) word = next_random(seed);
}

std::uint32_t KeyIndex::hash(const Key& key) const {
  const auto& words = key.words;
  const std::uint64_t mixed = folded_product(words[0] ^ seeds_[0], words[1] ^ seeds_[1]) ^
                              folded_product(words[2] ^ seeds_[2], words[3] ^ seeds_[3]);
  return static_cast<std::uint32_t>(mixed >> 32U);
}

void KeyIndex::insert(std::uint32_t hash, ChunkId chunk) {
  assert(size_ + 1 < entries_.size());
  std::uint32_t position = home(hash);
  while (entries_[position].chunk_plus_1 != 0) position = after(position);
  entries_[position] = {hash, chunk + 1};
  ++size_;
}

void KeyIndex::erase(std::uint32_t hash, ChunkId chunk) {
  std::uint32_t hole = home(hash);
  while (entries_[hole].chunk_plus_1 != chunk + 1) {
    assert(entries_[hole].chunk_plus_1 != 0);
    hole = after(hole);
  }
  // Shift back what follows, so that no search meets a hole before its key: an entry may move into
  // the hole unless its home lies behind it.
  const auto size = static_cast<std::uint32_t>(entries_.size());
  for (std::uint32_t next = after(hole); entries_[next].chunk_plus_1 != 0; next = after(next)) {
    const std::uint32_t from_home = (next + size - home(entries_[next].hash)) % size;
    const std::uint32_t from_hole = (next + size - hole) % size;
    if (from_home < from_hole) continue;
    entries_[hole] = entries_[next];
    hole = next;
  }
  entries_[hole] = {};
  --size_;
}

}  // namespace penstock
