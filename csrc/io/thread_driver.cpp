#include <csignal>
#include <deque>
#include <utility>

#include "io/driver.hpp"

namespace penstock::io {

QuietThread::SignalsBlocked::SignalsBlocked() noexcept {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before_);
}

QuietThread::SignalsBlocked::~SignalsBlocked() {
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

namespace {

class ThreadDriver final : public Driver {
 public:
  ThreadDriver(JobQueue& queue, unsigned threads) {
    try {
      for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([&queue] { work(queue); });
    } catch (...) {
      queue.stop();
      join();
      throw;
    }
  }

  void join() noexcept override {
    for (QuietThread& thread : threads_) thread.join();
  }

  void detach() noexcept override {
    for (QuietThread& thread : threads_) thread.detach();
  }

 private:
  static void work(JobQueue& queue) {
    queue.enlist();
    while (std::unique_ptr<Job> job = queue.take()) {
      for (const Step* step = job->begin(); step != nullptr;) {
        const bool gone = given_up(*step) && queue.stopping();
        step = job->proceed(gone ? -ECANCELED : perform(*step));
      }
      Jobs finished;
      finished.push_back(std::move(job));
      queue.finish(std::move(finished));
    }
    queue.retire();
  }

  std::deque<QuietThread> threads_;
};

}  // namespace

std::unique_ptr<Driver> drive_by_threads(JobQueue& queue, unsigned threads) {
  return std::make_unique<ThreadDriver>(queue, threads);
}

}  // namespace penstock::io
