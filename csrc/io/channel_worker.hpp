// A thread that waits for sockets, and what it waits for.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "io/driver.hpp"

namespace penstock::io {

using Clock = std::chrono::steady_clock;

// A socket that belongs to a worker. Its calls are all made on that worker's thread.
class Polled {
 public:
  Polled() = default;
  virtual ~Polled() = default;
  Polled(const Polled&) = delete;
  Polled& operator=(const Polled&) = delete;
  Polled(Polled&&) = delete;
  Polled& operator=(Polled&&) = delete;

  // `events` of epoll; may come for nothing.
  virtual void ready(std::uint32_t events) = 0;
  // The time set by Worker::expire_at has come.
  virtual void expired() {}
};

// Sleeps while no socket has anything to do.
//
// field      guard   who uses it without
// asked_     mutex   -
// stopping_  mutex   -
// polled_    -       the worker's thread alone
// expiries_  -       the same
// epoll_     -       all: a descriptor that lives as long as this
// event_     -       the same
class Worker {
 public:
  // Throws std::system_error.
  Worker();
  // Stops, and waits for the thread.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  Worker(Worker&&) = delete;
  Worker& operator=(Worker&&) = delete;

  // Any thread. `what` is called soon on the worker's own, in the order asked for; also when it is
  // being stopped, but not after stop has returned.
  void post(std::function<void()> what);
  // Any thread. From now on wait for these events of a socket that is watched.
  void wait_for(int fd, std::uint32_t events) noexcept;
  // Does what was asked so far, and ends. Idempotent; not on its own thread.
  void stop() noexcept;

  // On its own thread. False: the system refuses to watch one more.
  [[nodiscard]] bool watch(int fd, std::shared_ptr<Polled> polled, std::uint32_t events);
  // It may be called within its own ready and expired.
  void unwatch(int fd) noexcept;
  // Of a socket that is watched, until it is not.
  void expire_at(int fd, Clock::time_point when);

 private:
  void run();
  void do_asked();
  void expire();
  [[nodiscard]] int timeout_ms() const;

  int epoll_ = -1;
  int event_ = -1;
  std::mutex mutex_;
  std::vector<std::function<void()>> asked_;
  bool stopping_ = false;
  std::unordered_map<int, std::shared_ptr<Polled>> polled_;
  std::unordered_map<int, Clock::time_point> expiries_;  // of a few of them
  std::optional<QuietThread> thread_;
};

}  // namespace penstock::io
