#include "io/ring.hpp"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <system_error>

namespace penstock::io {
namespace {

// Of kernels newer than the headers this may be built with.
constexpr unsigned kSetupSingleIssuer = 1U << 12;  // 6.0
constexpr unsigned kSetupDeferTaskrun = 1U << 13;  // 6.1
constexpr unsigned kSetupCoopTaskrun = 1U << 8;    // 5.19
constexpr unsigned kProbed = 256;

template <typename T>
T* at(void* base, std::uint32_t offset) {
  return reinterpret_cast<T*>(static_cast<std::byte*>(base) + offset);
}

int sys_setup(unsigned entries, io_uring_params& params) noexcept {
  return static_cast<int>(syscall(__NR_io_uring_setup, entries, &params));
}

}  // namespace

Ring::Ring(unsigned entries) : entries_(entries) {
  io_uring_params params{};
  setup(params);
  try {
    map(params);
  } catch (...) {
    unmap();
    throw;
  }
  probe();
}

Ring::~Ring() {
  unmap();
}

// The best of what the kernel has: completions are worked off when we ask for them, not when they
// interrupt; else at our next call; else at once.
void Ring::setup(io_uring_params& params) {
  constexpr std::array<unsigned, 3> ways{kSetupSingleIssuer | kSetupDeferTaskrun, kSetupCoopTaskrun,
                                         0};
  for (const unsigned way : ways) {
    params = {};
    params.flags = way | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED;
    fd_ = sys_setup(entries_, params);
    if (fd_ >= 0 || errno != EINVAL) break;
  }
  if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "io_uring_setup");
  entries_ = params.sq_entries;
}

void Ring::map(const io_uring_params& params) {
  if ((params.features & IORING_FEAT_SINGLE_MMAP) == 0) {  // before 5.4
    throw std::system_error(ENOSYS, std::generic_category(), "io_uring without a single mapping");
  }
  const std::size_t submitted = params.sq_off.array + params.sq_entries * sizeof(unsigned);
  const std::size_t completed = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
  const auto mapped = [this](std::size_t bytes, std::uint64_t offset) {
    void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                              fd_, static_cast<off_t>(offset));
    if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "io_uring");
    return memory;
  };
  const std::size_t rings_bytes = std::max(submitted, completed);
  rings_ = mapped(rings_bytes, IORING_OFF_SQ_RING);
  rings_bytes_ = rings_bytes;
  const std::size_t requests_bytes = params.sq_entries * sizeof(io_uring_sqe);
  requests_ = static_cast<io_uring_sqe*>(mapped(requests_bytes, IORING_OFF_SQES));
  requests_bytes_ = requests_bytes;

  submitted_tail_ = at<unsigned>(rings_, params.sq_off.tail);
  submitted_mask_ = *at<unsigned>(rings_, params.sq_off.ring_mask);
  completed_head_ = at<unsigned>(rings_, params.cq_off.head);
  completed_tail_ = at<unsigned>(rings_, params.cq_off.tail);
  completed_mask_ = *at<unsigned>(rings_, params.cq_off.ring_mask);
  completed_ = at<io_uring_cqe>(rings_, params.cq_off.cqes);
  // Requests are used in the order of the ring: slot i of it always names request i.
  auto* const slots = at<unsigned>(rings_, params.sq_off.array);
  for (unsigned i = 0; i < params.sq_entries; ++i) slots[i] = i;
}

void Ring::unmap() noexcept {
  if (requests_ != nullptr) munmap(requests_, requests_bytes_);
  if (rings_ != nullptr) munmap(rings_, rings_bytes_);
  close(fd_);
}

void Ring::probe() noexcept {
  alignas(io_uring_probe)
      std::array<std::byte, sizeof(io_uring_probe) + kProbed * sizeof(io_uring_probe_op)>
          memory{};
  auto* const found = reinterpret_cast<io_uring_probe*>(memory.data());
  if (syscall(__NR_io_uring_register, fd_, IORING_REGISTER_PROBE, found, kProbed) != 0) return;
  for (unsigned i = 0; i < found->ops_len; ++i) {
    if ((found->ops[i].flags & IO_URING_OP_SUPPORTED) != 0) {
      supported_.push_back(found->ops[i].op);
    }
  }
}

bool Ring::supports(std::uint8_t opcode) const noexcept {
  return std::find(supported_.begin(), supported_.end(), opcode) != supported_.end();
}

void Ring::enable() noexcept {
  static_cast<void>(syscall(__NR_io_uring_register, fd_, IORING_REGISTER_ENABLE_RINGS, nullptr, 0));
}

io_uring_sqe* Ring::request() noexcept {
  if (filled_ == entries_) enter(0);
  // Only this thread writes the tail.
  io_uring_sqe* const one = &requests_[(*submitted_tail_ + filled_) & submitted_mask_];
  ++filled_;
  std::memset(one, 0, sizeof *one);
  return one;
}

void Ring::enter(unsigned completions_min) noexcept {
  __atomic_store_n(submitted_tail_, *submitted_tail_ + filled_, __ATOMIC_RELEASE);
  unsigned left = filled_;
  filled_ = 0;
  do {
    const long taken = syscall(__NR_io_uring_enter, fd_, left, completions_min,
                               IORING_ENTER_GETEVENTS, nullptr, 0);
    if (taken >= 0) {
      left -= std::min(left, static_cast<unsigned>(taken));
    } else if (errno != EINTR && errno != EAGAIN && errno != EBUSY) {
      std::perror("penstock: io_uring_enter");
      std::abort();
    }
  } while (left > 0);
}

}  // namespace penstock::io
