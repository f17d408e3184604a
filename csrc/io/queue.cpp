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

void JobQueue::add(std::shared_ptr<Batch> batch, Jobs jobs) {
  const bool is_one = jobs.size() == 1;
  bool was_asleep = false;
  {
    const std::lock_guard lock(mutex_);
    assert(!stopping_);
    if (jobs.empty()) return over(std::move(batch));
    std::move(jobs.begin(), jobs.end(), std::back_inserter(waiting_));
    was_asleep = std::exchange(asleep_, false);
  }
  is_one ? work_.notify_one() : work_.notify_all();
  if (was_asleep) ring(work_event_);
}

Batches JobQueue::take_finished(std::size_t outcomes_max) {
  Batches taken;
  const std::lock_guard lock(mutex_);
  for (std::size_t outcomes = 0; !finished_.empty() && outcomes < outcomes_max;
       finished_.pop_front()) {
    outcomes += finished_.front()->outcomes.size();
    taken.push_back(std::move(finished_.front()));
  }
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
    for (std::unique_ptr<Job>& job : std::exchange(waiting_, {})) finish_one(*job);
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
  for (; !waiting_.empty() && taken.size() < count_max; waiting_.pop_front()) {
    taken.push_back(std::move(waiting_.front()));
  }
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
  for (std::unique_ptr<Job>& job : jobs) finish_one(*job);
}

void JobQueue::finish_one(Job& job) {
  // Let go of under the lock: the last one to hold a batch is who takes it.
  const std::shared_ptr<Batch> batch = std::move(job.batch);
  batch->outcomes[job.place] = job.outcome();
  if (--batch->left == 0) over(batch);
}

void JobQueue::over(std::shared_ptr<Batch> batch) {
  if (finished_.empty()) ring(done_event_);
  finished_.push_back(std::move(batch));
}

}  // namespace penstock::io
