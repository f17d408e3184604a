// The catalog under every policy, driven at random; what the policies remember and learn, each
// against something obvious.
#include <map>
#include <random>
#include <vector>

#include "check.hpp"
#include "core/catalog.hpp"
#include "core/frequency_sketch.hpp"
#include "core/lifetimes.hpp"
#include "core/past_uses.hpp"

namespace penstock {
namespace {

using Random = std::mt19937_64;

Key key_of(std::uint64_t number) {
  Random random(number);
  return Key{{random(), random(), random(), random()}};
}

KeyBatch batch(const std::vector<Key>& keys) {
  return KeyBatch(std::as_bytes(std::span(keys)));
}

// Prompts that share prefixes, flat objects, choices and removals, all in one catalog.
void drive(PolicyKind policy, std::uint64_t seed, int steps) {
  Random random(seed);
  Catalog catalog(
      {.objects_max = 60, .capacity_bytes = 40 * 4096, .policy = policy, .hash_seed = 1});
  Replayed replayed;
  for (int step = 0; step < steps; ++step) {
    std::vector<Key> keys;
    std::uint64_t number = random() % 3;
    for (std::uint64_t length = random() % 12; length > 0; --length) {
      keys.push_back(key_of(number));
      number = number * 3 + 3 + random() % 3;
    }
    switch (random() % 8) {
      case 0:
        catalog.remove(batch(keys));
        break;
      case 1:
        catalog.touch(batch(keys));
        break;
      case 2: {
        const Victims victims = catalog.victims(random() % (8 * 4096), 5);
        random() % 2 == 0 ? catalog.remove(batch(victims.keys))
                          : catalog.spare(batch(victims.keys));
        break;
      }
      case 3: {
        if (catalog.objects() > 40) break;
        const std::vector<std::uint64_t> sizes(keys.size(), random() % 9000);
        const std::vector<std::uint64_t> places(keys.size(), random());
        const std::vector<std::uint32_t> tenants(keys.size(), random() % 2);
        try {
          catalog.put(batch(keys), sizes, places, tenants);
        } catch (const TableFull&) {
          // Records without an object are kept for their children; it changed nothing.
        }
        break;
      }
      default:
        catalog.reference(batch(keys), 1 + random() % 9000, 1, replayed);
    }
    if (step % 7 == 0) catalog.validate();
  }
  catalog.validate();
  CHECK(replayed.hits > 0);
  CHECK(replayed.evictions > 0);
}

TEST_CASE(a_catalog_holds_together_under_every_policy) {
  for (const PolicyKind policy : {PolicyKind::lru, PolicyKind::s3fifo, PolicyKind::sieve,
                                  PolicyKind::arc, PolicyKind::tinylfu, PolicyKind::prospect}) {
    for (std::uint64_t seed = 0; seed < 10; ++seed) drive(policy, seed, 2000);
  }
}

TEST_CASE(a_sketch_counts_about_right_and_forgets) {
  FrequencySketch sketch(4096);
  Random random(3);
  std::map<std::uint64_t, std::uint32_t> counts;
  for (int i = 0; i < 2000; ++i) {
    const std::uint64_t fingerprint = random();
    for (std::uint32_t times = 1 + static_cast<std::uint32_t>(random() % 6); times > 0; --times) {
      sketch.count(fingerprint);
      ++counts[fingerprint];
    }
  }
  std::uint32_t exact = 0;
  for (const auto& [fingerprint, count] : counts) {
    CHECK(sketch.estimate(fingerprint) >= count);
    if (sketch.estimate(fingerprint) == count) ++exact;
  }
  CHECK(exact > counts.size() * 9 / 10);
  for (int i = 0; i < 200000; ++i) sketch.count(random());
  std::uint32_t forgotten = 0;
  for (const auto& [fingerprint, count] : counts) {
    if (sketch.estimate(fingerprint) < 6) ++forgotten;
  }
  CHECK(forgotten > counts.size() / 2);
}

TEST_CASE(past_uses_are_given_back_once_and_the_oldest_are_forgotten) {
  PastUses past(1024);
  Random random(4);
  std::vector<std::uint64_t> fingerprints(4096);
  for (std::uint64_t& fingerprint : fingerprints) {
    fingerprint = random();
    past.insert(fingerprint, {.count = 7, .family = 2});
  }
  std::uint32_t old_known = 0;
  std::uint32_t new_known = 0;
  for (std::size_t i = 0; i < fingerprints.size(); ++i) {
    const PastUse use = past.take(fingerprints[i]);
    if (use.count == 0) continue;
    CHECK(use.count == 7 && use.family == 2);
    CHECK(past.take(fingerprints[i]).count == 0);
    ++(i < 2048 ? old_known : new_known);
  }
  CHECK(old_known == 0 || old_known < 40);
  CHECK(new_known > 900);
}

// One kind is used again after 1000 stamps or so, the other never: soon before that time the first
// is worth most, right after its use less, and long after it nothing; the other is worth least.
TEST_CASE(lifetimes_learn_when_a_kind_is_wanted) {
  Lifetimes lifetimes;
  Random random(5);
  const float early = lifetimes.prospect(0, 10);
  CHECK(early > lifetimes.prospect(0, 1000));  // nothing is known: as least recent use has it
  std::uint64_t stamp = 1;
  std::map<std::uint64_t, std::uint64_t> waiting;
  for (int i = 0; i < 60000; ++i) {
    ++stamp;
    lifetimes.used(random(), 1, stamp);
    const std::uint64_t fingerprint = random();
    lifetimes.used(fingerprint, 0, stamp);
    waiting.emplace(stamp + 900 + random() % 200, fingerprint);
    while (!waiting.empty() && waiting.begin()->first <= stamp) {
      lifetimes.used(waiting.begin()->second, 0, stamp);
      waiting.erase(waiting.begin());
    }
    lifetimes.refresh(2, 1000, stamp);
  }
  CHECK(lifetimes.prospect(0, 950) > 3 * lifetimes.prospect(0, 1));
  CHECK(lifetimes.prospect(0, 1) > 10 * lifetimes.prospect(1, 1));
  CHECK(lifetimes.prospect(0, 950) > 10 * lifetimes.prospect(0, 4000));
}

}  // namespace
}  // namespace penstock

CHECK_MAIN()
