// The memory of an arena: which pages can be had, from the best to the plainest.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/mapping.hpp"
#include "core/numa.hpp"

namespace penstock {

enum class Pages : std::uint8_t { kSmall, kHuge2M, kHuge1G, kTransparent };

struct ArenaMemory {
  FileDescriptor fd;
  std::shared_ptr<const Mapping> mapping;
  Pages pages;
  std::uint64_t page_bytes;
  std::uint64_t backed_bytes;    // what is known to be backed already
  std::string huge_page_reason;  // why the pages are not hugetlb ones; empty when they are
  NumaPlacement placement;
};

// Creates an anonymous file of `bytes` without a name anywhere, closed on exec, sealed against any
// change of its size (a file that shrinks under a reader is a SIGBUS), and maps it. Huge pages are
// asked for in this order:
//   1. hugetlb pages of 1 GiB, then of 2 MiB, where the size is a multiple. All of them are backed
//   before
//      this returns: the kernel grants a reservation that a container's limit turns into a SIGBUS
//      later;
//   2. transparent huge pages, believed when the first of them is there;
//   3. small pages.
// Throws ArenaRefused.
[[nodiscard]] ArenaMemory create_arena_memory(std::uint64_t bytes);

// Maps an arena received from another process. `fd` stays the caller's. Throws ArenaRefused when
// the file does not have exactly `bytes`, or is not sealed against changing them.
[[nodiscard]] std::shared_ptr<const Mapping> map_arena(int fd, std::uint64_t bytes);

}  // namespace penstock
