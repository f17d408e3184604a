// What the native tests of I/O share: a folder, memory with a pattern, and an engine to run jobs.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "check.hpp"
#include "io/engine.hpp"
#include "io/write_file.hpp"

namespace penstock::io {

using Bytes = std::vector<std::byte>;

inline Bytes pattern(std::size_t bytes, unsigned seed) {
  Bytes made(bytes);
  std::uint32_t state = seed * 2654435761U + 1;
  for (std::byte& one : made) {
    state = state * 1664525U + 1013904223U;
    one = std::byte(state >> 24);
  }
  return made;
}

// Memory as direct transfers want it.
class Blocks {
 public:
  explicit Blocks(std::size_t blocks)
      : blocks_(blocks),
        memory_(static_cast<std::byte*>(
                    std::aligned_alloc(kBlockBytes, std::max<std::size_t>(blocks, 1) * 4096)),
                &std::free) {
    fill(0);
  }
  void fill(int value) { std::memset(data(), value, std::max<std::size_t>(blocks_, 1) * 4096); }
  [[nodiscard]] std::byte* data() const { return memory_.get(); }
  [[nodiscard]] std::size_t size() const { return blocks_ * kBlockBytes; }
  [[nodiscard]] std::size_t blocks() const { return blocks_; }

 private:
  std::size_t blocks_;
  std::unique_ptr<std::byte, decltype(&std::free)> memory_;
};

template <typename Memory>
std::vector<iovec> vectors(const std::vector<Memory*>& memory) {
  std::vector<iovec> made;
  for (Memory* one : memory) made.push_back({one->data(), one->size()});
  return made;
}
inline std::vector<iovec> vectors(std::initializer_list<Blocks*> memory) {
  return vectors(std::vector<Blocks*>(memory));
}

inline std::vector<Bytes*> pointers(std::vector<Bytes>& memory) {
  std::vector<Bytes*> made;
  for (Bytes& one : memory) made.push_back(&one);
  return made;
}

// A new folder on the disk of the build, removed at the end.
class Folder {
 public:
  Folder() {
    std::string made = (std::filesystem::current_path() / "penstock-io-XXXXXX").string();
    if (mkdtemp(made.data()) == nullptr) {
      throw std::system_error(errno, std::generic_category(), made);
    }
    path_ = made;
    fd_ = ::open(made.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  }
  ~Folder() {
    ::close(fd_);
    std::filesystem::remove_all(path_);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  Folder(Folder&&) = delete;
  Folder& operator=(Folder&&) = delete;

  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] int open(const std::string& name, int flags) const {
    return openat(fd_, name.c_str(), flags | O_CLOEXEC, 0600);
  }
  [[nodiscard]] std::int64_t size(const std::string& name) const {
    return static_cast<std::int64_t>(std::filesystem::file_size(path_ / name));
  }
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& one : std::filesystem::directory_iterator(path_)) {
      found.push_back(one.path().filename());
    }
    return found;
  }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

template <typename Memory>
WriteFileJob::Request file_request(const Folder& folder, const std::string& name,
                                   std::vector<Memory*> memory, Caching caching) {
  WriteFileJob::Request request{.directory = folder.fd(),
                                .temporary = name + ".aside",
                                .name = name,
                                .vectors = vectors(memory),
                                .caching = caching};
  request.bytes = bytes_of(request.vectors);
  return request;
}

inline std::unique_ptr<Job> writing_file(const Folder& folder, const std::string& name,
                                         std::vector<Bytes*> memory, Caching caching) {
  return std::make_unique<WriteFileJob>(file_request(folder, name, std::move(memory), caching));
}
inline std::unique_ptr<Job> writing_file(const Folder& folder, const std::string& name,
                                         std::vector<Blocks*> memory, Caching caching,
                                         std::uint64_t bytes) {
  auto request = file_request(folder, name, std::move(memory), caching);
  request.bytes = bytes;
  return std::make_unique<WriteFileJob>(std::move(request));
}

template <typename Memory>
std::unique_ptr<Job> read_job(const Folder& folder, const std::string& name,
                              std::vector<Memory*> memory, Caching caching) {
  return std::make_unique<ReadFileJob>(ReadFileJob::Request{
      .directory = folder.fd(), .name = name, .vectors = vectors(memory), .caching = caching});
}
inline std::unique_ptr<Job> reading_file(const Folder& folder, const std::string& name,
                                         std::vector<Bytes*> memory, Caching caching) {
  return read_job(folder, name, std::move(memory), caching);
}
inline std::unique_ptr<Job> reading_file(const Folder& folder, const std::string& name,
                                         std::vector<Blocks*> memory, Caching caching) {
  return read_job(folder, name, std::move(memory), caching);
}

inline std::unique_ptr<Job> reading(int fd, std::uint64_t offset, std::vector<Bytes*> memory) {
  return std::make_unique<TransferJob>(Op::read, fd, offset, vectors(memory));
}
inline std::unique_ptr<Job> writing(int fd, std::uint64_t offset, std::vector<Bytes*> memory) {
  return std::make_unique<TransferJob>(Op::write, fd, offset, vectors(memory));
}

// A batch of one.
inline Jobs only(std::unique_ptr<Job> job) {
  Jobs jobs;
  jobs.push_back(std::move(job));
  return jobs;
}

// A named pipe, reading from which waits as a slow disk makes one wait. io_uring waits for a pipe's
// bytes, a thread already for its other end: it may not read a pipe at an offset.
class SlowDisk {
 public:
  explicit SlowDisk(const Folder& folder) : folder_(folder) {
    CHECK_EQ(mkfifoat(folder.fd(), "pipe", 0600), 0);
  }
  ~SlowDisk() {
    if (fd_ >= 0) ::close(fd_);
  }
  SlowDisk(const SlowDisk&) = delete;
  SlowDisk& operator=(const SlowDisk&) = delete;
  SlowDisk(SlowDisk&&) = delete;
  SlowDisk& operator=(SlowDisk&&) = delete;

  std::unique_ptr<Job> reading(Backend backend, Bytes& target) {
    if (backend == Backend::threads) {
      return reading_file(folder_, "pipe", {&target}, Caching::buffered);
    }
    fd_ = folder_.open("pipe", O_RDWR);
    return io::reading(fd_, 0, {&target});
  }
  void answer() {
    if (fd_ < 0) fd_ = folder_.open("pipe", O_RDWR);
    CHECK_EQ(write(fd_, "late", 4), 4);
  }

 private:
  const Folder& folder_;
  int fd_ = -1;
};

// An engine and a loop around it.
class Machine {
 public:
  explicit Machine(Backend backend, EngineOptions options = {.depth = 8, .threads = 3})
      : engine_(with(options, backend)) {}

  [[nodiscard]] Engine& engine() { return engine_; }

  // Whether something finished within ten seconds.
  [[nodiscard]] bool wait() const {
    pollfd polled{engine_.event_fd(), POLLIN, 0};
    return poll(&polled, 1, 10'000) == 1;
  }

  std::int64_t run(std::unique_ptr<Job> job) { return run_all(only(std::move(job))).front(); }

  std::vector<std::int64_t> run_all(Jobs jobs) {
    const std::uint64_t batch = engine_.submit(std::move(jobs), nullptr);
    Batches over;
    while (over.empty()) {
      CHECK(wait());
      over = engine_.completed();
    }
    CHECK_EQ(over.size(), 1U);
    CHECK_EQ(over[0]->id, batch);
    return over[0]->outcomes;
  }

 private:
  static EngineOptions with(EngineOptions options, Backend backend) {
    options.backend = backend;
    return options;
  }

  Engine engine_;
};

inline bool ring_works() {
  try {
    return Engine({.backend = Backend::io_uring}).backend() == Backend::io_uring;
  } catch (const std::system_error&) {
    return false;
  }
}

template <typename Body>
void for_each_backend(Body body) {
  body(Backend::threads);
  if (ring_works()) body(Backend::io_uring);
}

}  // namespace penstock::io
