// What bounds an L1 table.
#pragma once

#include <cstdint>

#include "core/policy.hpp"

namespace penstock {

// The bounds of a table. All bytes are bytes of the arena.
struct TableConfig {
  std::uint64_t arena_bytes = 0;
  std::uint64_t pd_bytes = 0;        // of Pool::pd, behind arena_bytes
  std::uint32_t objects_max = 0;     // and chunks; 1 to 2^31
  std::uint32_t pd_objects_max = 0;  // beside them, of Pool::pd; as many chunks are kept for it
  PolicyKind policy = PolicyKind::lru;
  std::uint64_t quarantine_bytes_max =
      0;  // held back by one instance's overdue leases, before it gets no new ones
  std::uint32_t leases_max = 65536;  // live and overdue; leases and tickets together at most 2^22
  std::uint32_t tickets_max = 65536;
  std::uint32_t story_events_max = 0;
  std::uint32_t news_max = 0;     // names of committed objects kept for take_committed()
  std::uint32_t changes_max = 0;  // chunks whose coming and going is kept for take_changes()
  bool fair_share = false;        // see Contents::spare()
  std::uint64_t hash_seed = 0;
};

}  // namespace penstock
