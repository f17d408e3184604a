#include "io/engine.hpp"

#include <unistd.h>

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

std::uint64_t Engine::submit(std::unique_ptr<Job> job, Keep keep) {
  if (stopped_) throw EngineClosed("the I/O engine is closed");
  if (jobs_ == jobs_max_) {
    throw EngineFull("the I/O engine has jobs_max = " + std::to_string(jobs_max_) +
                     " jobs under way and waiting: ask for less at a time, or raise it");
  }
  const std::uint64_t id = next_id_++;
  job->id = id;
  job->keep = std::move(keep);
  shared_->queue.add(std::move(job));
  ++jobs_;
  return id;
}

std::vector<Completion> Engine::completed(std::size_t count_max) {
  const Jobs jobs = shared_->queue.take_finished(count_max);
  std::vector<Completion> told;
  told.reserve(jobs.size());
  for (const std::unique_ptr<Job>& job : jobs) told.push_back({job->id, job->outcome()});
  jobs_ -= jobs.size();
  return told;
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
