// Who may come in: a socket that listens, strangers that have not said who they are, and the
// secrets that are expected.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/channel_connection.hpp"
#include "io/channel_frame.hpp"
#include "io/channel_options.hpp"
#include "io/channel_worker.hpp"

namespace penstock::io {

// Secrets that one connection each may show. Under one mutex.
class Expectations {
 public:
  void add(const Secret& secret, std::uint64_t number);
  void remove(std::uint64_t number);

  // The number of this secret, which is this connection's from now on; nothing: it is nobody's, or
  // another connection's. Takes as long for every secret of 32 bytes.
  [[nodiscard]] std::optional<std::uint64_t> claim(const Secret& secret, const Token& connection);
  // The connection did not come about: another one may show it.
  void release(std::uint64_t number);
  // It did, so nobody may show it again. False: it was removed meanwhile.
  [[nodiscard]] bool fulfil(std::uint64_t number);

 private:
  struct Expected {
    Secret secret;
    std::uint64_t number;
    std::optional<Token> claimed;
  };

  std::mutex mutex_;
  std::vector<Expected> expected_;
};

class Gate;

// A socket that was accepted, until its hello has come and those of its siblings.
class Stranger final : public Polled {
 public:
  Stranger(int fd, Gate& gate) : fd_(fd), gate_(gate) {}
  ~Stranger() override;
  Stranger(const Stranger&) = delete;
  Stranger& operator=(const Stranger&) = delete;
  Stranger(Stranger&&) = delete;
  Stranger& operator=(Stranger&&) = delete;

  void ready(std::uint32_t events) override;
  void expired() override;

  [[nodiscard]] int fd() const noexcept { return fd_; }
  [[nodiscard]] const std::optional<Hello>& hello() const noexcept { return hello_; }
  // The socket is the caller's now.
  [[nodiscard]] int release() noexcept;

 private:
  int fd_;
  Gate& gate_;
  FrameBytes head_{};
  std::size_t head_bytes_ = 0;
  std::optional<Hello> hello_;
};

// Belongs to the first worker's thread. At most strangers_max strangers: one more takes the place
// of the one that has been there longest, for who is expected says so at once.
class Gate final : public Polled {
 public:
  // It owns the socket, which listens and does not block.
  Gate(int fd, std::vector<Worker*> workers, const ChannelOptions& options, ConnectionBook& book,
       Expectations& expectations, Newsroom& newsroom);
  ~Gate() override;
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  Gate(Gate&&) = delete;
  Gate& operator=(Gate&&) = delete;

  // Any thread. Accept from now on, until the end.
  static void open(std::shared_ptr<Gate> gate);
  static void shut(std::shared_ptr<Gate> gate);

  void ready(std::uint32_t events) override;
  void expired() override;

  // By a stranger.
  void greet(Stranger& stranger, const Hello& hello);
  void refuse(Stranger& stranger, const std::string& reason);

 private:
  struct Party {  // the sockets of one connection to be
    std::uint64_t expected = 0;
    std::vector<std::shared_ptr<Stranger>> streams;  // by place; nullptr: not yet here
  };

  void take_in(int fd);
  void leave(Stranger& stranger);
  void admit(const Token& name, const Party& party);
  [[nodiscard]] std::shared_ptr<Stranger> find(int fd);

  int fd_;
  const std::vector<Worker*> workers_;
  const ChannelOptions& options_;
  ConnectionBook& book_;
  Expectations& expectations_;
  Newsroom& newsroom_;
  std::deque<std::shared_ptr<Stranger>> strangers_;  // who has been here longest first
  std::unordered_map<Token, Party, TokenHash> parties_;
  std::size_t turn_ = 0;  // whose the next stream is
};

}  // namespace penstock::io
