// Who has what: promises of several peers, their bound, and changes that do not fit.
#include <algorithm>
#include <random>
#include <string_view>
#include <vector>

#include "check.hpp"
#include "core/directory.hpp"

using penstock::BadArgument;
using penstock::ChunkName;
using penstock::CuckooFilter;
using penstock::Directory;
using penstock::FilterMalformed;
using penstock::Key;
using penstock::KeyBatch;
using penstock::name_of;
using Taken = Directory::Taken;

namespace {

std::vector<Key> prompt(std::uint64_t seed, std::size_t chunks) {
  std::mt19937_64 random(seed);
  std::vector<Key> keys(chunks);
  for (Key& key : keys) {
    for (std::uint64_t& word : key.words) word = random();
  }
  return keys;
}

KeyBatch batch(const std::vector<Key>& keys) {
  return KeyBatch(std::as_bytes(std::span(keys)));
}

CuckooFilter filter_of(std::span<const Key> keys, std::uint64_t buckets = 1000) {
  CuckooFilter filter(buckets);
  for (const Key& key : keys) CHECK(filter.add(name_of(key)));
  return filter;
}

Taken tell(Directory& directory, std::uint32_t peer, const CuckooFilter& filter) {
  directory.begin(peer);
  Taken taken = Taken::more;
  for (std::uint64_t part = 0; part < filter.parts(); ++part) {
    CHECK(taken == Taken::more);
    taken = directory.take_part(peer, filter.part(part));
    directory.validate();
  }
  return taken;
}

}  // namespace

TEST_CASE(the_longest_promise_comes_first) {
  const std::vector<Key> keys = prompt(1, 40);
  Directory directory(1 << 20, 7);
  CHECK(tell(directory, 3, filter_of(std::span(keys).first(10))) == Taken::whole);
  CHECK(tell(directory, 0, filter_of(std::span(keys).first(30))) == Taken::whole);
  CHECK(tell(directory, 7, filter_of(std::span(keys).subspan(5))) == Taken::whole);
  const auto from_start = directory.promises(batch(keys), 0);
  CHECK_EQ(from_start.size(), 2U);
  CHECK_EQ(from_start[0].peer, 0U);
  CHECK_EQ(from_start[0].chunks, 30U);
  CHECK_EQ(from_start[1].peer, 3U);
  CHECK_EQ(from_start[1].chunks, 10U);
  const auto from_eight = directory.promises(batch(keys), 8);
  CHECK_EQ(from_eight.size(), 3U);
  CHECK_EQ(from_eight[0].peer, 7U);
  CHECK_EQ(from_eight[0].chunks, 32U);
  CHECK_EQ(from_eight[2].chunks, 2U);
  CHECK(directory.promises(batch(keys), 40).empty());
  CHECK(directory.promises(batch(keys), 1000).empty());
}

TEST_CASE(peers_that_promise_as_much_take_turns) {
  std::vector<std::uint64_t> first_of(4);
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    const std::vector<Key> keys = prompt(seed + 100, 4);
    Directory directory(1 << 20, 7);
    for (std::uint32_t peer = 0; peer < 4; ++peer) tell(directory, peer, filter_of(keys));
    ++first_of[directory.promises(batch(keys), 0).front().peer];
  }
  for (const std::uint64_t turns : first_of) CHECK(turns > 50 && turns < 200);
}

TEST_CASE(changes_move_what_is_promised) {
  const std::vector<Key> keys = prompt(2, 8);
  Directory directory(1 << 20, 0);
  CHECK(!directory.change(1, {}, {}));
  tell(directory, 1, filter_of(std::span(keys).first(6)));
  CHECK_EQ(directory.keys_of(1), 6U);
  const std::vector<ChunkName> gone{name_of(keys[3])};
  const std::vector<ChunkName> added{name_of(keys[6]), name_of(keys[7])};
  CHECK(directory.change(1, gone, added));
  CHECK_EQ(directory.keys_of(1), 7U);
  CHECK_EQ(directory.promises(batch(keys), 0).front().chunks, 3U);
  CHECK_EQ(directory.promises(batch(keys), 4).front().chunks, 4U);
  CHECK(!directory.change(1, gone, {}));
  directory.forget(1);
  CHECK(directory.promises(batch(keys), 0).empty());
  CHECK_EQ(directory.bytes(), 0U);
}

TEST_CASE(a_peer_beyond_the_bound_is_not_kept_and_others_stay) {
  const std::vector<Key> keys = prompt(4, 8);
  Directory directory(20'000, 0);
  CHECK(tell(directory, 0, filter_of(keys)) == Taken::whole);
  CHECK(tell(directory, 1, filter_of(keys)) == Taken::whole);
  CHECK(tell(directory, 2, filter_of(keys)) == Taken::whole);
  CHECK(tell(directory, 3, filter_of(keys)) == Taken::no_room);
  CHECK_EQ(directory.bytes_of(3), 0U);
  // Old and new are not kept side by side when there is no room for both.
  CHECK(tell(directory, 1, filter_of(keys, 1200)) == Taken::whole);
  CHECK_EQ(directory.promises(batch(keys), 0).size(), 3U);
  // One that has outgrown the room loses what it had.
  CHECK(tell(directory, 1, filter_of(keys, 2000)) == Taken::no_room);
  CHECK_EQ(directory.bytes_of(1), 0U);
  directory.forget(0);
  CHECK(tell(directory, 3, filter_of(keys)) == Taken::whole);
  CHECK(directory.bytes() <= directory.bytes_max());
  CHECK(tell(directory, 4, filter_of(keys, 100'000)) == Taken::no_room);
}

TEST_CASE(what_was_said_before_serves_until_the_new_snapshot_is_whole) {
  const std::vector<Key> keys = prompt(5, 100);
  const CuckooFilter large = filter_of(keys, 200'000);
  CHECK_EQ(large.parts(), 2U);
  Directory directory(std::uint64_t{4} << 20U, 0);
  tell(directory, 0, filter_of(std::span(keys).first(10)));
  directory.begin(0);
  CHECK(directory.take_part(0, large.part(1)) == Taken::more);
  CHECK(directory.take_part(0, large.part(1)) == Taken::more);
  CHECK_EQ(directory.promises(batch(keys), 0).front().chunks, 10U);
  CHECK(directory.take_part(0, large.part(0)) == Taken::whole);
  CHECK_EQ(directory.promises(batch(keys), 0).front().chunks, 100U);
  directory.validate();
}

TEST_CASE(a_snapshot_that_is_broken_off_or_wrong_leaves_no_bytes_behind) {
  const std::vector<Key> keys = prompt(6, 10);
  const CuckooFilter large = filter_of(keys, 200'000);
  Directory directory(std::uint64_t{4} << 20U, 0);
  directory.begin(0);
  CHECK(directory.take_part(0, large.part(0)) == Taken::more);
  CHECK_THROWS(directory.take_part(0, filter_of(keys).part(0)), FilterMalformed);
  std::vector<std::byte> cut = large.part(1);
  cut.pop_back();
  CHECK_THROWS(directory.take_part(0, cut), FilterMalformed);
  directory.validate();
  directory.begin(0);
  CHECK_EQ(directory.bytes(), 0U);
  CHECK_THROWS(directory.forget(Directory::kPeersMax), BadArgument);
}

CHECK_MAIN()
