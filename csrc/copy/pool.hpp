// Threads that wait for work, owned by whoever copies. No thread is shared behind anyone's back.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace penstock {

/// A fixed set of threads, of which the caller is one.
///
/// field         guard      who reads it without, and why that is safe
/// job           mutex      -
/// generation    mutex      -
/// seats, busy   mutex      -
/// next          atomic     all: handing out an index is all it does
class ThreadPool {
 public:
  /// `threads` counts the caller: 1 means that no thread is started. Throws std::invalid_argument
  /// when it is 0 and std::system_error when the system refuses a thread.
  explicit ThreadPool(std::size_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ThreadPool(ThreadPool&&) = delete;
  ThreadPool& operator=(ThreadPool&&) = delete;

  [[nodiscard]] std::size_t threads() const noexcept;

  /// False in a child forked after the pool was made: its threads exist in the parent only.
  [[nodiscard]] bool usable() const noexcept;

  /// Calls body(i) once for each i below `count`, on at most `threads_max` threads, and returns
  /// when all have returned. `body` must not throw. A second caller waits until the first is done.
  /// Must be usable().
  void run(std::size_t count, std::size_t threads_max,
           const std::function<void(std::size_t)>& body);

 private:
  struct Shared;
  std::unique_ptr<Shared> shared_;
};

}  // namespace penstock
