#include "io/write_file.hpp"

#include <fcntl.h>

#include <cerrno>
#include <utility>

namespace penstock::io {
namespace {

// Of "a/b/c": ".", "a", "a/b".
std::vector<std::string> folders_of(const std::string& name) {
  std::vector<std::string> folders{"."};
  for (std::size_t at = name.find('/'); at != std::string::npos; at = name.find('/', at + 1)) {
    folders.push_back(name.substr(0, at));
  }
  return folders;
}

std::uint64_t direct_bytes(const WriteFileJob::Request& request) {
  return request.caching == Caching::direct ? request.bytes : 0;
}

}  // namespace

WriteFileJob::WriteFileJob(Request request)
    : request_(std::move(request)),
      blocks_(request_.vectors, direct_bytes(request_)),
      transfer_(request_.caching == Caching::direct ? blocks_.vectors
                                                    : first_bytes(request_.vectors, request_.bytes),
                0),
      folders_(folders_of(request_.name)) {}

const Step* WriteFileJob::begin() {
  const int direct = request_.caching == Caching::direct ? O_DIRECT : 0;
  return ask({.op = Op::create,
              .fd = request_.directory,
              .flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | direct,
              .path = request_.temporary.c_str()});
}

const Step* WriteFileJob::proceed(std::int64_t result) {
  switch (step_.op) {
    case Op::open:  // of a folder
      if (result < 0) return fail(result);
      fd_ = static_cast<int>(result);
      return ask({.op = Op::sync_all, .fd = fd_});
    case Op::create:
      if (result < 0) return over(result);
      fd_ = static_cast<int>(result);
      if (transfer_.done()) return shape();
      // Room is taken before a byte is written: a full disk is known early, the file lies in one
      // piece, and its size does not move under writes.
      return ask({.op = Op::allocate, .fd = fd_, .bytes = request_.bytes});
    case Op::allocate:
      // A filesystem that cannot is as good, only slower.
      if (result < 0 && result != -EOPNOTSUPP && result != -ENOSYS) return fail(result);
      return write_on();
    case Op::write:
      return written(result);
    case Op::rename:
      return renamed(result);
    case Op::make_folder:
      if (result < 0 && result != -EEXIST) return fail(result);
      return ++made_ < folders_.size() ? make_folder() : rename();
    case Op::truncate:
    case Op::sync_data:
    case Op::sync_all:
      if (result < 0) return fail(result);
      if (step_.op == Op::truncate && request_.durability == Durability::fdatasync) {
        return ask({.op = Op::sync_data, .fd = fd_});
      }
      return close();
    case Op::close:
      return closed(result);
    default:  // removed, as well as it could be
      return over(error_);
  }
}

const Step* WriteFileJob::written(std::int64_t result) {
  if (result < 0) return fail(result);
  auto bytes = static_cast<std::uint64_t>(result);
  // Direct transfers go on at a block: what was written of one is written again.
  if (request_.caching == Caching::direct) bytes -= bytes % kBlockBytes;
  if (bytes == 0) return fail(-EIO);
  transfer_.advance(bytes);
  return transfer_.done() ? shape() : write_on();
}

const Step* WriteFileJob::write_on() {
  step_ = {.op = Op::write, .fd = fd_};
  transfer_.ask(step_);
  return &step_;
}

const Step* WriteFileJob::shape() {
  if (blocks_.tail) return ask({.op = Op::truncate, .fd = fd_, .bytes = request_.bytes});
  if (request_.durability == Durability::fdatasync) return ask({.op = Op::sync_data, .fd = fd_});
  return close();
}

const Step* WriteFileJob::close() {
  const int fd = std::exchange(fd_, -1);
  return ask({.op = Op::close, .fd = fd});
}

const Step* WriteFileJob::closed(std::int64_t result) {
  if (error_ == 0 && result < 0) error_ = result;
  if (error_ != 0) return remove(renamed_ ? request_.name : request_.temporary);
  return renamed_ ? sync_next() : rename();
}

const Step* WriteFileJob::rename() {
  return ask({.op = Op::rename,
              .fd = request_.directory,
              .path = request_.temporary.c_str(),
              .target = request_.name.c_str()});
}

const Step* WriteFileJob::renamed(std::int64_t result) {
  if (result == -ENOENT && made_ == 0 && folders_.size() > 1) {
    made_ = 1;  // the directory itself is there
    return make_folder();
  }
  if (result < 0) return fail(result);
  renamed_ = true;
  if (request_.durability == Durability::none) return over(std::int64_t(request_.bytes));
  // The folder that has the name now, and those that may have got new folders.
  unsynced_ = made_ == 0 ? 1 : folders_.size();
  return sync_next();
}

const Step* WriteFileJob::make_folder() {
  return ask({.op = Op::make_folder, .fd = request_.directory, .path = folders_[made_].c_str()});
}

const Step* WriteFileJob::sync_next() {
  if (unsynced_ == 0) return over(std::int64_t(request_.bytes));
  const std::string& folder = folders_[folders_.size() - unsynced_];
  --unsynced_;
  return ask({.op = Op::open,
              .fd = request_.directory,
              .flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
              .path = folder.c_str()});
}

const Step* WriteFileJob::fail(std::int64_t error) {
  error_ = error;
  return fd_ >= 0 ? close() : remove(renamed_ ? request_.name : request_.temporary);
}

const Step* WriteFileJob::remove(const std::string& name) {
  return ask({.op = Op::remove, .fd = request_.directory, .path = name.c_str()});
}

}  // namespace penstock::io
