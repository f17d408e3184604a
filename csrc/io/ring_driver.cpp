#include <fcntl.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <utility>
#include <vector>

#include "io/driver.hpp"
#include "io/ring.hpp"

namespace penstock::io {
namespace {

constexpr std::uint64_t kWork = ~0ULL;        // the read of the queue's event
constexpr std::uint64_t kCancel = kWork - 1;  // a request to cancel; its result says nothing
constexpr std::uint8_t kOpNone = 0;           // to be carried out by the thread itself

// What changes a folder or takes room is carried out in place: the kernel would hand each such call
// to a thread of its own, where they queue for the lock of the same folder, at twice the work.
// Whoever must not wait for a journal meanwhile has an engine of his own.
std::uint8_t opcode_of(Op op) noexcept {
  switch (op) {
    case Op::open:
      return IORING_OP_OPENAT;
    case Op::read:
      return IORING_OP_READV;
    case Op::write:
      return IORING_OP_WRITEV;
    case Op::sync_data:
    case Op::sync_all:
      return IORING_OP_FSYNC;
    case Op::close:
      return IORING_OP_CLOSE;
    case Op::look:
      return IORING_OP_STATX;
    case Op::create:
    case Op::allocate:
    case Op::truncate:
    case Op::rename:
    case Op::make_folder:
    case Op::remove:
    case Op::measure:
      break;
  }
  return kOpNone;
}

std::uint64_t address(const void* memory) noexcept {
  return reinterpret_cast<std::uintptr_t>(memory);
}

void fill(io_uring_sqe& request, const Step& step) noexcept {
  request.opcode = opcode_of(step.op);
  request.fd = step.fd;
  switch (step.op) {
    case Op::open:
      request.addr = address(step.path);
      request.open_flags = static_cast<std::uint32_t>(step.flags);
      break;
    case Op::read:
    case Op::write:
      request.addr = address(step.vectors);
      request.len = step.count;
      request.off = step.offset;
      break;
    case Op::sync_data:
      request.fsync_flags = IORING_FSYNC_DATASYNC;
      break;
    case Op::look:
      request.addr = address(step.path);
      request.len = STATX_SIZE;
      request.off = address(step.status);
      request.statx_flags = AT_SYMLINK_NOFOLLOW;
      break;
    default:
      break;
  }
}

// One thread. Everything but the queue is its own, from its start to its end.
class RingDriver final : public Driver {
 public:
  RingDriver(JobQueue& queue, unsigned depth)
      : queue_(queue),
        ring_(depth + 1),  // and the read of the queue's event
        active_(depth),
        thread_([this] {
          queue_.enlist();
          work();
          queue_.retire();
        }) {}

  void join() noexcept override { thread_.join(); }

  void detach() noexcept override { thread_.detach(); }

 private:
  void work() {
    ring_.enable();
    prepare();
    await_work();
    for (;;) {
      const std::size_t room = free_.size();
      Jobs taken = queue_.take_some(room);
      for (std::unique_ptr<Job>& job : taken) begin(std::move(job));
      // What finished at once is told before anything is waited for.
      queue_.finish(std::exchange(finished_, {}));
      if (!stopping_ && queue_.stopping()) cancel_all();
      if (stopping_ && free_.size() == active_.size()) return;
      // All room was taken: others may wait, and nobody rings for those. What was carried out in
      // place has made room for them.
      const bool others_may_begin = taken.size() == room && !free_.empty();
      ring_.enter(others_may_begin ? 0 : 1);
      ring_.reap([this](std::uint64_t data, std::int32_t result) { completed(data, result); });
      queue_.finish(std::exchange(finished_, {}));
    }
  }

  void prepare() {
    for (std::size_t slot = active_.size(); slot-- > 0;) free_.push_back(slot);
    for (const Op op : kOps) {
      const std::uint8_t opcode = opcode_of(op);
      by_ring_[static_cast<std::size_t>(op)] = opcode != kOpNone && ring_.supports(opcode);
    }
  }

  void await_work() {
    io_uring_sqe* const request = ring_.request();
    request->opcode = IORING_OP_READ;
    request->fd = queue_.work_event();
    request->addr = address(&work_);
    request->len = sizeof work_;
    request->user_data = kWork;
  }

  void begin(std::unique_ptr<Job> job) {
    const std::size_t slot = free_.back();
    free_.pop_back();
    const Step* step = job->begin();
    active_[slot] = std::move(job);
    submit(slot, step);
  }

  void completed(std::uint64_t data, std::int32_t result) {
    if (data == kWork) {
      if (!stopping_) await_work();
    } else if (data != kCancel) {
      submit(data, active_[data]->proceed(result));
    }
  }

  void submit(std::size_t slot, const Step* step) {
    bool took_time = false;
    while (step != nullptr) {
      if (stopping_ && given_up(*step)) {
        step = active_[slot]->proceed(-ECANCELED);
      } else if (!by_ring_[static_cast<std::size_t>(step->op)]) {
        const bool is_short = step->op == Op::measure;
        step = active_[slot]->proceed(perform(*step));
        took_time = took_time || !is_short;
      } else {
        io_uring_sqe* const request = ring_.request();
        fill(*request, *step);
        request->user_data = slot;
        if (took_time) ring_.enter(0);  // a disk has work while the next one is prepared
        return;
      }
    }
    finished_.push_back(std::move(active_[slot]));
    free_.push_back(slot);
  }

  void cancel_all() {
    stopping_ = true;
    for (std::size_t slot = 0; slot < active_.size(); ++slot) {
      if (!active_[slot]) continue;
      io_uring_sqe* const request = ring_.request();
      request->opcode = IORING_OP_ASYNC_CANCEL;
      request->addr = slot;  // the user data of what is to be cancelled
      request->user_data = kCancel;
    }
  }

  static constexpr std::array kOps{Op::open,     Op::create,      Op::read,      Op::write,
                                   Op::allocate, Op::truncate,    Op::sync_data, Op::sync_all,
                                   Op::rename,   Op::make_folder, Op::remove,    Op::measure,
                                   Op::look,     Op::close};

  JobQueue& queue_;
  Ring ring_;
  std::array<bool, kOps.size()> by_ring_{};  // which steps the kernel takes
  std::vector<std::unique_ptr<Job>> active_;
  std::vector<std::size_t> free_;  // slots of active_
  Jobs finished_;
  std::uint64_t work_ = 0;  // what is read from the queue's event
  bool stopping_ = false;
  QuietThread thread_;  // last: it uses all of the above
};

}  // namespace

std::unique_ptr<Driver> drive_by_ring(JobQueue& queue, unsigned depth) {
  return std::make_unique<RingDriver>(queue, depth);
}

}  // namespace penstock::io
