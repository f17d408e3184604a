// One operation of the system, as data: what a job asks for and a driver carries out.
#pragma once

#include <sys/stat.h>
#include <sys/uio.h>

#include <cstdint>

namespace penstock::io {

enum class Op : std::uint8_t {
  open,         // `path` below directory `fd`, with `flags`; its result is the descriptor
  create,       // the same of a file that is not there
  read,         // `vectors` from `offset` of `fd`; its result is bytes
  write,        // `vectors` to `offset` of `fd`; its result is bytes
  allocate,     // `bytes` of `fd` from its start
  truncate,     // `fd` to `bytes`
  sync_data,    // what is needed to read `fd` again
  sync_all,     // `fd`, a directory, say
  rename,       // `path` to `target`, both below `fd`
  make_folder,  // `path` below `fd`
  remove,       // the file `path` below `fd`
  measure,      // size of the open file `fd`; never goes to a disk
  look,         // at the file `path` below `fd`, into `status`
  close,        // `fd`
};

// What it points to belongs to the job, and stays until the step has its result.
struct Step {
  Op op = Op::close;
  int fd = -1;
  int flags = 0;
  const char* path = nullptr;
  const char* target = nullptr;
  const iovec* vectors = nullptr;
  unsigned count = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  struct statx* status = nullptr;
};

// Permissions of a new file: its owner's alone, since it holds what users said.
inline constexpr unsigned kFileMode = 0600;
inline constexpr unsigned kFolderMode = 0700;

// Carries a step out on the calling thread and waits for it. The result, or -errno; never -EINTR.
[[nodiscard]] std::int64_t perform(const Step& step) noexcept;

}  // namespace penstock::io
