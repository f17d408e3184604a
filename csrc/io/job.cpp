#include "io/job.hpp"

#include <fcntl.h>

#include <cerrno>
#include <utility>

namespace penstock::io {

CallJob::CallJob(Op op, int fd, std::string path) : path_(std::move(path)) {
  step_ = {.op = op, .fd = fd, .path = path_.c_str()};
}

const Step* CallJob::begin() {
  return &step_;
}

const Step* CallJob::proceed(std::int64_t result) {
  return over(result);
}

LookJob::LookJob(int directory, std::string path) : path_(std::move(path)) {
  step_ = {.op = Op::look, .fd = directory, .path = path_.c_str(), .status = &status_};
}

const Step* LookJob::begin() {
  return &step_;
}

const Step* LookJob::proceed(std::int64_t result) {
  return over(result < 0 ? result : static_cast<std::int64_t>(status_.stx_size));
}

TransferJob::TransferJob(Op op, int fd, std::uint64_t offset, std::vector<iovec> vectors)
    : transfer_(std::move(vectors), offset) {
  step_ = {.op = op, .fd = fd};
}

const Step* TransferJob::begin() {
  if (transfer_.done()) return over(0);
  transfer_.ask(step_);
  return &step_;
}

const Step* TransferJob::proceed(std::int64_t result) {
  if (result < 0) return over(result);
  const auto bytes = static_cast<std::uint64_t>(result);
  transfer_.advance(bytes);
  // 1. All of it: done.  2. Nothing written: there is no such answer of a healthy file.
  // 3. A read that ends inside a block met the end of the file.  4. Cut short: the rest.
  if (!transfer_.done()) {
    if (step_.op == Op::write && bytes == 0) return over(-EIO);
    const bool ended = bytes == 0 || (bytes < step_.bytes && bytes % kBlockBytes != 0);
    if (step_.op == Op::write || !ended) return begin();
  }
  return over(static_cast<std::int64_t>(transfer_.moved()));
}

ReadFileJob::ReadFileJob(Request request) : request_(std::move(request)), transfer_({}, 0) {}

const Step* ReadFileJob::begin() {
  const int direct = request_.caching == Caching::direct ? O_DIRECT : 0;
  step_ = {.op = Op::open,
           .fd = request_.directory,
           .flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | direct,
           .path = request_.name.c_str()};
  return &step_;
}

const Step* ReadFileJob::proceed(std::int64_t result) {
  switch (step_.op) {
    case Op::open:
      if (result < 0) return over(result);
      step_ = {.op = Op::measure, .fd = static_cast<int>(result)};
      return &step_;
    case Op::measure:
      return result < 0 ? close(result) : measured(static_cast<std::uint64_t>(result));
    case Op::read:
      if (result < 0) return close(result);
      transfer_.advance(static_cast<std::uint64_t>(result));
      // Cut off under our hands: what was read is all there is.
      return result == 0 ? close(static_cast<std::int64_t>(transfer_.moved())) : read_or_close();
    default:
      return over(result_);
  }
}

const Step* ReadFileJob::measured(std::uint64_t size) {
  if (size > bytes_of(request_.vectors)) return close(-EFBIG);
  size_ = size;
  // No more is asked for than there is: direct reads may clear what they are given beyond the end.
  const std::uint64_t padding = (kBlockBytes - size % kBlockBytes) % kBlockBytes;
  const std::uint64_t asked = request_.caching == Caching::direct ? size + padding : size;
  transfer_ = Transfer(first_bytes(request_.vectors, asked), 0);
  return read_or_close();
}

const Step* ReadFileJob::read_or_close() {
  if (transfer_.moved() >= size_) return close(static_cast<std::int64_t>(transfer_.moved()));
  step_.op = Op::read;
  transfer_.ask(step_);
  return &step_;
}

const Step* ReadFileJob::close(std::int64_t outcome) {
  result_ = outcome;
  step_ = {.op = Op::close, .fd = step_.fd};
  return &step_;
}

}  // namespace penstock::io
