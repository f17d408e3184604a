#include "core/arena_memory.hpp"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <optional>
#include <thread>
#include <utility>

#include "core/prefault.hpp"

namespace penstock {
namespace {

constexpr const char* kName = "penstock-arena";
constexpr std::uint64_t kMiB = 1024ULL * 1024;
constexpr std::uint64_t kGiB = 1024 * kMiB;
constexpr unsigned kNoExecSeal = 0x8;  // MFD_NOEXEC_SEAL, Linux 6.3: data, never a program
constexpr unsigned kSizeSeals = F_SEAL_SHRINK | F_SEAL_GROW;
constexpr unsigned kSeals = kSizeSeals | F_SEAL_SEAL;
constexpr unsigned kBackingThreadsMax = 8;
constexpr std::string_view kTransparentSwitch = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

struct HugetlbSize {
  Pages pages;
  std::uint64_t bytes;
  unsigned flag;
  const char* words;
  const char* pool;
};

constexpr HugetlbSize kHugetlbSizes[] = {
    {Pages::kHuge1G, kGiB, MFD_HUGE_1GB, "1 GiB", "/sys/kernel/mm/hugepages/hugepages-1048576kB"},
    {Pages::kHuge2M, 2 * kMiB, MFD_HUGE_2MB, "2 MiB", "/sys/kernel/mm/hugepages/hugepages-2048kB"},
};

std::uint64_t number_in(const std::string& path) {
  std::uint64_t number = 0;
  std::ifstream(path) >> number;
  return number;
}

// Throws std::system_error.
FileDescriptor create_file(std::uint64_t bytes, unsigned flags) {
  FileDescriptor fd(memfd_create(kName, flags | MFD_CLOEXEC | MFD_ALLOW_SEALING | kNoExecSeal));
  if (!fd.valid() && errno == EINVAL) {  // an older kernel does not know the last one
    fd = FileDescriptor(memfd_create(kName, flags | MFD_CLOEXEC | MFD_ALLOW_SEALING));
  }
  if (!fd.valid()) throw std::system_error(errno, std::generic_category(), "memfd_create");
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    throw std::system_error(errno, std::generic_category(), "ftruncate");
  }
  if (fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) {
    throw std::system_error(errno, std::generic_category(), "sealing");
  }
  return fd;
}

// 1. hugetlb: all of it or nothing, with the reason.
std::optional<ArenaMemory> hugetlb(std::uint64_t bytes, const HugetlbSize& size,
                                   std::string& reason) {
  const std::string pages = std::string("hugetlb pages of ") + size.words;
  if (bytes % size.bytes != 0) {
    reason = "no " + pages + " (the size is not a multiple)";
    return std::nullopt;
  }
  try {
    FileDescriptor fd = create_file(bytes, MFD_HUGETLB | size.flag);
    auto mapping = Mapping::create(fd.get(), bytes, size.bytes);
    NumaPlacement placement = place(mapping->range(0, bytes));
    const unsigned threads =
        std::clamp(std::thread::hardware_concurrency(), 1U, kBackingThreadsMax);
    Prefault backing(mapping, threads);
    backing.wait();
    if (const auto error = backing.error()) {
      reason = pages + " were reserved but cannot be backed (" + error.message() +
               "; look at the container's hugetlb limit)";
      return std::nullopt;
    }
    return ArenaMemory{std::move(fd), std::move(mapping), size.pages,          size.bytes,
                       bytes,         std::string(),      std::move(placement)};
  } catch (const std::system_error& error) {
    reason = "no " + pages + " (" + std::to_string(bytes / size.bytes) + " are wanted, " +
             std::to_string(number_in(std::string(size.pool) + "/free_hugepages")) +
             " are free: " + error.code().message() + ")";
    return std::nullopt;
  }
}

// The word in brackets of a kernel switch such as "always within_size advise [never]".
std::string chosen_word(std::string_view path) {
  std::ifstream file{std::string(path)};
  std::string line;
  std::getline(file, line);
  const auto open = line.find('[');
  const auto close = line.find(']');
  if (open == std::string::npos || close == std::string::npos || close < open) return {};
  return line.substr(open + 1, close - open - 1);
}

// Whether a huge page of this process is mapped in the mapping that begins at `address`.
bool has_huge_page(const std::byte* address) {
  static constexpr std::string_view kField = "ShmemPmdMapped:";
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.starts_with(kField)) {
      if (inside) return std::strtoull(line.c_str() + kField.size(), nullptr, 10) > 0;
    } else if (line.find('-') < line.find(' ')) {  // "7f00-7f20 rw-s ...": a new mapping
      inside =
          std::strtoull(line.c_str(), nullptr, 16) == reinterpret_cast<std::uintptr_t>(address);
    }
  }
  return false;
}

// 2. transparent: why `memory` does not have such pages; empty when it has.
std::string why_not_transparent(std::span<std::byte> memory, std::uint64_t huge_bytes) {
  if (huge_bytes == 0) return "this kernel has no transparent ones";
  if (memory.size() < huge_bytes) return "the arena is smaller than a transparent one";
  if (madvise(memory.data(), memory.size(), MADV_HUGEPAGE) != 0) {
    return with_errno("the kernel refused transparent ones");
  }
  if (const auto error = populate(memory.first(huge_bytes))) {
    return "the first transparent one cannot be backed: " + error.message();
  }
  if (has_huge_page(memory.data())) return {};
  return std::string(kTransparentSwitch) + " says '" + chosen_word(kTransparentSwitch) +
         "' ('advise' would give transparent ones)";
}

std::uint64_t transparent_bytes() {
  return number_in("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
}

// Transparent or small pages. Throws std::system_error.
ArenaMemory shared_memory(std::uint64_t bytes, const std::string& hugetlb_reason) {
  const auto page_bytes = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t huge_bytes = transparent_bytes();
  FileDescriptor fd = create_file(bytes, 0);
  auto mapping = Mapping::create(fd.get(), bytes, std::max(huge_bytes, page_bytes));
  const std::span<std::byte> memory = mapping->range(0, bytes);
  NumaPlacement placement = place(memory);
  const std::string refusal = why_not_transparent(memory, huge_bytes);
  const bool huge = refusal.empty();
  std::string reason =
      hugetlb_reason + (huge ? "; transparent huge pages instead" : "; " + refusal);
  return ArenaMemory{std::move(fd),
                     std::move(mapping),
                     huge ? Pages::kTransparent : Pages::kSmall,
                     huge ? huge_bytes : page_bytes,
                     0,
                     std::move(reason),
                     std::move(placement)};
}

}  // namespace

ArenaMemory create_arena_memory(std::uint64_t bytes) {
  std::string reason;
  for (const HugetlbSize& size : kHugetlbSizes) {
    if (auto memory = hugetlb(bytes, size, reason)) return std::move(*memory);
  }
  try {
    return shared_memory(bytes, reason);
  } catch (const std::system_error& error) {
    throw ArenaRefused("an arena of " + readable_bytes(bytes) + " cannot be made: " + error.what());
  }
}

std::shared_ptr<const Mapping> map_arena(int fd, std::uint64_t bytes) {
  struct stat status{};
  if (fstat(fd, &status) != 0) throw ArenaRefused(with_errno("this is no arena"));
  if (bytes == 0 || status.st_size < 0 || static_cast<std::uint64_t>(status.st_size) != bytes) {
    throw ArenaRefused("the arena has " + std::to_string(status.st_size) + " bytes and not the " +
                       std::to_string(bytes) + " that were announced");
  }
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (static_cast<unsigned>(seals) & kSizeSeals) != kSizeSeals) {
    throw ArenaRefused("the arena is not sealed against a change of its size; it is not a node's");
  }
  try {
    auto mapping =
        Mapping::create(fd, bytes,
                        std::max<std::uint64_t>(transparent_bytes(),
                                                static_cast<std::uint64_t>(status.st_blksize)));
    // Where this is refused the pages are small, which the node has said already.
    static_cast<void>(madvise(mapping->address(), bytes, MADV_HUGEPAGE));
    return mapping;
  } catch (const std::system_error& error) {
    throw ArenaRefused("an arena of " + readable_bytes(bytes) +
                       " cannot be mapped: " + error.what());
  }
}

}  // namespace penstock
