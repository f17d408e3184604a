#include "io/queue.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <iterator>
#include <system_error>
#include <utility>

namespace penstock::io {
namespace {

int make_event(int flags) {
  const int event = eventfd(0, EFD_CLOEXEC | flags);
  if (event < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  return event;
}

void ring(int event) noexcept {
  // Fails only at 2^64 - 2 unread rings.
  static_cast<void>(eventfd_write(event, 1));
}

void move_some(std::deque<std::unique_ptr<Job>>& from, Jobs& to, std::size_t count_max) {
  for (; !from.empty() && to.size() < count_max; from.pop_front()) {
    to.push_back(std::move(from.front()));
  }
}

}  // namespace

JobQueue::JobQueue() : done_event_(make_event(EFD_NONBLOCK)), work_event_(-1) {
  try {
    work_event_ = make_event(0);
  } catch (...) {
    close(done_event_);
    throw;
  }
}

JobQueue::~JobQueue() {
  close(done_event_);
  close(work_event_);
}

void JobQueue::add(std::unique_ptr<Job> job) {
  bool was_asleep = false;
  {
    const std::lock_guard lock(mutex_);
    assert(!stopping_);
    waiting_.push_back(std::move(job));
    was_asleep = std::exchange(asleep_, false);
  }
  work_.notify_one();
  if (was_asleep) ring(work_event_);
}

Jobs JobQueue::take_finished(std::size_t count_max) {
  Jobs taken;
  const std::lock_guard lock(mutex_);
  move_some(finished_, taken, count_max);
  // Silenced under the lock, and so never after a later ring.
  eventfd_t count = 0;
  if (finished_.empty()) static_cast<void>(eventfd_read(done_event_, &count));
  return taken;
}

void JobQueue::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    asleep_ = false;
    if (!waiting_.empty()) ring(done_event_);
    std::move(waiting_.begin(), waiting_.end(), std::back_inserter(finished_));
    waiting_.clear();
  }
  work_.notify_all();
  ring(work_event_);
}

bool JobQueue::retired(std::chrono::milliseconds within) {
  std::unique_lock lock(mutex_);
  return retired_.wait_for(lock, within, [this] { return workers_ == 0; });
}

void JobQueue::enlist() {
  const std::lock_guard lock(mutex_);
  ++workers_;
}

void JobQueue::retire() {
  const std::lock_guard lock(mutex_);
  --workers_;
  retired_.notify_all();
}

std::unique_ptr<Job> JobQueue::take() {
  std::unique_lock lock(mutex_);
  work_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
  if (stopping_) return nullptr;
  std::unique_ptr<Job> job = std::move(waiting_.front());
  waiting_.pop_front();
  return job;
}

Jobs JobQueue::take_some(std::size_t count_max) {
  const std::lock_guard lock(mutex_);
  Jobs taken;
  move_some(waiting_, taken, count_max);
  asleep_ = waiting_.empty();
  return taken;
}

bool JobQueue::stopping() {
  const std::lock_guard lock(mutex_);
  return stopping_;
}

void JobQueue::finish(Jobs jobs) {
  if (jobs.empty()) return;
  const std::lock_guard lock(mutex_);
  if (finished_.empty()) ring(done_event_);
  std::move(jobs.begin(), jobs.end(), std::back_inserter(finished_));
}

}  // namespace penstock::io
