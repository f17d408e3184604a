// The key index, the chunk store and the hit scan, each against something slow and obvious.
#include <algorithm>
#include <map>
#include <random>
#include <unordered_map>
#include <vector>

#include "check.hpp"
#include "core/bitmap.hpp"
#include "core/chunk_store.hpp"
#include "core/geometry.hpp"
#include "core/key_index.hpp"

namespace penstock {
namespace {

using Random = std::mt19937_64;

Key random_key(Random& random) {
  return {random(), random(), random(), random()};
}

std::vector<std::byte> packed(const std::vector<Key>& keys) {
  std::vector<std::byte> bytes(keys.size() * kKeyBytes);
  std::memcpy(bytes.data(), keys.data(), bytes.size());
  return bytes;
}

bool found(const KeyIndex& index, std::uint32_t hash, ChunkId chunk) {
  KeyIndex::Search search(index, hash);
  for (ChunkId candidate = search.next(); candidate != kNoChunk; candidate = search.next()) {
    if (candidate == chunk) return true;
  }
  return false;
}

// Few different hashes, at the ends of the range too: long clusters that wrap around.
TEST_CASE(index_survives_clusters_and_erasure_in_any_order) {
  constexpr std::uint32_t kEntries = 60;
  Random random(1);
  KeyIndex index(kEntries, 7);
  std::map<ChunkId, std::uint32_t> there;
  for (int step = 0; step < 40000; ++step) {
    const auto chunk = static_cast<ChunkId>(random() % kEntries);
    const auto known = there.find(chunk);
    if (known != there.end()) {
      index.erase(known->second, chunk);
      there.erase(known);
    } else {
      const std::uint32_t base = random() % 2 == 0 ? 0xFFFFFFF0U : 0x80000000U;
      const std::uint32_t hash = base + static_cast<std::uint32_t>(random() % 16);
      index.insert(hash, chunk);
      there.emplace(chunk, hash);
    }
    CHECK_EQ(index.size(), there.size());
    for (const auto& [id, hash] : there) CHECK(found(index, hash, id));
    for (ChunkId id = 0; id < kEntries; ++id) {
      if (!there.contains(id)) CHECK(!found(index, 0x80000000U + id % 16, id));
    }
  }
}

TEST_CASE(hash_depends_on_every_word_and_on_the_seed) {
  Random random(2);
  const KeyIndex index(8, 1);
  const KeyIndex other(8, 2);
  int equal = 0;
  for (int i = 0; i < 1000; ++i) {
    const Key key = random_key(random);
    for (std::size_t word = 0; word < 4; ++word) {
      Key changed = key;
      changed.words[word] ^= 1ULL << (random() % 64);
      equal += index.hash(changed) == index.hash(key) ? 1 : 0;
    }
    equal += index.hash(key) == other.hash(key) ? 1 : 0;
  }
  CHECK(equal <= 1);
}

TEST_CASE(store_finds_exactly_what_is_indexed) {
  constexpr std::uint32_t kRecords = 2000;
  Random random(3);
  ChunkStore store(kRecords, 5);
  std::vector<Key> keys(2 * kRecords);
  for (Key& key : keys) key = random_key(random);
  std::unordered_map<std::size_t, ChunkId> there;
  for (int round = 0; round < 20; ++round) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const auto known = there.find(i);
      if (known != there.end() && random() % 3 == 0) {
        store.unindex(known->second);
        store.free(known->second);
        there.erase(known);
      } else if (known == there.end() && store.chunk_room() && random() % 2 == 0) {
        there.emplace(i, store.create(keys[i], 0));
      }
    }
    const std::vector<std::byte> all = packed(keys);
    std::vector<ChunkId> found(keys.size());
    store.find(KeyBatch(all), found);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      CHECK_EQ(found[i], there.contains(i) ? there[i] : kNoChunk);
    }
    CHECK_EQ(store.chunks_indexed(), there.size());
  }
}

TEST_CASE(store_finds_objects_of_long_and_of_short_chunks_together) {
  Random random(4);
  ChunkStore store(500, 0);
  std::vector<ChunkId> ids = {kNoChunk};
  for (int i = 0; i < 20; ++i) ids.push_back(store.create(random_key(random), 0));
  std::map<std::pair<ChunkId, std::uint16_t>, ObjectRef> objects;
  for (int step = 0; step < 3000; ++step) {
    const ChunkId id = ids[1 + random() % 20];
    const auto slot = static_cast<std::uint16_t>(random() % 12);
    const auto known = objects.find({id, slot});
    if (known == objects.end()) {
      objects.emplace(std::pair(id, slot), store.add_object(id, slot, 0));
    } else {
      const std::vector<std::uint64_t> runs(random() % 5, slot);
      if (random() % 2 == 0) store.set_runs(known->second, runs);
      if (random() % 2 == 0) {
        store.remove_object(known->second);
        objects.erase(known);
      }
    }
    std::vector<ObjectRef> found(ids.size());
    store.find_objects(ids, slot, found);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      CHECK_EQ(!found[i].none(), objects.contains({ids[i], slot}));
      if (found[i].none()) continue;
      CHECK_EQ(store.object(found[i]).slot, slot);
      CHECK_EQ(found[i].object, store.find_object(ids[i], slot).object);
    }
  }
  CHECK_EQ(store.objects_used(), objects.size());
}

TEST_CASE(hit_scan_agrees_with_the_longest_hit_of_bitmaps) {
  Random random(5);
  for (int round = 0; round < 3000; ++round) {
    const std::size_t group_count = 1 + random() % 3;
    const std::size_t chunks = random() % 20;
    std::vector<Group> groups;
    std::vector<Bitmap> present(group_count, Bitmap(chunks));
    std::vector<GroupPresence> presence;
    for (std::size_t g = 0; g < group_count; ++g) {
      const auto rule = static_cast<HitRule>(random() % 3);
      const auto window = static_cast<std::uint32_t>(1 + random() % 4);
      groups.push_back({rule, window, {4096}, {}});
      for (std::size_t i = 0; i < chunks; ++i) {
        if (random() % 8 != 0) present[g].set(i);
      }
      presence.push_back({&present[g], rule, window});
    }
    const Geometry geometry(groups);
    HitScan scan(geometry);
    for (std::size_t i = 0; i < chunks; ++i) {
      std::uint64_t mask = 0;
      for (std::size_t g = 0; g < group_count; ++g) {
        if (present[g].test(i)) mask |= 1ULL << g;
      }
      scan.feed(mask);
    }
    CHECK_EQ(scan.hit(), longest_hit(presence));
  }
}

}  // namespace
}  // namespace penstock

CHECK_MAIN()
