#include "core/return_queue.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace penstock {

ReturnQueue::ReturnQueue() : event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (event_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

ReturnQueue::~ReturnQueue() {
  for (Return* pushed = newest_.load(); pushed != nullptr;) {
    const std::unique_ptr<Return> owned(pushed);
    pushed = owned->next;
  }
  close(event_);
}

void ReturnQueue::push(std::unique_ptr<Return> returned) noexcept {
  Return* const pushed = returned.release();
  Return* newest = newest_.load(std::memory_order_relaxed);
  do {
    pushed->next = newest;
  } while (!newest_.compare_exchange_weak(newest, pushed, std::memory_order_release,
                                          std::memory_order_relaxed));
  // `pushed` may be freed by now. Whoever found the stack empty rings; the others' bell is already
  // rung.
  if (newest == nullptr) static_cast<void>(eventfd_write(event_, 1));
}

ReturnQueue::Return* ReturnQueue::take() noexcept {
  // First the event, then the stack: what is pushed in between is taken now, and its event comes
  // for nothing, once.
  eventfd_t count = 0;
  static_cast<void>(eventfd_read(event_, &count));
  return newest_.exchange(nullptr, std::memory_order_acquire);
}

}  // namespace penstock
