// Jobs on their way in and out, between the thread that asks and those that work.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "io/job.hpp"

namespace penstock::io {

using Jobs = std::vector<std::unique_ptr<Job>>;
using Batches = std::vector<std::shared_ptr<Batch>>;

// field        guard    who reads it without, and why that is safe
// waiting_     mutex    -
// finished_    mutex    -           as is what a batch under way says
// asleep_      mutex    -
// stopping_    mutex    -
// workers_     mutex    -
// done_event_  -        all: a descriptor that lives as long as this; written and read whole
// work_event_  -        the same
//
// Its size is bounded by whoever adds. A job belongs to the queue or to one worker, a batch to its
// jobs, and at last to the caller.
class JobQueue {
 public:
  // Throws std::system_error when there is no eventfd to be had.
  JobQueue();
  ~JobQueue();
  JobQueue(const JobQueue&) = delete;
  JobQueue& operator=(const JobQueue&) = delete;
  JobQueue(JobQueue&&) = delete;
  JobQueue& operator=(JobQueue&&) = delete;

  // The caller's side.
  // All jobs that are left of it; none: it is over at once. Not after stop.
  void add(std::shared_ptr<Batch> batch, Jobs jobs);
  // The oldest first, until they have so many outcomes.
  [[nodiscard]] Batches take_finished(std::size_t outcomes_max);
  // No job is begun any more: those that wait come back as cancelled. Workers are woken.
  void stop();
  // Readable while a batch is over and was not taken. May ring for nothing, once.
  [[nodiscard]] int done_event() const noexcept { return done_event_; }
  // Whether every worker has retired, after at most so long. After stop.
  [[nodiscard]] bool retired(std::chrono::milliseconds within);

  // The workers' side: each enlists, works, and retires when it touches nothing any more. `take`
  // waits for a job; nullptr: stopping.
  void enlist();
  void retire();
  [[nodiscard]] std::unique_ptr<Job> take();
  // As many as wait, up to `count_max`, and none when stopping. Where there is none, the next
  // `add` or `stop` will ring work_event.
  [[nodiscard]] Jobs take_some(std::size_t count_max);
  [[nodiscard]] bool stopping();
  void finish(Jobs jobs);
  [[nodiscard]] int work_event() const noexcept { return work_event_; }

 private:
  // Under the lock.
  void finish_one(Job& job);
  void over(std::shared_ptr<Batch> batch);

  std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable retired_;
  std::deque<std::unique_ptr<Job>> waiting_;
  std::deque<std::shared_ptr<Batch>> finished_;
  bool asleep_ = false;  // whoever uses take_some waits for work_event_
  bool stopping_ = false;
  unsigned workers_ = 0;
  int done_event_;
  int work_event_;
};

}  // namespace penstock::io
