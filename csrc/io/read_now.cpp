#include "io/read_now.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "io/transfer.hpp"

namespace penstock::io {
namespace {

// Closing what was only read waits for nobody.
class Opened {
 public:
  explicit Opened(int fd) noexcept : fd_(fd) {}
  ~Opened() { close(fd_); }
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
  Opened(Opened&&) = delete;
  Opened& operator=(Opened&&) = delete;

  [[nodiscard]] int fd() const noexcept { return fd_; }

 private:
  int fd_;
};

// -1 with EAGAIN when the name or the inode is not cached.
int open_cached(int directory, const char* name) noexcept {
  open_how how{};
  how.flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW;
  how.resolve = RESOLVE_CACHED;
  return static_cast<int>(syscall(SYS_openat2, directory, name, &how, sizeof how));
}

// tmpfs knows no RWF_NOWAIT, and has no disk.
bool is_memory(int fd) noexcept {
  struct statfs status{};
  return fstatfs(fd, &status) == 0 && status.f_type == TMPFS_MAGIC;
}

ssize_t read_cached(int fd, const std::vector<iovec>& vectors) noexcept {
  const auto count = static_cast<int>(vectors.size());
  const ssize_t bytes = preadv2(fd, vectors.data(), count, 0, RWF_NOWAIT);
  if (bytes >= 0 || errno != EOPNOTSUPP) return bytes;
  if (is_memory(fd)) return preadv(fd, vectors.data(), count, 0);
  errno = EAGAIN;
  return -1;
}

}  // namespace

std::int64_t read_file_now(int directory, const std::string& name,
                           const std::vector<iovec>& vectors) {
  const int fd = open_cached(directory, name.c_str());
  if (fd < 0) return errno == ENOSYS ? -EAGAIN : -std::int64_t{errno};
  const Opened file(fd);
  struct stat status{};
  if (fstat(fd, &status) != 0) return -std::int64_t{errno};
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > bytes_of(vectors)) return -EFBIG;
  const ssize_t bytes = read_cached(fd, first_bytes(vectors, size));
  if (bytes < 0) return -std::int64_t{errno};
  return static_cast<std::uint64_t>(bytes) == size ? bytes : -EAGAIN;
}

}  // namespace penstock::io
