// Where handles that die on any thread leave word for the loop thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "core/table_types.hpp"

namespace penstock {

// A lock-free stack that many threads push to and one thread takes whole, with an eventfd that
// tells that thread's loop.
//
// | field    | guard                                                                        |
// |----------|------------------------------------------------------------------------------|
// | newest_  | atomic; pushed by any thread, emptied by the loop thread                     |
// | Return   | its handle until push(), the queue until drain(), then the loop thread       |
// | event_   | written when the stack was empty; read by the loop thread before it drains   |
//
// Memory is bounded by the number of handles: every handle owns the one Return that it will push.
class ReturnQueue {
 public:
  // What a handle held.
  struct Return {
    enum class What : std::uint8_t { lease, ticket };

    What what = What::lease;
    Id id{};
    std::uint64_t owner = 0;  // the session, or the instance
    Return* next = nullptr;   // pushed before this one
  };

  // Throws std::system_error when there is no eventfd to be had.
  ReturnQueue();
  ~ReturnQueue();
  ReturnQueue(const ReturnQueue&) = delete;
  ReturnQueue& operator=(const ReturnQueue&) = delete;
  ReturnQueue(ReturnQueue&&) = delete;
  ReturnQueue& operator=(ReturnQueue&&) = delete;

  // Any thread. Never blocks, never fails, allocates nothing.
  void push(std::unique_ptr<Return> returned) noexcept;

  // Loop thread: whether there is something to drain. One load.
  [[nodiscard]] bool empty() const noexcept {
    return newest_.load(std::memory_order_relaxed) == nullptr;
  }
  // Loop thread: calls visit(const Return&) for all that was pushed, newest first, and quiets the
  // eventfd. How many.
  template <typename Visitor>
  std::uint32_t drain(Visitor visit) {
    std::uint32_t count = 0;
    for (Return* pushed = take(); pushed != nullptr; ++count) {
      const std::unique_ptr<Return> owned(pushed);
      pushed = owned->next;
      visit(*owned);
    }
    return count;
  }

  // Readable while something waits to be drained.
  [[nodiscard]] int event_fd() const noexcept { return event_; }

 private:
  [[nodiscard]] Return* take() noexcept;

  std::atomic<Return*> newest_{nullptr};
  int event_;
};

// Ends a lease or a ticket when it dies, on any thread. Not to be used from two threads at once.
class LeaseHandle {
 public:
  LeaseHandle(std::shared_ptr<ReturnQueue> queue, std::unique_ptr<ReturnQueue::Return> returned)
      : queue_(std::move(queue)), returned_(std::move(returned)) {}
  ~LeaseHandle() { give_back(); }
  LeaseHandle(LeaseHandle&&) = default;
  LeaseHandle& operator=(LeaseHandle&&) = delete;
  LeaseHandle(const LeaseHandle&) = delete;
  LeaseHandle& operator=(const LeaseHandle&) = delete;

  // Now instead of at death. Twice is once.
  void give_back() noexcept {
    if (returned_) queue_->push(std::move(returned_));
  }
  // It was ended otherwise.
  void forget() noexcept { returned_.reset(); }

 private:
  std::shared_ptr<ReturnQueue> queue_;
  std::unique_ptr<ReturnQueue::Return> returned_;
};

}  // namespace penstock
