#include "io/step.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

namespace penstock::io {
namespace {

std::int64_t measured(int fd) noexcept {
  struct stat status{};
  if (fstat(fd, &status) != 0) return -1;
  return std::max<std::int64_t>(status.st_size, 0);
}

std::int64_t call(const Step& step) noexcept {
  const auto offset = static_cast<off_t>(step.offset);
  const auto bytes = static_cast<off_t>(step.bytes);
  const auto count = static_cast<int>(step.count);
  switch (step.op) {
    case Op::open:
    case Op::create:
      return openat(step.fd, step.path, step.flags, kFileMode);
    case Op::read:
      return preadv(step.fd, step.vectors, count, offset);
    case Op::write:
      return pwritev(step.fd, step.vectors, count, offset);
    case Op::allocate:
      return fallocate(step.fd, 0, 0, bytes);
    case Op::truncate:
      return ftruncate(step.fd, bytes);
    case Op::sync_data:
      return fdatasync(step.fd);
    case Op::sync_all:
      return fsync(step.fd);
    case Op::rename:
      return renameat(step.fd, step.path, step.fd, step.target);
    case Op::make_folder:
      return mkdirat(step.fd, step.path, kFolderMode);
    case Op::remove:
      return unlinkat(step.fd, step.path, 0);
    case Op::measure:
      return measured(step.fd);
    case Op::look:
      return statx(step.fd, step.path, AT_SYMLINK_NOFOLLOW, STATX_SIZE, step.status);
    case Op::close:
      return close(step.fd);
  }
  errno = ENOSYS;
  return -1;
}

}  // namespace

std::int64_t perform(const Step& step) noexcept {
  for (;;) {
    const std::int64_t result = call(step);
    if (result >= 0) return result;
    if (errno != EINTR) return -std::int64_t{errno};
    // An interrupted close has closed: a second one might close somebody else's descriptor.
    if (step.op == Op::close) return 0;
  }
}

}  // namespace penstock::io
