// Who carries steps out: threads that block, or one thread that drives io_uring.
#pragma once

#include <csignal>
#include <memory>
#include <thread>
#include <utility>

#include "io/queue.hpp"

namespace penstock::io {

class Driver {
 public:
  Driver() = default;
  virtual ~Driver() = default;
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;
  Driver(Driver&&) = delete;
  Driver& operator=(Driver&&) = delete;

  // Waits for the threads to end, which they do when the queue was stopped and every job that was
  // begun is over.
  virtual void join() noexcept = 0;

  // Waits for no thread: each is freed when it ends, if it does. The queue must outlive them all.
  virtual void detach() noexcept = 0;
};

// Throws std::system_error when a thread is refused. `threads` is at least 1.
[[nodiscard]] std::unique_ptr<Driver> drive_by_threads(JobQueue& queue, unsigned threads);

// At most `depth` jobs under way at a time. Throws std::system_error: where io_uring is refused,
// ENOSYS or EPERM.
[[nodiscard]] std::unique_ptr<Driver> drive_by_ring(JobQueue& queue, unsigned depth);

// What a job that is already begun may not do any more once everything stops. It may still tidy up.
[[nodiscard]] inline bool given_up(const Step& step) noexcept {
  return step.op == Op::open || step.op == Op::create || step.op == Op::read ||
         step.op == Op::write || step.op == Op::allocate;
}

// A thread of ours never runs a signal handler, which the process expects on threads it knows.
class QuietThread {
 public:
  template <typename Body>
  explicit QuietThread(Body body) : thread_(start(std::move(body))) {}
  void join() noexcept {
    if (thread_.joinable()) thread_.join();
  }
  void detach() noexcept {
    if (thread_.joinable()) thread_.detach();
  }

 private:
  template <typename Body>
  static std::thread start(Body body) {
    const SignalsBlocked blocked;  // inherited by the thread
    return std::thread(std::move(body));
  }

  struct SignalsBlocked {
    SignalsBlocked() noexcept;
    ~SignalsBlocked();
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;
    SignalsBlocked(SignalsBlocked&&) = delete;
    SignalsBlocked& operator=(SignalsBlocked&&) = delete;

   private:
    sigset_t before_{};
  };

  std::thread thread_;
};

}  // namespace penstock::io
