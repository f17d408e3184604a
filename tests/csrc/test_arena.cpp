// The arena's parts that Python cannot reach: what cannot be backed, NUMA policies, threads that
// stop.
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "check.hpp"
#include "core/arena.hpp"
#include "core/numa.hpp"

namespace {

using penstock::Arena;
using penstock::ArenaMapping;
using penstock::ArenaRefused;
using penstock::FileDescriptor;
using penstock::Mapping;
using penstock::Prefault;

constexpr std::uint64_t kMiB = 1024ULL * 1024;

// What lies past the end of a file is what a huge page beyond a container's limit is: a SIGBUS when
// touched.
TEST_CASE(memory_that_cannot_be_backed_is_an_error_and_no_signal) {
  const FileDescriptor fd(memfd_create("short", MFD_CLOEXEC));
  CHECK(ftruncate(fd.get(), 64 * kMiB) == 0);
  const auto mapping = Mapping::create(fd.get(), 128 * kMiB, 2 * kMiB);
  CHECK(!penstock::populate(mapping->range(0, 64 * kMiB)));
  CHECK(bool(penstock::populate(mapping->range(64 * kMiB, 4096))));
  Prefault prefault(mapping, 2);
  prefault.wait();
  CHECK(bool(prefault.error()));
  CHECK(prefault.bytes() <= 64 * kMiB);
}

TEST_CASE(prefaulting_keeps_what_is_written_meanwhile) {
  Arena arena(256 * kMiB);
  arena.start_prefault(2);
  const auto memory = arena.mapping()->range(0, arena.bytes());
  for (std::uint64_t offset = 0; offset < memory.size(); offset += 4096) {
    std::memcpy(&memory[offset], &offset, sizeof offset);
  }
  while (arena.prefaulted_bytes() < arena.bytes() && arena.prefault_error().empty()) sched_yield();
  CHECK(arena.prefault_error().empty());
  for (std::uint64_t offset = 0; offset < memory.size(); offset += 4096) {
    std::uint64_t read = 0;
    std::memcpy(&read, &memory[offset], sizeof read);
    CHECK(read == offset);
  }
  std::vector<unsigned char> resident(memory.size() / 4096);
  CHECK(mincore(memory.data(), memory.size(), resident.data()) == 0);
  for (const auto page : resident) CHECK((page & 1U) != 0);
}

TEST_CASE(prefaulting_ends_with_the_arena) {
  Arena arena(512 * kMiB);
  CHECK_THROWS(arena.start_prefault(0), ArenaRefused);
  CHECK_THROWS(arena.start_prefault(65), ArenaRefused);
  arena.start_prefault(4);
  CHECK_THROWS(arena.start_prefault(1), ArenaRefused);
  arena.close();
  CHECK(arena.fd() == -1 && arena.prefaulted_bytes() <= arena.bytes());
  CHECK_THROWS(arena.mapping(), ArenaRefused);
  arena.close();
}

TEST_CASE(ranges_outside_are_refused) {
  const Arena arena(8 * kMiB);
  const auto& mapping = arena.mapping();
  CHECK(mapping->range(8 * kMiB, 0).empty());
  CHECK(mapping->range(0, 8 * kMiB).size() == 8 * kMiB);
  CHECK_THROWS(mapping->range(0, 8 * kMiB + 1), ArenaRefused);
  CHECK_THROWS(mapping->range(8 * kMiB, 1), ArenaRefused);
  CHECK_THROWS(mapping->range(4096, UINT64_MAX - 100), ArenaRefused);
  CHECK_THROWS(mapping->range(UINT64_MAX, 1), ArenaRefused);
}

TEST_CASE(node_lists_are_read_as_the_kernel_writes_them) {
  using penstock::parse_node_list;
  CHECK(parse_node_list("0") == std::vector{0});
  CHECK(parse_node_list("0-2,5") == std::vector({0, 1, 2, 5}));
  for (const char* bad : {"", "a", "1-", "3-1", "0,", "0 1", "-1", "0-5000"}) {
    CHECK(parse_node_list(bad).empty());
  }
}

TEST_CASE(pages_are_interleaved_when_asked) {
  const auto nodes = penstock::usable_numa_nodes();
  if (nodes.empty()) {
    std::puts("arena: NUMA not tested, this kernel names no memory nodes");
    return;
  }
  const Arena arena(8 * kMiB);
  const auto memory = arena.mapping()->range(0, arena.bytes());
  if (const auto error = penstock::interleave(memory, nodes)) {
    CHECK(error.value() == EPERM || error.value() == ENOSYS);
    std::printf("arena: NUMA not tested, mbind is refused here (%s)\n", error.message().c_str());
    return;
  }
  int policy = -1;
  std::array<unsigned long, 16> mask{};
  const unsigned long bits = mask.size() * sizeof(unsigned long) * 8;
  CHECK(syscall(SYS_get_mempolicy, &policy, mask.data(), bits, memory.data(), MPOL_F_ADDR) == 0);
  CHECK(policy == MPOL_INTERLEAVE);
  for (const int node : nodes) {
    CHECK(((mask.at(static_cast<unsigned>(node) / 64) >> (static_cast<unsigned>(node) % 64)) &
           1U) != 0);
  }
  if (nodes.size() > 1) CHECK(arena.numa_reason().starts_with("interleaved"));
}

TEST_CASE(an_engine_maps_only_what_cannot_shrink) {
  const Arena arena(4 * kMiB);
  ArenaMapping mapping(arena.fd(), 4 * kMiB);
  arena.mapping()->range(0, 1)[0] = std::byte{7};
  CHECK(mapping.mapping()->range(0, 1)[0] == std::byte{7});
  mapping.close();
  mapping.close();
  CHECK_THROWS(mapping.mapping(), ArenaRefused);
  CHECK_THROWS(ArenaMapping(arena.fd(), 8 * kMiB), ArenaRefused);
  CHECK_THROWS(ArenaMapping(arena.fd(), 0), ArenaRefused);
  CHECK_THROWS(ArenaMapping(-1, 4 * kMiB), ArenaRefused);
  const FileDescriptor open_ended(memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  CHECK(ftruncate(open_ended.get(), 4 * kMiB) == 0);
  CHECK_THROWS(ArenaMapping(open_ended.get(), 4 * kMiB), ArenaRefused);
}

}  // namespace

CHECK_MAIN()
