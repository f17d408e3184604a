// Reads and writes of files that nobody waits for in place.
#pragma once

#include <sys/types.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "io/driver.hpp"
#include "io/job.hpp"
#include "io/queue.hpp"

namespace penstock::io {

class EngineClosed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class Backend : std::uint8_t { automatic, io_uring, threads };

struct EngineOptions {
  unsigned depth = 64;       // jobs under way at a time, by io_uring; 1 to 4096
  unsigned threads = 4;      // and by threads; 1 to 256
  unsigned jobs_max = 4096;  // under way and waiting; at least depth
  Backend backend = Backend::automatic;
};

// The outcome of a job that is one too many.
inline constexpr std::int64_t kTooMany = -ENOBUFS;

// The caller's side belongs to one thread, the loop's; system calls are made by threads of the
// engine: one that drives io_uring, or several that block. A batch's Keep dies on the caller's
// thread, with what completed() returned, or with the engine.
//
// io_uring's thread also copies what the page cache has and pins what goes to the disk directly,
// both of which would hold a loop for milliseconds a large object. Pinning registered memory is
// cheaper, but registering an arena keeps all of it from ever moving, for a thousandth of the time
// a disk takes: not done (docs/STORES.md has the numbers).
class Engine {
 public:
  // Throws std::invalid_argument, and std::system_error when the backend asked for is refused.
  explicit Engine(const EngineOptions& options);
  // As close(), but what is under way is given up after a second, with all that its jobs keep: a
  // call into a dead disk may never end, and the process has to. In a forked child, which has none
  // of the threads, at once.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  Engine(Engine&&) = delete;
  Engine& operator=(Engine&&) = delete;

  // What is used, never automatic, and why it is not io_uring: empty when it is, or was not wanted.
  [[nodiscard]] Backend backend() const noexcept { return backend_; }
  [[nodiscard]] const std::string& backend_reason() const noexcept { return backend_reason_; }
  // Readable while completed() has something to say.
  [[nodiscard]] int event_fd() const noexcept;
  // Jobs of batches that completed() has not told of.
  [[nodiscard]] std::size_t jobs() const noexcept { return jobs_; }

  // The id of this batch, unique to this engine. Jobs beyond jobs_max are not begun: kTooMany.
  // Throws EngineClosed.
  std::uint64_t submit(Jobs jobs, Keep keep);
  // Batches that are over since the last call, until they have so many outcomes. Never waits.
  [[nodiscard]] Batches completed(std::size_t outcomes_max = SIZE_MAX);

  // Begins no more jobs, and cancels those under way as far as the system can: completed() tells
  // of each. Does not wait. Idempotent.
  void stop();
  // Stops, and waits until nothing is under way, which takes as long as the disk takes. What is
  // not yet told of remains for completed(). Idempotent.
  void close();

 private:
  struct Shared;
  void choose(const EngineOptions& options);

  std::unique_ptr<Shared> shared_;
  Backend backend_ = Backend::automatic;
  std::string backend_reason_;
  std::uint64_t next_id_ = 1;
  std::size_t jobs_ = 0;
  std::size_t jobs_max_;
  bool stopped_ = false;
};

}  // namespace penstock::io
