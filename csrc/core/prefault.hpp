// Backing a mapping with memory before anybody waits for it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stop_token>
#include <system_error>
#include <thread>
#include <vector>

#include "core/mapping.hpp"

namespace penstock {

// Backs a mapping with memory from threads of its own, a step at a time; what is written meanwhile
// stays. Ends with the object: the threads are asked to stop and joined, which takes one step at
// most.
//
//   field        written by          read by   why that is safe
//   next_, done_ the threads         anyone    atomic counters
//   error_       a thread            anyone    under mutex_
class Prefault {
 public:
  // `threads` >= 1. Throws std::system_error when no thread can be had.
  Prefault(std::shared_ptr<const Mapping> mapping, unsigned threads);
  ~Prefault();
  Prefault(const Prefault&) = delete;
  Prefault& operator=(const Prefault&) = delete;
  Prefault(Prefault&&) = delete;
  Prefault& operator=(Prefault&&) = delete;

  // Returns when the whole mapping is backed, or when an error ended it. Once.
  void wait();
  [[nodiscard]] std::uint64_t bytes() const { return done_.load(std::memory_order_relaxed); }
  // What ended it before the mapping was whole; no error while it runs.
  [[nodiscard]] std::error_code error() const;

 private:
  void run(const std::stop_token& stop);

  std::shared_ptr<const Mapping> mapping_;
  std::atomic<std::uint64_t> next_ = 0;
  std::atomic<std::uint64_t> done_ = 0;
  mutable std::mutex mutex_;
  std::error_code error_;
  std::vector<std::jthread> threads_;  // the last member: joined before the others go
};

}  // namespace penstock
