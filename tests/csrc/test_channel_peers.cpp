// TCP data channels and those who do not keep to the rules: strangers, and peers with a secret.
#include "channel_fixture.hpp"

namespace penstock::io {
namespace {

FrameBytes hello(const Secret& secret, const Token& name, std::uint8_t stream = 0,
                 std::uint8_t streams = 1) {
  return encode(Hello{.connection = name, .secret = secret, .stream = stream, .streams = streams});
}

// A peer that was let in.
struct LetIn {
  Peer peer;
  std::uint64_t connection;
};

LetIn let_in(Node& node) {
  const auto secret = drawn<Secret>();
  const auto name = drawn<Token>();
  node->expect(secret);
  Peer peer(node.address());
  peer.say(hello(secret, name));
  CHECK(peer.hears_welcome(name));
  return {.peer = std::move(peer), .connection = node.wait(News::Kind::accepted).id};
}

// Those who are expected still come in.
void check_open(Node& node) {
  Node other;
  const Joined joined = join(other, node);
  node->end(joined.accepted, "that was all");
}

TEST_CASE(frames_are_read_back_and_damage_is_seen) {
  const PartFrame part{.token = drawn<Token>(),
                       .number = (1ULL << 63) - 1,
                       .offset = 1ULL << 40,
                       .bytes = 5ULL << 32,
                       .part_offset = 4ULL << 32,
                       .length = 1 << 20,
                       .slot = 7};
  const FrameBytes frame = encode(part);
  const auto read = decode_part(frame);
  CHECK(read.has_value());
  CHECK(read->token == part.token && read->number == part.number && read->offset == part.offset &&
        read->bytes == part.bytes && read->part_offset == part.part_offset &&
        read->length == part.length && read->slot == part.slot);
  CHECK(!decode_hello(frame) && !decode_welcome(frame));
  for (std::size_t at = 0; at < kFrameBytes * 8; ++at) {
    FrameBytes damaged = frame;
    damaged[at / 8] ^= std::byte(1U << (at % 8));
    CHECK(!decode_part(damaged));
  }
  PartFrame wrong = part;
  wrong.length = kPartBytesMax + 1;
  CHECK(!decode_part(encode(wrong)));
  wrong = part;
  wrong.part_offset = part.bytes - part.length + 1;
  CHECK(!decode_part(encode(wrong)));
  wrong = part;
  wrong.bytes = part.length - 1;
  CHECK(!decode_part(encode(wrong)));
  // Seen to fail: it was taken, and beside the last part of its piece, on another stream, tells of
  // the piece a second time.
  wrong = part;
  wrong.length = 0;
  CHECK(!decode_part(encode(wrong)));
  wrong = {};
  CHECK(decode_part(encode(wrong)).has_value());
  CHECK(!decode_hello(hello(drawn<Secret>(), drawn<Token>(), 1, 1)));
  CHECK(!decode_hello(hello(drawn<Secret>(), drawn<Token>(), 0, 17)));
  CHECK(!decode_hello(hello(drawn<Secret>(), drawn<Token>(), 0, 0)));
  const auto left = drawn<Secret>();
  auto right = left;
  CHECK(equal_in_constant_time(left, right));
  right.back() ^= std::byte{1};
  CHECK(!equal_in_constant_time(left, right));
  CHECK(!equal_in_constant_time(left, std::span(left).first(31)));
}

TEST_CASE(strangers_are_refused_and_counted) {
  // D-like C10: a port scan, garbage, an HTTP request, a wrong secret, more than a hello.
  Node node;
  const auto secret = drawn<Secret>();
  node->expect(secret);
  {
    const Peer scan(node.address());
  }
  node.wait_refused(1);
  Peer garbage(node.address());
  garbage.say(Bytes(kFrameBytes, std::byte{0xff}));
  CHECK(garbage.is_hung_up_on());
  Peer http(node.address());
  http.say(
      std::string("GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.0\r\n"
                  "Accept: */*\r\nConnection: close\r\n\r\n"));
  CHECK(http.is_hung_up_on());
  Peer wrong(node.address());
  wrong.say(hello(drawn<Secret>(), drawn<Token>()));
  CHECK(wrong.is_hung_up_on());
  Peer talker(node.address());
  Bytes more(kFrameBytes + 10);
  const FrameBytes first = hello(secret, drawn<Token>());
  std::copy(first.begin(), first.end(), more.begin());
  talker.say(more);
  CHECK(talker.is_hung_up_on());
  Peer damaged(node.address());
  FrameBytes flipped = hello(secret, drawn<Token>());
  flipped[20] ^= std::byte{1};
  damaged.say(flipped);
  CHECK(damaged.is_hung_up_on());
  node.wait_refused(6);
  CHECK_EQ(node.refused, 6U);
  CHECK(!node.was_told(News::Kind::accepted, 1));
  check_open(node);
}

TEST_CASE(who_says_nothing_or_says_it_slowly_is_sent_away) {
  // C10
  Node node({.hello_within = std::chrono::milliseconds(100)});
  Peer silent(node.address());
  Peer slow(node.address());
  const auto secret = drawn<Secret>();
  node->expect(secret);
  const FrameBytes said = hello(secret, drawn<Token>());
  for (const std::byte one : std::span(said).first(kFrameBytes - 1)) {
    slow.say(std::span(&one, 1));
  }
  CHECK(silent.is_hung_up_on());
  CHECK(slow.is_hung_up_on());
  node.wait_refused(2);
  check_open(node);
}

TEST_CASE(a_crowd_of_strangers_keeps_nobody_out) {
  // C10: the one that has been there longest makes room, and who is expected says so at once.
  Node node({.strangers_max = 8});
  std::deque<Peer> crowd;
  for (int at = 0; at < 40; ++at) crowd.emplace_back(node.address());
  node.wait_refused(32);
  CHECK(crowd.front().is_hung_up_on());
  check_open(node);
}

TEST_CASE(a_secret_lets_in_one_connection_once) {
  Node node;
  const auto secret = drawn<Secret>();
  const auto name = drawn<Token>();
  node->expect(secret);
  Peer right(node.address());
  right.say(hello(secret, name));
  CHECK(right.hears_welcome(name));
  for (const Token& again : {name, drawn<Token>()}) {
    Peer replay(node.address());
    replay.say(hello(secret, again));
    CHECK(replay.is_hung_up_on());
  }
  node.wait_refused(2);
  const auto forgotten = drawn<Secret>();
  node->forget(node->expect(forgotten));
  Peer late(node.address());
  late.say(hello(forgotten, drawn<Token>()));
  CHECK(late.is_hung_up_on());
}

TEST_CASE(streams_join_only_what_they_belong_to) {
  Node node({.hello_within = std::chrono::milliseconds(300)});
  const auto secret = drawn<Secret>();
  const auto name = drawn<Token>();
  node->expect(secret);
  Peer first(node.address());
  first.say(hello(secret, name, 0, 3));
  Peer twice(node.address());
  twice.say(hello(secret, name, 0, 3));
  CHECK(twice.is_hung_up_on());
  Peer other(node.address());
  other.say(hello(secret, drawn<Token>(), 1, 3));
  CHECK(other.is_hung_up_on());
  Peer narrow(node.address());
  narrow.say(hello(secret, name, 1, 2));
  CHECK(narrow.is_hung_up_on());
  CHECK(first.is_hung_up_on());  // the third never came
  // Nobody was let in, so the secret is as good as before.
  std::deque<Peer> streams;
  for (std::uint8_t at = 0; at < 3; ++at) {
    streams.emplace_back(node.address()).say(hello(secret, name, at, 3));
  }
  for (const Peer& one : streams) CHECK(one.hears_welcome(name));
  node.wait(News::Kind::accepted);
}

// What a peer says that was let in.

TEST_CASE(what_is_no_frame_ends_the_connection) {
  Node node;
  LetIn one = let_in(node);
  one.peer.say(Bytes(1000, std::byte{0x5a}));
  CHECK(one.peer.is_hung_up_on());
  CHECK(!node.wait(News::Kind::lost, one.connection).reason.empty());
  LetIn two = let_in(node);
  two.peer.say(hello(drawn<Secret>(), drawn<Token>()));
  CHECK(two.peer.is_hung_up_on());
  check_open(node);
}

TEST_CASE(a_part_that_has_no_place_is_read_and_goes_nowhere) {
  // A11
  Node node({.pieces_max = 4});
  LetIn one = let_in(node);
  const auto token = drawn<Token>();
  Bytes memory(1000);
  const auto landing = node->open_landing(one.connection, token, {slot(memory)}, nullptr);
  const auto say = [&](PartFrame part, std::byte fill) {
    one.peer.say(encode(part));
    one.peer.say(Bytes(part.length, fill));
  };
  const std::byte bad{0x66};
  say({.token = token, .offset = 1, .bytes = 1000, .length = 1000}, bad);
  say({.token = token, .offset = UINT64_MAX, .bytes = 2, .length = 2}, bad);
  say({.token = token, .offset = UINT64_MAX - 1, .bytes = 1000, .length = 1000}, bad);
  say({.token = token, .bytes = UINT64_MAX, .part_offset = UINT64_MAX - 9, .length = 9}, bad);
  say({.token = token, .bytes = 0, .slot = 1}, bad);
  say({.token = drawn<Token>(), .bytes = 1000, .length = 1000}, bad);
  // The same piece in another size; more of it than there is; a fifth piece; one that has come.
  const std::byte good{0x33};
  say({.token = token, .number = 1, .offset = 0, .bytes = 100, .length = 60}, good);
  say({.token = token, .number = 1, .offset = 500, .bytes = 90, .part_offset = 60, .length = 30},
      bad);
  say({.token = token, .number = 1, .offset = 500, .bytes = 100, .part_offset = 0, .length = 60},
      bad);
  say({.token = token, .number = 1, .bytes = 100, .part_offset = 60, .length = 40}, good);
  say({.token = token, .number = 1, .bytes = 100, .length = 100}, bad);
  for (const std::uint64_t number : {2ULL, 3ULL, 4ULL}) {
    say({.token = token, .number = number, .offset = 100 * number, .bytes = 10, .length = 10},
        good);
  }
  say({.token = token, .number = 5, .offset = 900, .bytes = 10, .length = 10}, bad);
  say({.token = token, .number = 2, .offset = 910, .bytes = 0}, bad);
  node.wait_arrived(4);
  node.until([&] { return node->counts(one.connection).pieces_refused >= 9; });
  CHECK(node.arrived.size() == 4 && node.arrived.front() == std::pair(landing, std::uint64_t{1}));
  CHECK(std::find(memory.begin(), memory.end(), bad) == memory.end());
  CHECK_EQ(std::count(memory.begin(), memory.end(), good), 130);
  CHECK_EQ(node->counts(one.connection).bytes_received, 130U);
}

TEST_CASE(a_peer_that_dies_in_mid_piece_is_noticed) {
  // C8
  Node node;
  LetIn one = let_in(node);
  const auto token = drawn<Token>();
  int alive = 0;
  auto memory = std::make_unique<Bytes>(1 << 20);
  const auto landing = node->open_landing(one.connection, token, {slot(*memory)},
                                          std::make_shared<OnThisThread>(alive));
  one.peer.say(encode(PartFrame{.token = token, .bytes = 1 << 20, .length = 1 << 20}));
  one.peer.say(pattern(70'000, 1));
  one.peer.hang_up();
  node.wait(News::Kind::lost, one.connection);
  node.wait(News::Kind::drained, landing);
  CHECK_EQ(alive, 0);
  memory.reset();
  CHECK(node.arrived.empty());
}

TEST_CASE(a_listener_that_says_something_else_is_no_peer) {
  // Whoever has taken the port answers in another language, or hangs up.
  for (const bool talks : {true, false}) {
    Node near;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    CHECK_EQ(::listen(fd, 1), 0);
    socklen_t length = sizeof(address);
    getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
    const auto id = near->dial({.host = "127.0.0.1", .port = ntohs(address.sin_port)},
                               drawn<Token>(), drawn<Secret>());
    const int peer = accept(fd, nullptr, nullptr);
    const Bytes words(kFrameBytes, std::byte{'x'});
    if (talks) CHECK_EQ(send(peer, words.data(), words.size(), 0), ssize_t(words.size()));
    if (!talks) shutdown(peer, SHUT_RDWR);
    CHECK(!near.wait(News::Kind::lost, id).reason.empty());
    ::close(peer);
    ::close(fd);
  }
}

}  // namespace
}  // namespace penstock::io

CHECK_MAIN()
