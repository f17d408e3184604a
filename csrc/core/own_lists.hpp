// The chunks that each tenant under a quota may do without, those idle longest first.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "core/mapped_array.hpp"
#include "core/table_types.hpp"

namespace penstock {

// A policy chooses among the candidates of all tenants, and one tenant's may be anywhere among
// them. Who is at its quota makes room among its own, in the order in which they became idle; what
// was bared by its last child is as old as that. Eight bytes a chunk, of those that were ever
// listed.
class OwnLists {
 public:
  explicit OwnLists(std::uint32_t chunks_max) : links_(chunks_max) {}

  // The chunk must not be in a list.
  void add_newest(std::uint32_t tenant, ChunkId id);
  void add_oldest(std::uint32_t tenant, ChunkId id);
  // It must be in the tenant's list.
  void remove(std::uint32_t tenant, ChunkId id);

  // kNoChunk when there is none.
  [[nodiscard]] ChunkId oldest(std::uint32_t tenant) const;
  [[nodiscard]] ChunkId newer_than(ChunkId id) const { return links_[id].newer; }
  // Memory that this takes.
  [[nodiscard]] std::uint64_t bytes() const { return links_ever_ * sizeof(Links); }

 private:
  struct Links {
    ChunkId older;
    ChunkId newer;
  };
  struct Ends {
    ChunkId oldest = kNoChunk;
    ChunkId newest = kNoChunk;
  };

  void link(ChunkId id, Links links);

  MappedArray<Links> links_;
  std::uint64_t links_ever_ = 0;                  // those below were used
  std::unordered_map<std::uint32_t, Ends> ends_;  // of tenants with any
};

}  // namespace penstock
