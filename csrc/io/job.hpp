// What may be asked of the engine: each job a small state machine over steps, the same for every
// driver.
#pragma once

#include <sys/uio.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "io/step.hpp"
#include "io/transfer.hpp"

namespace penstock::io {

// Whatever must live until the last job of a batch is over: buffers, leases. Set and dropped on the
// caller's thread.
using Keep = std::shared_ptr<const void>;

// What is asked for together, and told of together: one outcome per job, bytes or -errno.
struct Batch {
  std::uint64_t id = 0;
  std::vector<std::int64_t> outcomes;
  std::size_t begun = 0;  // its first so many jobs were taken on
  std::size_t left = 0;   // and so many of them are not over
  Keep keep;
};

class Job {
 public:
  Job() = default;
  virtual ~Job() = default;
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  Job(Job&&) = delete;
  Job& operator=(Job&&) = delete;

  // The first step, and the one after `result` (or -errno) of the last; nullptr: over.
  [[nodiscard]] virtual const Step* begin() = 0;
  [[nodiscard]] virtual const Step* proceed(std::int64_t result) = 0;

  // Of a job that is over: bytes, or -errno. Of one that was never begun: -ECANCELED.
  [[nodiscard]] std::int64_t outcome() const noexcept { return outcome_; }

  // Whose it is, and its place there. Dropped by the queue, so that a batch dies on the caller's
  // thread.
  std::shared_ptr<Batch> batch;
  std::size_t place = 0;

 protected:
  const Step* over(std::int64_t outcome) noexcept {
    outcome_ = outcome;
    return nullptr;
  }

  Step step_;

 private:
  std::int64_t outcome_ = -ECANCELED;
};

// One call: a sync, a removal. Its outcome is the call's.
class CallJob final : public Job {
 public:
  CallJob(Op op, int fd, std::string path = {});
  [[nodiscard]] const Step* begin() override;
  [[nodiscard]] const Step* proceed(std::int64_t result) override;

 private:
  std::string path_;
};

// Its outcome is the size of the file `path`.
class LookJob final : public Job {
 public:
  LookJob(int directory, std::string path);
  [[nodiscard]] const Step* begin() override;
  [[nodiscard]] const Step* proceed(std::int64_t result) override;

 private:
  std::string path_;
  struct statx status_{};
};

// Reads or writes an open file. A read ends early at the end of the file, and then says how far it
// came; a write is whole, or failed.
class TransferJob final : public Job {
 public:
  TransferJob(Op op, int fd, std::uint64_t offset, std::vector<iovec> vectors);
  [[nodiscard]] const Step* begin() override;
  [[nodiscard]] const Step* proceed(std::int64_t result) override;

 private:
  Transfer transfer_;
};

enum class Caching : std::uint8_t { buffered, direct };
enum class Durability : std::uint8_t { none, fdatasync };

// open -> measure -> read... -> close. A file larger than the buffers is -EFBIG before a byte of
// it is read.
class ReadFileJob final : public Job {
 public:
  struct Request {
    int directory = -1;
    std::string name;
    std::vector<iovec> vectors;
    Caching caching = Caching::buffered;
  };

  explicit ReadFileJob(Request request);
  [[nodiscard]] const Step* begin() override;
  [[nodiscard]] const Step* proceed(std::int64_t result) override;

 private:
  const Step* measured(std::uint64_t size);
  const Step* read_or_close();
  const Step* close(std::int64_t outcome);

  Request request_;
  std::uint64_t size_ = 0;
  Transfer transfer_;
  std::int64_t result_ = 0;
};

}  // namespace penstock::io
