// A shared mapping of a file descriptor, as node and engine processes hold the arena.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace penstock {

// The arena, or a mapping of it, cannot be had as asked. The text says why and what to do.
class ArenaRefused : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// "WHAT: MESSAGE OF errno", for the errno of the call that has just failed.
[[nodiscard]] std::string with_errno(std::string_view what);

// "4.0 GiB".
[[nodiscard]] std::string readable_bytes(std::uint64_t bytes);

// Closes its descriptor. -1: none.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  int release() noexcept;
  void reset() noexcept;

 private:
  int fd_ = -1;
};

// Readable and writable memory shared with every other mapping of the same file. Neither a forked
// child nor a core dump has it: a child must not keep the arena alive after its parent, and a dump
// must not hold prompts. Unmapped when the last holder lets go.
class Mapping {
 public:
  // Maps `bytes` of `fd` from its start, at an address that is a multiple of `alignment` (a power
  // of two). Throws std::system_error; the caller knows what the failure means.
  static std::shared_ptr<const Mapping> create(int fd, std::uint64_t bytes,
                                               std::uint64_t alignment);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  Mapping(Mapping&&) = delete;
  Mapping& operator=(Mapping&&) = delete;

  [[nodiscard]] std::byte* address() const { return address_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

  // The `bytes` at `offset`. Throws ArenaRefused when they do not all lie inside, or in a forked
  // child.
  [[nodiscard]] std::span<std::byte> range(std::uint64_t offset, std::uint64_t bytes) const;

 private:
  Mapping(std::byte* address, std::uint64_t bytes);

  std::byte* address_;
  std::uint64_t bytes_;
  pid_t process_;  // the process that has the mapping; a forked child of it has not
};

// Backs a range of a mapping with memory now, without changing a byte of it, so that it can be done
// while others write. What the kernel cannot back is an error here and not a SIGBUS. Needs
// Linux 5.14, else std::errc::invalid_argument.
[[nodiscard]] std::error_code populate(std::span<std::byte> range) noexcept;

}  // namespace penstock
