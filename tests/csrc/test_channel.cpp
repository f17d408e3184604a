// TCP data channels between two endpoints of one process: pieces, landings, ends.
#include <sys/wait.h>

#include <cerrno>
#include <csignal>

#include "channel_fixture.hpp"

namespace penstock::io {
namespace {

constexpr std::size_t kLarge = 24 << 20;

// One stream, and several on several threads.
template <typename Body>
void for_each_width(Body body) {
  body(ChannelOptions{.threads = 1});
  body(ChannelOptions{.threads = 3, .streams = 4, .part_bytes = 64 << 10});
}

TEST_CASE(a_piece_comes_whole_and_touches_nothing_else) {
  for_each_width([](const ChannelOptions& options) {
    Node near(options);
    Node far(options);
    const Joined joined = join(near, far);
    const auto token = drawn<Token>();
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{4096}, kLarge}) {
      Bytes memory(bytes + 64, std::byte{0x11});
      const Bytes payload = pattern(bytes, 3);
      const auto landing = far->open_landing(joined.accepted, token, {slot(memory)}, nullptr);
      const std::uint64_t sent =
          near->send(joined.dialled, token, {piece(payload, 9, 32)}, nullptr);
      if (sent != 0) near.wait(News::Kind::sent, sent);
      far.wait_arrived(1);
      CHECK(far.arrived.back() == std::pair(landing, std::uint64_t{9}));
      far.arrived.clear();
      CHECK(std::equal(payload.begin(), payload.end(), memory.begin() + 32));
      CHECK(std::all_of(memory.begin(), memory.begin() + 32,
                        [](std::byte one) { return one == std::byte{0x11}; }));
      CHECK(std::all_of(memory.end() - 32, memory.end(),
                        [](std::byte one) { return one == std::byte{0x11}; }));
      CHECK(far->close_landing(joined.accepted, token));
    }
    CHECK_EQ(near->counts(joined.dialled).pieces_sent, 4U);
    CHECK_EQ(far->counts(joined.accepted).bytes_received, 4097U + kLarge);
  });
}

TEST_CASE(both_directions_carry_many_pieces_at_once) {
  for_each_width([](const ChannelOptions& options) {
    constexpr std::size_t kPieces = 3000;
    constexpr std::size_t kBytes = 777;
    Node near(options);
    Node far(options);
    const Joined joined = join(near, far);
    const auto token = drawn<Token>();
    Bytes there(kPieces * kBytes);
    Bytes back(kPieces * kBytes);
    const Bytes payload = pattern(kPieces * kBytes, 5);
    far->open_landing(joined.accepted, token, {slot(there)}, nullptr);
    near->open_landing(joined.dialled, token, {slot(back)}, nullptr);
    std::vector<PieceToSend> pieces;
    for (std::size_t at = 0; at < kPieces; ++at) {
      pieces.push_back({.number = at,
                        .offset = at * kBytes,
                        .slot = 0,
                        .data = payload.data() + at * kBytes,
                        .bytes = kBytes});
    }
    const auto sent_near = near->send(joined.dialled, token, pieces, nullptr);
    const auto sent_far = far->send(joined.accepted, token, pieces, nullptr);
    for (Node* node : {&near, &far}) node->wait_arrived(kPieces);
    near.wait(News::Kind::sent, sent_near);
    far.wait(News::Kind::sent, sent_far);
    CHECK(there == payload);
    CHECK(back == payload);
    std::sort(far.arrived.begin(), far.arrived.end());
    for (std::size_t at = 0; at < kPieces; ++at) CHECK_EQ(far.arrived[at].second, at);
  });
}

// What proves it is the address sanitizer: the memory is gone the moment the close is over.
TEST_CASE(memory_of_a_landing_that_is_closed_in_mid_piece_is_the_callers_again) {
  // A2, A14. Seen to fail, by the address sanitizer, with a Landing::finish that waits for nobody.
  for_each_width([](const ChannelOptions& options) {
    Node near(options);
    Node far(options);
    const Joined joined = join(near, far);
    const Bytes payload = pattern(kLarge, 3);
    const Bytes first(1);  // once it is there, the other comes
    for (int round = 0; round < 5; ++round) {
      const auto token = drawn<Token>();
      int alive = 0;
      auto memory = std::make_unique<Bytes>(kLarge);
      const auto landing = far->open_landing(joined.accepted, token, {slot(*memory)},
                                             std::make_shared<OnThisThread>(alive));
      const auto sent =
          near->send(joined.dialled, token, {piece(first, 0), piece(payload, 1)}, nullptr);
      far.wait_arrived(1);
      if (!far->close_landing(joined.accepted, token)) far.wait(News::Kind::drained, landing);
      CHECK_EQ(alive, 0);
      memory.reset();
      near.wait(News::Kind::sent, sent);
      far.arrived.clear();
    }
    const auto token = drawn<Token>();
    Bytes memory(100);
    far->open_landing(joined.accepted, token, {slot(memory)}, nullptr);
    const Bytes after = pattern(100, 1);
    near.send(joined.dialled, token, {piece(after, 2)});
    far.wait_arrived(1);
    CHECK(memory == after);
  });
}

TEST_CASE(memory_of_a_send_that_is_cancelled_is_the_callers_again) {
  for_each_width([](const ChannelOptions& options) {
    constexpr std::size_t kPart = kLarge / 3;
    constexpr unsigned kRounds = 6;
    // What was cancelled may still be on its way: each piece has a place of its own, which
    // outlives the endpoints.
    Bytes memory(kPart * 2 * kRounds);
    Bytes after(64);
    Node near(options);
    Node far(options);
    const Joined joined = join(near, far);
    const auto token = drawn<Token>();
    far->open_landing(joined.accepted, token, {slot(memory)}, nullptr);
    for (unsigned round = 0; round < kRounds; ++round) {
      int alive = 0;
      auto payload = std::make_unique<Bytes>(pattern(kPart, round));
      const std::uint64_t first = 2 * round;
      const auto id = near->send(
          joined.dialled, token,
          {piece(*payload, first, first * kPart), piece(*payload, first + 1, (first + 1) * kPart)},
          std::make_shared<OnThisThread>(alive));
      if (round % 2 == 1) near.hear();
      if (!near->cancel_send(joined.dialled, id)) {
        near.until([&] {
          return near.was_told(News::Kind::sent, id) || near.was_told(News::Kind::failed, id);
        });
        near.told.clear();
      }
      CHECK_EQ(alive, 0);
      payload.reset();
    }
    const auto other = drawn<Token>();
    const Bytes last = pattern(64, 9);
    far->open_landing(joined.accepted, other, {slot(after)}, nullptr);
    near.send(joined.dialled, other, {piece(last, 77)});
    // What was under way on other streams may come after it.
    far.until([&] {
      return std::any_of(far.arrived.begin(), far.arrived.end(),
                         [](const auto& one) { return one.second == 77; });
    });
  });
}

TEST_CASE(whoever_ends_it_in_mid_piece_both_sides_let_go) {
  // C8
  for_each_width([](const ChannelOptions& options) {
    for (const bool near_ends : {true, false}) {
      Node near(options);
      Node far(options);
      const Joined joined = join(near, far);
      const auto token = drawn<Token>();
      int alive = 0;
      auto memory = std::make_unique<Bytes>(2 * kLarge);
      auto payload = std::make_unique<Bytes>(pattern(kLarge, 3));
      far->open_landing(joined.accepted, token, {slot(*memory)},
                        std::make_shared<OnThisThread>(alive));
      const auto id =
          near->send(joined.dialled, token,
                     {piece(Bytes(), 0), piece(*payload, 1), piece(*payload, 2, kLarge)},
                     std::make_shared<OnThisThread>(alive));
      far.wait_arrived(1);
      if (near_ends) near->end(joined.dialled, "enough");
      if (!near_ends) far->end(joined.accepted, "enough");
      const News lost_near = near.wait(News::Kind::lost, joined.dialled);
      const News lost_far = far.wait(News::Kind::lost, joined.accepted);
      CHECK_EQ(near_ends ? lost_near.reason : lost_far.reason, "enough");
      CHECK(!(near_ends ? lost_far : lost_near).reason.empty());
      // It may all have been sent before this thread had its turn to end it.
      CHECK(near.was_told(News::Kind::failed, id) != near.was_told(News::Kind::sent, id));
      near.told.clear();
      far.told.clear();
      CHECK_EQ(alive, 0);
      memory.reset();
      payload.reset();
      CHECK_THROWS(near->send(joined.dialled, token, {piece(Bytes(1), 1)}, nullptr), ChannelEnded);
      CHECK_THROWS(far->open_landing(joined.accepted, token, {}, nullptr), ChannelEnded);
      CHECK(!far->close_landing(joined.accepted, token));
      near->release(joined.dialled);
      CHECK_EQ(near->counts(joined.dialled).pieces_sent, 0U);
    }
  });
}

TEST_CASE(an_endpoint_ends_with_all_that_is_under_way) {
  for_each_width([](const ChannelOptions& options) {
    int alive = 0;
    const Bytes payload = pattern(kLarge, 3);
    Bytes memory(kLarge);
    {
      Node near(options);
      Node far(options);
      for (int at = 0; at < 3; ++at) {
        const Joined joined = join(near, far);
        const auto token = drawn<Token>();
        far->open_landing(joined.accepted, token, {slot(memory)},
                          std::make_shared<OnThisThread>(alive));
        near->send(joined.dialled, token, {piece(payload, 1)},
                   std::make_shared<OnThisThread>(alive));
      }
      near->dial({.host = "192.0.2.1", .port = 1}, drawn<Token>(), drawn<Secret>());
      CHECK_EQ(alive, 6);
    }
    CHECK_EQ(alive, 0);
  });
}

TEST_CASE(a_peer_is_held_back_while_nobody_listens) {
  // C10: what has come and was not told of is bounded; nothing of it is lost.
  constexpr std::size_t kPieces = 5000;
  Node near;
  Node far({.arrivals_max = 100});
  const Joined joined = join(near, far);
  const auto token = drawn<Token>();
  Bytes memory(64);
  const Bytes payload(64);
  far->open_landing(joined.accepted, token, {slot(memory)}, nullptr);
  std::vector<PieceToSend> pieces;
  for (std::size_t at = 0; at < kPieces; ++at) pieces.push_back(piece(payload, at));
  const auto sent = near->send(joined.dialled, token, std::move(pieces), nullptr);
  std::uint64_t received = 0;
  for (int looks = 0; looks < 200 || received < 100; ++looks) {
    received = far->counts(joined.accepted).pieces_received;
    CHECK(received <= 101);
    std::this_thread::yield();
  }
  far.wait_arrived(kPieces);
  CHECK_EQ(far.arrived.size(), kPieces);
  near.wait(News::Kind::sent, sent);
}

TEST_CASE(who_is_held_back_again_and_again_neither_sends_nor_reads_too_little) {
  // What a socket waits for is told by two threads: the older view of one must not be the last.
  constexpr std::size_t kPieces = 20'000;
  constexpr std::size_t kAtOnce = 40;
  Node near({.arrivals_max = 2});
  Node far({.arrivals_max = 2});
  const Joined joined = join(near, far);
  const auto there = drawn<Token>();
  const auto back = drawn<Token>();
  Bytes at_far(20'000);
  Bytes at_near(20'000);
  const Bytes payload(20'000);
  far->open_landing(joined.accepted, there, {slot(at_far)}, nullptr);
  near->open_landing(joined.dialled, back, {slot(at_near)}, nullptr);
  const auto pieces = [&](std::size_t from) {
    std::vector<PieceToSend> made;
    for (std::size_t at = from; at < from + kAtOnce; ++at) made.push_back(piece(payload, at));
    return made;
  };
  for (std::size_t at = 0; at < kPieces; at += kAtOnce) {
    near->send(joined.dialled, there, pieces(at), nullptr);
    far->send(joined.accepted, back, pieces(at), nullptr);
    far.hear();
    near.hear();
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (near.arrived.size() < kPieces || far.arrived.size() < kPieces) {
    CHECK(std::chrono::steady_clock::now() < deadline);
    near.hear();
    far.hear();
  }
}

TEST_CASE(nobody_there_to_be_dialled_is_a_connection_that_is_lost) {
  Node near;
  ChannelAddress closed;
  {
    const Node gone;
    closed = gone.address();
  }
  for (const ChannelAddress& address :
       {closed, ChannelAddress{.host = "no address", .port = 1}, ChannelAddress{.host = "::1"}}) {
    const auto id = near->dial(address, drawn<Token>(), drawn<Secret>());
    CHECK(!near.wait(News::Kind::lost, id).reason.empty());
    near->release(id);
  }
}

TEST_CASE(a_bound_is_a_refusal_and_no_more) {
  Node near({.connections_max = 2});
  Node far({.landings_max = 2});
  const Joined joined = join(near, far);
  join(near, far);
  CHECK_THROWS(near->dial(far.address(), drawn<Token>(), drawn<Secret>()), ChannelEnded);
  const auto token = drawn<Token>();
  far->open_landing(joined.accepted, token, {}, nullptr);
  CHECK_THROWS(far->open_landing(joined.accepted, token, {}, nullptr), std::length_error);
  far->open_landing(joined.accepted, drawn<Token>(), {}, nullptr);
  CHECK_THROWS(far->open_landing(joined.accepted, drawn<Token>(), {}, nullptr), std::length_error);
  near->end(joined.dialled, "room for others");
  near.wait(News::Kind::lost, joined.dialled);
  near->release(joined.dialled);
  join(near, far);
  CHECK_THROWS(ChannelEndpoint({.threads = 0}), std::invalid_argument);
  CHECK_THROWS(ChannelEndpoint({.streams = 17}), std::invalid_argument);
  CHECK_THROWS(ChannelEndpoint({.part_bytes = 1}), std::invalid_argument);
}

// Landings come and go, sends are cancelled and connections end while bytes move: for the thread
// sanitizer, and for the address sanitizer, since all memory is given back as soon as it may be.
TEST_CASE(nothing_is_touched_that_was_given_back) {
  for_each_width([](const ChannelOptions& options) {
    Node near(options);
    Node far(options);
    std::mt19937 draw(11);
    for (int round = 0; round < 12; ++round) {
      const Joined joined = join(near, far);
      std::vector<std::pair<Token, std::unique_ptr<Bytes>>> landings;
      std::deque<std::unique_ptr<Bytes>> payloads;
      int alive = 0;
      std::vector<std::uint64_t> sends;
      for (int at = 0; at < 20; ++at) {
        const auto token = drawn<Token>();
        landings.emplace_back(token, std::make_unique<Bytes>(1 + draw() % 400'000));
        far->open_landing(joined.accepted, token, {slot(*landings.back().second)},
                          std::make_shared<OnThisThread>(alive));
        payloads.push_back(std::make_unique<Bytes>(draw() % 500'000));
        const auto& target = landings[draw() % landings.size()].first;
        sends.push_back(near->send(joined.dialled, target,
                                   {piece(*payloads.back(), 1), piece(*payloads.back(), 2)},
                                   std::make_shared<OnThisThread>(alive)));
        if (draw() % 3 == 0) near->cancel_send(joined.dialled, sends[draw() % sends.size()]);
        if (draw() % 3 == 0) far->close_landing(joined.accepted, target);
        near.hear();
        far.hear();
      }
      near->end(joined.dialled, "done");
      near.wait(News::Kind::lost, joined.dialled);
      payloads.clear();
      far.wait(News::Kind::lost, joined.accepted);
      near.told.clear();
      far.told.clear();
      landings.clear();
      CHECK_EQ(alive, 0);
      near->release(joined.dialled);
      far->release(joined.accepted);
    }
  });
}

TEST_CASE(a_forked_child_forgets_the_endpoint_and_the_parent_goes_on) {
  auto near = std::make_unique<Node>();
  Node far;
  const Joined joined = join(*near, far);
  const pid_t child = fork();
  if (child == 0) {
    near.reset();
    _exit(0);
  }
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
  const auto token = drawn<Token>();
  Bytes memory(8);
  far->open_landing(joined.accepted, token, {slot(memory)}, nullptr);
  const Bytes payload = pattern(8, 1);
  near->send(joined.dialled, token, {piece(payload, 1)});
  far.wait_arrived(1);
  // The end is heard though a child holds the socket open.
  const pid_t holder = fork();
  if (holder == 0) {
    pause();
    _exit(0);
  }
  near.reset();
  far.wait(News::Kind::lost, joined.accepted);
  kill(holder, SIGKILL);
  waitpid(holder, &status, 0);
}

}  // namespace
}  // namespace penstock::io

CHECK_MAIN()
