#include "core/mapping.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

namespace penstock {
namespace {

// From the kernel's interface; older C libraries do not name it.
constexpr int kAdvicePopulateWrite = 23;

}  // namespace

std::string with_errno(std::string_view what) {
  const int error = errno;
  return std::string(what) + ": " + std::generic_category().message(error);
}

std::string readable_bytes(std::uint64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text.data();
}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = other.release();
  }
  return *this;
}

int FileDescriptor::release() noexcept {
  return std::exchange(fd_, -1);
}

void FileDescriptor::reset() noexcept {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

std::shared_ptr<const Mapping> Mapping::create(int fd, std::uint64_t bytes,
                                               std::uint64_t alignment) {
  // Address space with room to align in; the file goes over its aligned part and the rest goes
  // back.
  const std::uint64_t reserved_bytes = bytes + alignment;
  void* reserved =
      mmap(nullptr, reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) {
    throw std::system_error(errno, std::generic_category(), "address space");
  }
  auto* const start = static_cast<std::byte*>(reserved);
  const std::uint64_t head_bytes =
      (alignment - reinterpret_cast<std::uintptr_t>(start) % alignment) % alignment;
  void* mapped =
      mmap(start + head_bytes, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
  if (mapped == MAP_FAILED) {
    const int error = errno;
    munmap(reserved, reserved_bytes);
    throw std::system_error(error, std::generic_category(), "mmap");
  }
  const std::uint64_t page_bytes = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t mapped_bytes = (bytes + page_bytes - 1) / page_bytes * page_bytes;
  if (head_bytes > 0) munmap(start, head_bytes);
  if (reserved_bytes > head_bytes + mapped_bytes) {
    munmap(start + head_bytes + mapped_bytes, reserved_bytes - head_bytes - mapped_bytes);
  }
  std::shared_ptr<const Mapping> mapping(new Mapping(static_cast<std::byte*>(mapped), bytes));
  if (madvise(mapped, bytes, MADV_DONTFORK) != 0 || madvise(mapped, bytes, MADV_DONTDUMP) != 0) {
    throw std::system_error(errno, std::generic_category(), "madvise");
  }
  return mapping;
}

Mapping::Mapping(std::byte* address, std::uint64_t bytes)
    : address_(address), bytes_(bytes), process_(getpid()) {}

Mapping::~Mapping() {
  // In a forked child these addresses are free, or something else's by now.
  if (getpid() == process_) munmap(address_, bytes_);
}

std::span<std::byte> Mapping::range(std::uint64_t offset, std::uint64_t bytes) const {
  if (offset > bytes_ || bytes > bytes_ - offset) {
    throw ArenaRefused(std::to_string(bytes) + " bytes at offset " + std::to_string(offset) +
                       " do not lie inside an arena of " + std::to_string(bytes_) + " bytes");
  }
  if (getpid() != process_) {
    throw ArenaRefused(
        "a forked child does not have its parent's arena; attach to the node instead");
  }
  return {address_ + offset, bytes};
}

std::error_code populate(std::span<std::byte> range) noexcept {
  while (madvise(range.data(), range.size(), kAdvicePopulateWrite) != 0) {
    if (errno != EINTR) return {errno, std::generic_category()};
  }
  return {};
}

}  // namespace penstock
