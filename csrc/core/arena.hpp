// The arena: the node's L1 memory, one shared mapping that engines map too.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/arena_memory.hpp"
#include "core/prefault.hpp"

namespace penstock {

// The node's side: creates the memory and owns it. One thread, but for what Prefault says.
class Arena {
 public:
  // `bytes`: a multiple of 4096, not 0, and not more than the machine's memory. Throws
  // ArenaRefused.
  explicit Arena(std::uint64_t bytes);

  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  [[nodiscard]] int fd() const { return memory_.fd.get(); }  // -1 when closed
  [[nodiscard]] std::uint64_t page_bytes() const { return memory_.page_bytes; }
  [[nodiscard]] Pages pages() const { return memory_.pages; }
  [[nodiscard]] const std::string& huge_page_reason() const { return memory_.huge_page_reason; }
  [[nodiscard]] int numa_nodes() const { return memory_.placement.nodes; }
  [[nodiscard]] const std::string& numa_reason() const { return memory_.placement.reason; }
  // Throws ArenaRefused when closed.
  [[nodiscard]] const std::shared_ptr<const Mapping>& mapping() const;

  // Backs the arena with memory in the background, from 1 to 64 threads. Throws ArenaRefused when
  // asked a second time, for another number of threads, or when closed.
  void start_prefault(unsigned threads);
  [[nodiscard]] std::uint64_t prefaulted_bytes() const;
  // Why prefaulting ended early; empty while it runs and when it is done.
  [[nodiscard]] std::string prefault_error() const;

  // Stops prefaulting, closes the descriptor and unmaps as soon as no view is left. Idempotent.
  void close();

 private:
  std::uint64_t bytes_;
  ArenaMemory memory_;
  std::unique_ptr<Prefault> prefault_;
};

// The engine's side: a mapping of an arena that was received from the node.
class ArenaMapping {
 public:
  // As map_arena: `fd` stays the caller's. Throws ArenaRefused.
  ArenaMapping(int fd, std::uint64_t bytes) : bytes_(bytes), mapping_(map_arena(fd, bytes)) {}

  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  // Throws ArenaRefused when closed.
  [[nodiscard]] const std::shared_ptr<const Mapping>& mapping() const;
  // As Arena::start_prefault: a page that the node has backed already is only entered into this
  // process's page table, which a copy would otherwise do fault by fault.
  void start_prefault(unsigned threads);
  // Stops prefaulting and unmaps as soon as no view is left. Idempotent.
  void close();

 private:
  std::uint64_t bytes_;
  std::shared_ptr<const Mapping> mapping_;
  std::unique_ptr<Prefault> prefault_;
};

}  // namespace penstock
