#include "core/prefault.hpp"

#include <algorithm>
#include <utility>

namespace penstock {
namespace {

// Some 10 ms of zeroing: how long a stop may take, and a multiple of every huge page but the 1 GiB
// one, which is backed whole by the first step that touches it.
constexpr std::uint64_t kStepBytes = 32ULL * 1024 * 1024;

}  // namespace

Prefault::Prefault(std::shared_ptr<const Mapping> mapping, unsigned threads)
    : mapping_(std::move(mapping)) {
  threads_.reserve(threads);
  for (unsigned i = 0; i < threads; ++i) {
    threads_.emplace_back([this](const std::stop_token& stop) { run(stop); });
  }
}

Prefault::~Prefault() {
  for (auto& thread : threads_) thread.request_stop();  // all at once; their own destructors join
}

void Prefault::wait() {
  for (auto& thread : threads_) thread.join();
}

std::error_code Prefault::error() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

void Prefault::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    const std::uint64_t offset = next_.fetch_add(kStepBytes, std::memory_order_relaxed);
    if (offset >= mapping_->bytes()) return;
    const std::uint64_t step_bytes = std::min(kStepBytes, mapping_->bytes() - offset);
    if (const auto error = populate(mapping_->range(offset, step_bytes))) {
      next_.store(mapping_->bytes(), std::memory_order_relaxed);  // the others need not go on
      const std::lock_guard lock(mutex_);
      error_ = error;
      return;
    }
    done_.fetch_add(step_bytes, std::memory_order_relaxed);
  }
}

}  // namespace penstock
