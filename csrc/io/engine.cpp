#include "io/engine.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <utility>

namespace penstock::io {
namespace {

constexpr unsigned kDepthMax = 4096;
constexpr unsigned kThreadsMax = 256;
constexpr std::chrono::milliseconds kEndWithin{1000};

void check(const EngineOptions& options) {
  if (options.depth == 0 || options.depth > kDepthMax) {
    throw std::invalid_argument("depth must be 1 to 4096, not " + std::to_string(options.depth));
  }
  if (options.threads == 0 || options.threads > kThreadsMax) {
    throw std::invalid_argument("threads must be 1 to 256, not " + std::to_string(options.threads));
  }
  if (options.jobs_max < options.depth) {
    throw std::invalid_argument("jobs_max must be at least depth, " +
                                std::to_string(options.depth) + ", not " +
                                std::to_string(options.jobs_max));
  }
}

}  // namespace

struct Engine::Shared {
  const pid_t owner = getpid();
  JobQueue queue;
  std::unique_ptr<Driver> driver;
};

Engine::Engine(const EngineOptions& options) : jobs_max_(options.jobs_max) {
  check(options);
  shared_ = std::make_unique<Shared>();
  choose(options);
}

void Engine::choose(const EngineOptions& options) {
  if (options.backend != Backend::threads) {
    try {
      shared_->driver = drive_by_ring(shared_->queue, options.depth);
      backend_ = Backend::io_uring;
      return;
    } catch (const std::system_error& refusal) {
      if (options.backend == Backend::io_uring) throw;
      backend_reason_ = std::string("io_uring is refused here: ") + refusal.what();
    }
  }
  shared_->driver = drive_by_threads(shared_->queue, options.threads);
  backend_ = Backend::threads;
}

Engine::~Engine() {
  // To join threads that stayed behind in the parent, or that a dead disk holds, would be to wait
  // for ever. What they work on is never freed, and so neither is what their jobs keep.
  const bool forked = shared_ && shared_->owner != getpid();
  if (shared_ && !forked) {
    stop();
    if (shared_->queue.retired(kEndWithin)) {
      close();
      return;
    }
    shared_->driver->detach();
  }
  [[maybe_unused]] const Shared* given_up = shared_.release();
}

int Engine::event_fd() const noexcept {
  return shared_->queue.done_event();
}

std::uint64_t Engine::submit(Jobs jobs, Keep keep) {
  if (stopped_) throw EngineClosed("the I/O engine is closed");
  const std::size_t begun = std::min(jobs.size(), jobs_max_ - jobs_);
  auto batch = std::make_shared<Batch>(Batch{
      .id = next_id_++, .outcomes = {}, .begun = begun, .left = begun, .keep = std::move(keep)});
  batch->outcomes.resize(jobs.size(), kTooMany);
  jobs.resize(begun);
  for (std::size_t place = 0; place < begun; ++place) {
    jobs[place]->batch = batch;
    jobs[place]->place = place;
  }
  jobs_ += begun;
  const std::uint64_t id = batch->id;
  shared_->queue.add(std::move(batch), std::move(jobs));
  return id;
}

Batches Engine::completed(std::size_t outcomes_max) {
  Batches over = shared_->queue.take_finished(outcomes_max);
  for (const std::shared_ptr<Batch>& one : over) jobs_ -= one->begun;
  return over;
}

void Engine::stop() {
  if (std::exchange(stopped_, true)) return;
  shared_->queue.stop();
}

void Engine::close() {
  stop();
  shared_->driver->join();
}

}  // namespace penstock::io
