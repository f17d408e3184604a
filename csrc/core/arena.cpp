#include "core/arena.hpp"

#include <sys/sysinfo.h>

#include <algorithm>

#include "core/extent_allocator.hpp"

namespace penstock {
namespace {

constexpr unsigned kPrefaultThreadsMax = 64;

std::uint64_t machine_bytes() {
  struct sysinfo machine{};
  if (sysinfo(&machine) != 0) return UINT64_MAX;
  return static_cast<std::uint64_t>(machine.totalram) * machine.mem_unit;
}

std::uint64_t checked_bytes(std::uint64_t bytes) {
  if (bytes == 0 || bytes % kPageBytes != 0) {
    throw ArenaRefused("an arena of " + std::to_string(bytes) +
                       " bytes: give a multiple of 4096 that is not 0");
  }
  if (bytes > machine_bytes()) {
    throw ArenaRefused("an arena of " + readable_bytes(bytes) + " on a machine with " +
                       readable_bytes(machine_bytes()) + " of memory: ask for less");
  }
  return bytes;
}

void start_once(std::unique_ptr<Prefault>& prefault, const std::shared_ptr<const Mapping>& mapping,
                unsigned threads) {
  if (threads < 1 || threads > kPrefaultThreadsMax) {
    throw ArenaRefused(std::to_string(threads) + " threads to prefault with: give 1 to 64");
  }
  if (prefault != nullptr) throw ArenaRefused("prefaulting was started already");
  prefault = std::make_unique<Prefault>(mapping, threads);
}

void refuse_closed(const std::shared_ptr<const Mapping>& mapping) {
  if (mapping == nullptr) throw ArenaRefused("the arena is closed");
}

}  // namespace

Arena::Arena(std::uint64_t bytes)
    : bytes_(checked_bytes(bytes)), memory_(create_arena_memory(bytes)) {}

const std::shared_ptr<const Mapping>& Arena::mapping() const {
  refuse_closed(memory_.mapping);
  return memory_.mapping;
}

void Arena::start_prefault(unsigned threads) {
  start_once(prefault_, mapping(), threads);
}

std::uint64_t Arena::prefaulted_bytes() const {
  const std::uint64_t in_background = prefault_ == nullptr ? 0 : prefault_->bytes();
  return std::max(memory_.backed_bytes, in_background);
}

std::string Arena::prefault_error() const {
  if (prefault_ == nullptr) return {};
  const auto error = prefault_->error();
  return error ? error.message() : std::string();
}

void Arena::close() {
  memory_.backed_bytes = prefaulted_bytes();
  prefault_.reset();
  memory_.mapping.reset();
  memory_.fd.reset();
}

const std::shared_ptr<const Mapping>& ArenaMapping::mapping() const {
  refuse_closed(mapping_);
  return mapping_;
}

void ArenaMapping::start_prefault(unsigned threads) {
  start_once(prefault_, mapping(), threads);
}

void ArenaMapping::close() {
  prefault_.reset();
  mapping_.reset();
}

}  // namespace penstock
