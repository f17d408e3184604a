// What the native tests of data channels share: endpoints with a loop around them, and peers that
// speak by hand.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.hpp"
#include "io/channel.hpp"

namespace penstock::io {

using Bytes = std::vector<std::byte>;

inline Bytes pattern(std::size_t bytes, unsigned seed) {
  Bytes made(bytes);
  std::uint32_t state = seed * 2654435761U + 1;
  for (std::byte& one : made) {
    state = state * 1664525U + 1013904223U;
    one = std::byte(state >> 24);
  }
  return made;
}

template <typename Fixed>
Fixed drawn() {
  static std::mt19937_64 draw{std::random_device{}()};
  Fixed made;
  for (std::byte& one : made) one = std::byte(draw());
  return made;
}

// Dies where it should: on the thread that made it.
class OnThisThread {
 public:
  explicit OnThisThread(int& alive) : alive_(alive) { ++alive_; }
  ~OnThisThread() {
    --alive_;
    if (std::this_thread::get_id() != thread_) std::abort();
  }
  OnThisThread(const OnThisThread&) = delete;
  OnThisThread& operator=(const OnThisThread&) = delete;
  OnThisThread(OnThisThread&&) = delete;
  OnThisThread& operator=(OnThisThread&&) = delete;

 private:
  int& alive_;
  const std::thread::id thread_ = std::this_thread::get_id();
};

// An endpoint, and what it told.
class Node {
 public:
  explicit Node(ChannelOptions options = {}) : endpoint_(options) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    CHECK_EQ(::listen(fd, 128), 0);
    socklen_t length = sizeof(address);
    getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
    port_ = ntohs(address.sin_port);
    endpoint_.listen(fd);
  }

  ChannelEndpoint& operator*() { return endpoint_; }
  ChannelEndpoint* operator->() { return &endpoint_; }
  [[nodiscard]] ChannelAddress address() const { return {.host = "127.0.0.1", .port = port_}; }

  // Listens until `seen`, of what was told and not yet taken.
  void until(const std::function<bool()>& seen) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!seen()) {
      CHECK(std::chrono::steady_clock::now() < deadline);
      pollfd polled{endpoint_.event_fd(), POLLIN, 0};
      poll(&polled, 1, 100);
      hear();
    }
  }
  void hear() {
    for (News& one : endpoint_.told(64)) {
      for (const std::uint64_t number : one.numbers) arrived.emplace_back(one.id, number);
      if (one.kind == News::Kind::refused) {
        refused += one.of;
        reasons.push_back(one.reason);
      } else if (one.kind != News::Kind::arrived) {
        told.push_back(std::move(one));
      }
    }
  }
  // The first such news, taken.
  News wait(News::Kind kind, std::uint64_t id = 0) {
    News found;
    until([&] {
      const auto at = std::find_if(told.begin(), told.end(), [&](const News& one) {
        return one.kind == kind && (id == 0 || one.id == id);
      });
      if (at == told.end()) return false;
      found = std::move(*at);
      told.erase(at);
      return true;
    });
    return found;
  }
  // Until the memory of these pieces is read no more.
  void send(std::uint64_t connection, const Token& token, std::vector<PieceToSend> pieces) {
    const std::uint64_t id = endpoint_.send(connection, token, std::move(pieces), nullptr);
    if (id != 0) wait(News::Kind::sent, id);
  }
  void wait_arrived(std::size_t count) {
    until([&] { return arrived.size() >= count; });
  }
  void wait_refused(std::uint64_t count) {
    until([&] { return refused >= count; });
  }
  [[nodiscard]] bool was_told(News::Kind kind, std::uint64_t id) const {
    return std::any_of(told.begin(), told.end(),
                       [&](const News& one) { return one.kind == kind && one.id == id; });
  }

  std::deque<News> told;                                         // all but arrivals and strangers
  std::vector<std::pair<std::uint64_t, std::uint64_t>> arrived;  // landing, number
  std::uint64_t refused = 0;
  std::vector<std::string> reasons;

 private:
  ChannelEndpoint endpoint_;
  std::uint16_t port_ = 0;
};

// The two ids of a connection.
struct Joined {
  std::uint64_t dialled;
  std::uint64_t accepted;
};

inline Joined join(Node& dialer, Node& listener) {
  const auto secret = drawn<Secret>();
  const std::uint64_t number = listener->expect(secret);
  const std::uint64_t dialled = dialer->dial(listener.address(), drawn<Token>(), secret);
  const News accepted = listener.wait(News::Kind::accepted);
  CHECK_EQ(accepted.of, number);
  CHECK_EQ(dialer.wait(News::Kind::connected).id, dialled);
  return {.dialled = dialled, .accepted = accepted.id};
}

inline LandingSlot slot(Bytes& memory) {
  return {.data = memory.data(), .bytes = memory.size()};
}

inline PieceToSend piece(const Bytes& payload, std::uint64_t number, std::uint64_t offset = 0,
                         std::uint32_t slot = 0) {
  return {.number = number,
          .offset = offset,
          .slot = slot,
          .data = payload.data(),
          .bytes = payload.size()};
}

// A peer that speaks by hand.
class Peer {
 public:
  explicit Peer(const ChannelAddress& address) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in there{};
    there.sin_family = AF_INET;
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    there.sin_port = htons(address.port);
    CHECK_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&there), sizeof(there)), 0);
  }
  ~Peer() {
    if (fd_ >= 0) ::close(fd_);
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  Peer(Peer&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Peer& operator=(Peer&&) = delete;

  template <typename Said>
  void say(const Said& said) {
    // Who was refused may be told so in the midst of it.
    [[maybe_unused]] const ssize_t sent = send(fd_, said.data(), said.size(), MSG_NOSIGNAL);
  }
  // Whether the other side ends it within ten seconds.
  [[nodiscard]] bool is_hung_up_on() const {
    pollfd polled{fd_, POLLIN, 0};
    for (char byte = 0; poll(&polled, 1, 10'000) == 1;) {
      if (recv(fd_, &byte, 1, 0) <= 0) return true;
    }
    return false;
  }
  // Whether it was welcomed.
  [[nodiscard]] bool hears_welcome(const Token& name) const {
    FrameBytes frame{};
    return recv(fd_, frame.data(), frame.size(), MSG_WAITALL) == ssize_t(frame.size()) &&
           decode_welcome(frame) == name;
  }
  void hang_up() { ::close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

}  // namespace penstock::io
