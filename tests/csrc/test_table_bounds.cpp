// Bounds that only somebody who means harm comes near: they hold, and cost nobody else anything.
#include <array>
#include <span>
#include <vector>

#include "check.hpp"
#include "core/table.hpp"

namespace penstock {
namespace {

constexpr double kNever = 1e9;
constexpr std::array<std::uint16_t, 1> kSlot = {0};

Key key_of(std::uint64_t prompt, std::uint64_t chunk) {
  return {prompt, chunk, 2, 3};
}

std::vector<Key> prompt_of(std::uint64_t prompt, std::uint64_t chunks) {
  std::vector<Key> keys;
  for (std::uint64_t i = 0; i < chunks; ++i) keys.push_back(key_of(prompt, i));
  return keys;
}

KeyBatch packed(std::span<const Key> keys) {
  return KeyBatch(std::as_bytes(keys));
}

// Two prompts whose heads have no parent are put behind a prompt of so many chunks, by one call,
// and then the first is given up: how many of its chunks stay because something rests on them.
std::uint32_t chunks_kept_behind(std::uint32_t chunks) {
  Table table({.arena_bytes = (chunks + 4) * kPageBytes,
               .objects_max = chunks + 4,
               .quarantine_bytes_max = kPageBytes});
  const std::uint16_t geometry = table.add_geometry({Group{HitRule::full, 0, {4096}, {}}});
  table.attach(1, 1);
  const auto reserve = [&](std::span<const Key> keys, std::optional<Key> parent, Id lease) {
    return table.reserve(packed(keys), {parent, geometry, kSlot, 0, lease, 1, 0, kNever});
  };
  reserve(prompt_of(1, chunks), {}, {1, 0});
  const std::vector<Key> first = prompt_of(2, 2);
  const std::vector<Key> second = prompt_of(3, 2);
  reserve(first, {}, {2, 0});
  reserve(second, {}, {3, 0});
  const std::array<Key, 2> heads = {first[0], second[0]};
  CHECK_EQ(reserve(heads, key_of(1, chunks - 1), {4, 0}).answers[1], Answer::in_flight);
  CHECK_EQ(table.abort({2, 0}, 1), Outcome::ok);
  table.validate();
  return table.statistics().placeholders;
}

TEST_CASE(ancestors_are_followed_within_one_bound_for_a_whole_call) {
  CHECK_EQ(chunks_kept_behind(20'000), 1U);  // both heads were adopted: 40,001 ancestors
  CHECK_EQ(chunks_kept_behind(40'000), 0U);  // 80,001: the second stayed without a parent
  CHECK_EQ(chunks_kept_behind(70'000), 0U);
}

// A chunk with one object for each of many slots, named by every key of a prompt.
TEST_CASE(pins_of_one_chunk_are_bounded_and_the_refused_lease_holds_nothing) {
  constexpr std::uint16_t kSlots = 128;
  constexpr std::uint32_t kRows = 65535;  // as many readers as one object may have
  Table table({.arena_bytes = kSlots * kPageBytes,
               .objects_max = kSlots,
               .quarantine_bytes_max = kPageBytes});
  const std::uint16_t geometry =
      table.add_geometry({Group{HitRule::full, 0, std::vector<std::uint64_t>(kSlots, 4096), {}}});
  table.attach(1, 1);
  std::vector<std::uint16_t> slots;
  for (std::uint16_t slot = 0; slot < kSlots; ++slot) slots.push_back(slot);
  const std::vector<std::uint64_t> digests(kSlots);
  const Key key = key_of(1, 0);
  table.reserve(packed({&key, 1}), {{}, geometry, slots, 0, {1, 0}, 1, 0, kNever});
  table.commit(
      {1, 0}, {.session = 1, .all = true, .indices = {}, .digests = digests, .runs = {}, .now = 0});

  const std::vector<Key> repeated(kRows, key);
  for (const std::uint64_t ticket : {1U, 2U}) {
    const auto hit = table.lookup(packed(repeated), {.id = {ticket, 7},
                                                     .geometry = geometry,
                                                     .instance = 1,
                                                     .readers = kSlots,
                                                     .now = 0,
                                                     .expires = kNever});
    CHECK_EQ(hit.hit, kRows);
  }
  const auto acquire = [&](std::uint16_t rank) {
    const std::array<std::uint16_t, 1> slot = {rank};
    table.acquire({1, 7}, {.rank = rank,
                           .slots = slot,
                           .first_chunk = 0,
                           .lease = {rank + 10U, 0},
                           .session = 1,
                           .now = 0,
                           .expires = kNever});
  };
  // 128 times 65,535 pins: one row of leases more would be over half of what can be counted.
  for (std::uint16_t rank = 0; rank + 1 < kSlots; ++rank) acquire(rank);
  CHECK_THROWS(acquire(kSlots - 1), TableFull);
  CHECK_EQ(table.statistics().leases, kSlots - 1U);

  CHECK_EQ(table.release({10, 0}, 1, {}, 0), Outcome::ok);
  acquire(kSlots - 1);
  for (std::uint32_t rank = 1; rank < kSlots; ++rank) {
    CHECK_EQ(table.release({rank + 10U, 0}, 1, {}, 0), Outcome::ok);
  }
  table.validate();
}

}  // namespace
}  // namespace penstock

CHECK_MAIN()
