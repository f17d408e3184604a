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

void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "FAILED: %s\n", what);
  std::exit(1);
}

template <typename Call>
void check_refused(const char* what, Call call) {
  try {
    call();
  } catch (const ArenaRefused&) {
    return;
  }
  check(false, what);
}

// What lies past the end of a file is what a huge page beyond a container's limit is: a SIGBUS when
// touched.
void memory_that_cannot_be_backed_is_an_error_and_no_signal() {
  const FileDescriptor fd(memfd_create("short", MFD_CLOEXEC));
  check(ftruncate(fd.get(), 64 * kMiB) == 0, "ftruncate");
  const auto mapping = Mapping::create(fd.get(), 128 * kMiB, 2 * kMiB);
  check(!penstock::populate(mapping->range(0, 64 * kMiB)), "the file's own part is backed");
  check(bool(penstock::populate(mapping->range(64 * kMiB, 4096))), "the part past its end is not");
  Prefault prefault(mapping, 2);
  prefault.wait();
  check(bool(prefault.error()), "prefault tells");
  check(prefault.bytes() <= 64 * kMiB, "prefault counts only what is backed");
}

void prefaulting_keeps_what_is_written_meanwhile() {
  Arena arena(256 * kMiB);
  arena.start_prefault(2);
  const auto memory = arena.mapping()->range(0, arena.bytes());
  for (std::uint64_t offset = 0; offset < memory.size(); offset += 4096) {
    std::memcpy(&memory[offset], &offset, sizeof offset);
  }
  while (arena.prefaulted_bytes() < arena.bytes() && arena.prefault_error().empty()) sched_yield();
  check(arena.prefault_error().empty(), "prefaulting ended well");
  for (std::uint64_t offset = 0; offset < memory.size(); offset += 4096) {
    std::uint64_t read = 0;
    std::memcpy(&read, &memory[offset], sizeof read);
    check(read == offset, "a byte changed under prefaulting");
  }
  std::vector<unsigned char> resident(memory.size() / 4096);
  check(mincore(memory.data(), memory.size(), resident.data()) == 0, "mincore");
  for (const auto page : resident) check((page & 1U) != 0, "a page is not backed");
}

void prefaulting_ends_with_the_arena() {
  Arena arena(512 * kMiB);
  check_refused("no threads", [&] { arena.start_prefault(0); });
  check_refused("too many threads", [&] { arena.start_prefault(65); });
  arena.start_prefault(4);
  check_refused("twice", [&] { arena.start_prefault(1); });
  arena.close();
  check(arena.fd() == -1 && arena.prefaulted_bytes() <= arena.bytes(), "closed");
  check_refused("closed", [&] { static_cast<void>(arena.mapping()); });
  arena.close();
}

void ranges_outside_are_refused() {
  const Arena arena(8 * kMiB);
  const auto& mapping = arena.mapping();
  check(mapping->range(8 * kMiB, 0).empty(), "nothing, at the end");
  check(mapping->range(0, 8 * kMiB).size() == 8 * kMiB, "all of it");
  check_refused("one too many", [&] { static_cast<void>(mapping->range(0, 8 * kMiB + 1)); });
  check_refused("at the end", [&] { static_cast<void>(mapping->range(8 * kMiB, 1)); });
  check_refused("wraps around", [&] { static_cast<void>(mapping->range(4096, UINT64_MAX - 100)); });
  check_refused("far away", [&] { static_cast<void>(mapping->range(UINT64_MAX, 1)); });
}

void node_lists_are_read_as_the_kernel_writes_them() {
  using penstock::parse_node_list;
  check(parse_node_list("0") == std::vector{0}, "one");
  check(parse_node_list("0-2,5") == std::vector({0, 1, 2, 5}), "range and one");
  for (const char* bad : {"", "a", "1-", "3-1", "0,", "0 1", "-1", "0-5000"}) {
    check(parse_node_list(bad).empty(), bad);
  }
}

void pages_are_interleaved_when_asked() {
  const auto nodes = penstock::usable_numa_nodes();
  if (nodes.empty()) {
    std::puts("arena: NUMA not tested, this kernel names no memory nodes");
    return;
  }
  const Arena arena(8 * kMiB);
  const auto memory = arena.mapping()->range(0, arena.bytes());
  if (const auto error = penstock::interleave(memory, nodes)) {
    check(error.value() == EPERM || error.value() == ENOSYS, "mbind");
    std::printf("arena: NUMA not tested, mbind is refused here (%s)\n", error.message().c_str());
    return;
  }
  int policy = -1;
  std::array<unsigned long, 16> mask{};
  const unsigned long bits = mask.size() * sizeof(unsigned long) * 8;
  check(syscall(SYS_get_mempolicy, &policy, mask.data(), bits, memory.data(), MPOL_F_ADDR) == 0,
        "get_mempolicy");
  check(policy == MPOL_INTERLEAVE, "the policy is to interleave");
  for (const int node : nodes) {
    check(((mask.at(static_cast<unsigned>(node) / 64) >> (static_cast<unsigned>(node) % 64)) &
           1U) != 0,
          "every node takes part");
  }
  if (nodes.size() > 1) check(arena.numa_reason().starts_with("interleaved"), "Arena does it");
}

void an_engine_maps_only_what_cannot_shrink() {
  const Arena arena(4 * kMiB);
  ArenaMapping mapping(arena.fd(), 4 * kMiB);
  arena.mapping()->range(0, 1)[0] = std::byte{7};
  check(mapping.mapping()->range(0, 1)[0] == std::byte{7}, "one memory");
  mapping.close();
  mapping.close();
  check_refused("closed", [&] { static_cast<void>(mapping.mapping()); });
  check_refused("longer", [&] { const ArenaMapping longer(arena.fd(), 8 * kMiB); });
  check_refused("nothing", [&] { const ArenaMapping nothing(arena.fd(), 0); });
  check_refused("no file", [&] { const ArenaMapping none(-1, 4 * kMiB); });
  const FileDescriptor open_ended(memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  check(ftruncate(open_ended.get(), 4 * kMiB) == 0, "ftruncate");
  check_refused("unsealed", [&] { const ArenaMapping unsealed(open_ended.get(), 4 * kMiB); });
}

}  // namespace

int main() {
  memory_that_cannot_be_backed_is_an_error_and_no_signal();
  prefaulting_keeps_what_is_written_meanwhile();
  prefaulting_ends_with_the_arena();
  ranges_outside_are_refused();
  node_lists_are_read_as_the_kernel_writes_them();
  pages_are_interleaved_when_asked();
  an_engine_maps_only_what_cannot_shrink();
  std::puts("arena: ok");
  return 0;
}
