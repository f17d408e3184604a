// One socket of a connection.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "io/channel_connection.hpp"
#include "io/channel_reading.hpp"
#include "io/channel_worker.hpp"
#include "io/channel_writing.hpp"

namespace penstock::io {

// dialled:   connecting -> greeting (hello said, no welcome yet) -> open
// accepted:  open
//
// field      guard          who uses it without
// writer_    write_mutex_   -
// closed_    both mutexes   the worker's thread, which alone sets it
// armed_     atomic         set: the worker will look whether there is something to send
// paused_    atomic         nothing is read until the caller has listened
// phase_     atomic         -
// reader_    -              the worker's thread alone
// lowest_    -              the same
//
// What epoll is asked for is derived from armed_, paused_ and phase_, under interest_mutex_: an
// older view of them must not be the last to be told.
class Stream final : public Polled, public std::enable_shared_from_this<Stream> {
 public:
  enum class Phase : std::uint8_t { connecting, greeting, open };

  // It owns the socket. `hello`: what it says first when it was dialled.
  Stream(int fd, Phase phase, const FrameBytes& hello, Worker& worker,
         std::shared_ptr<Connection> connection, Newsroom& newsroom, const ChannelOptions& options);
  ~Stream() override;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  Stream(Stream&&) = delete;
  Stream& operator=(Stream&&) = delete;

  // Any thread.
  // Once, after the connection knows of it. `welcome`: one that was accepted says so first.
  void start();
  void welcome();
  // There is something to send.
  void wake();
  // Nothing is read or written any more, soon: the connection hears of it.
  void end();

  // The caller's thread: send what waits, if nobody is at it. False: somebody is.
  [[nodiscard]] bool send_now(std::vector<SendOver>& over);

  void ready(std::uint32_t events) override;

 private:
  void say_hello();
  void hear_welcome();
  void read(std::uint32_t events);
  void write();
  void rest();
  void resume();
  void drop();
  [[nodiscard]] std::uint32_t wanted() const;
  [[nodiscard]] bool begin_to_wait();
  void wait_again();
  void wake_at(std::uint64_t bytes);

  const int fd_;
  Worker& worker_;
  const std::shared_ptr<Connection> connection_;
  Newsroom& newsroom_;
  FrameBytes greeting_;            // hello, then the welcome
  std::size_t welcome_bytes_ = 0;  // of it that have come
  std::function<void()> resume_;
  std::atomic<Phase> phase_;
  std::atomic<bool> armed_{false};
  std::atomic<bool> paused_{false};
  PartReader reader_;
  std::uint64_t lowest_ = 1;  // bytes that must be there for the socket to be readable
  std::mutex write_mutex_;
  std::mutex interest_mutex_;
  PartWriter writer_;
  bool closed_ = false;
};

}  // namespace penstock::io
