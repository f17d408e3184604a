#include "copy/pool.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

namespace penstock {

struct ThreadPool::Shared {
  const pid_t owner = ::getpid();
  std::mutex turn;  // held by a caller for the whole of its run; taken before `mutex`

  std::mutex mutex;
  std::condition_variable work;
  std::condition_variable done;
  const std::function<void(std::size_t)>* job = nullptr;
  std::size_t count = 0;         // of indices, written only while busy == 0
  std::uint64_t generation = 0;  // raised with every job
  std::size_t seats = 0;         // how many more threads may join this job
  std::size_t busy = 0;          // how many have joined and not left
  bool stopping = false;
  std::atomic<std::size_t> next{0};

  std::vector<std::thread> threads;

  void take_indices(const std::function<void(std::size_t)>& body, std::size_t end) {
    for (std::size_t i = next.fetch_add(1, std::memory_order_relaxed); i < end;
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      body(i);
    }
  }

  void work_until_stopped() {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex);
    for (;;) {
      work.wait(lock, [&] { return stopping || (generation != seen && seats > 0); });
      if (stopping) {
        return;
      }
      seen = generation;
      --seats;
      ++busy;
      const auto* body = job;
      const std::size_t end = count;
      lock.unlock();
      take_indices(*body, end);
      lock.lock();
      if (--busy == 0) {
        done.notify_one();
      }
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    work.notify_all();
    for (std::thread& thread : threads) {
      thread.join();
    }
  }
};

ThreadPool::ThreadPool(std::size_t threads) {
  if (threads == 0) {
    throw std::invalid_argument("a pool has at least one thread, the caller's");
  }
  shared_ = std::make_unique<Shared>();
  shared_->threads.reserve(threads - 1);
  try {
    for (std::size_t i = 1; i < threads; ++i) {
      shared_->threads.emplace_back([shared = shared_.get()] { shared->work_until_stopped(); });
    }
  } catch (...) {
    shared_->stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (usable()) {
    shared_->stop();
  } else {
    // The threads, and whoever holds the locks, stayed behind in the parent. Joining or destroying
    // any of it would wait for them for ever, so the child gives up these few bytes.
    [[maybe_unused]] const Shared* given_up = shared_.release();
  }
}

std::size_t ThreadPool::threads() const noexcept {
  return shared_->threads.size() + 1;
}

bool ThreadPool::usable() const noexcept {
  return shared_->owner == ::getpid();
}

void ThreadPool::run(std::size_t count, std::size_t threads_max,
                     const std::function<void(std::size_t)>& body) {
  assert(usable());
  const std::lock_guard turn(shared_->turn);
  const std::size_t useful = std::min({threads_max, count, threads()});
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->next.store(0, std::memory_order_relaxed);
    shared_->count = count;
    shared_->job = &body;
    shared_->seats = useful > 1 ? useful - 1 : 0;
    ++shared_->generation;
  }
  for (std::size_t i = 1; i < useful; ++i) {
    shared_->work.notify_one();
  }
  shared_->take_indices(body, count);
  std::unique_lock lock(shared_->mutex);
  // All indices are handed out: whoever has not joined yet would find nothing to do.
  shared_->seats = 0;
  shared_->done.wait(lock, [&] { return shared_->busy == 0; });
}

}  // namespace penstock
