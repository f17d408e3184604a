// io_uring by raw system calls: the two rings, mapped. One thread after enable().
#pragma once

#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace penstock::io {

class Ring {
 public:
  // Room for `entries` requests under way (rounded up to a power of two). Throws std::system_error:
  // ENOSYS and EPERM where it is refused.
  explicit Ring(unsigned entries);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  Ring(Ring&&) = delete;
  Ring& operator=(Ring&&) = delete;

  // Makes the calling thread the one that submits; before anything else.
  void enable() noexcept;
  [[nodiscard]] bool supports(std::uint8_t opcode) const noexcept;

  // A zeroed request to fill in before anything else is called. Submitted by the next enter, or
  // when the ring is full of them.
  [[nodiscard]] io_uring_sqe* request() noexcept;
  [[nodiscard]] unsigned entries() const noexcept { return entries_; }
  // Submits, and waits until at least so many have completed. Ends the process on an errno that
  // only a broken ring gives, since memory that the kernel may still write cannot be given back.
  void enter(unsigned completions_min) noexcept;
  // Calls visit(user_data, result) for all that has completed.
  template <typename Visitor>
  void reap(Visitor visit) {
    unsigned head = *completed_head_;
    const unsigned tail = __atomic_load_n(completed_tail_, __ATOMIC_ACQUIRE);
    while (head != tail) {
      const io_uring_cqe& one = completed_[head & completed_mask_];
      const std::uint64_t data = one.user_data;
      const std::int32_t result = one.res;
      __atomic_store_n(completed_head_, ++head, __ATOMIC_RELEASE);
      visit(data, result);
    }
  }

 private:
  void setup(io_uring_params& params);
  void map(const io_uring_params& params);
  void unmap() noexcept;
  void probe() noexcept;

  int fd_ = -1;
  unsigned entries_;
  void* rings_ = nullptr;
  std::size_t rings_bytes_ = 0;
  io_uring_sqe* requests_ = nullptr;
  std::size_t requests_bytes_ = 0;

  unsigned* submitted_tail_ = nullptr;
  unsigned submitted_mask_ = 0;
  unsigned filled_ = 0;  // requests filled in and not submitted

  unsigned* completed_head_ = nullptr;
  unsigned* completed_tail_ = nullptr;
  unsigned completed_mask_ = 0;
  io_uring_cqe* completed_ = nullptr;

  std::vector<std::uint8_t> supported_;  // opcodes
};

}  // namespace penstock::io
