// The table: which chunks lookups can hit, told to whoever keeps a summary of them.
#include <algorithm>
#include <string>

#include "core/table.hpp"

namespace penstock {

ContentChanges::Taken Table::take_changes(std::uint32_t chunks_max) {
  begin();
  return contents_.changes().take(chunks_max);
}

Table::Residents Table::resident_keys(std::uint64_t cursor, std::uint32_t chunks_max) {
  begin();
  ContentChanges& changes = contents_.changes();
  if (!changes.is_kept()) {
    throw BadArgument("changes are not kept by this table; make it with changes_max");
  }
  if (chunks_max == 0) throw BadArgument("chunks_max is 0: give at least 1");
  if (cursor == 0) changes.begin_walk();
  if (cursor != changes.walked()) {
    throw BadArgument("cursor " + std::to_string(cursor) + " is not where the last step ended, " +
                      std::to_string(changes.walked()) + "; begin again with 0");
  }
  const ChunkStore& store = contents_.store();
  const std::uint64_t end = std::min<std::uint64_t>(cursor + chunks_max, store.chunks_ever());
  Residents residents;
  for (std::uint64_t id = cursor; id < end; ++id) {
    const Chunk& chunk = store.chunk(static_cast<ChunkId>(id));
    if (chunk.resident > 0 && changes.told(chunk.key)) residents.keys.push_back(chunk.key);
  }
  residents.over = end >= store.chunks_ever() || cursor == ContentChanges::kAll;
  if (residents.over) {
    changes.over();
  } else {
    changes.moved_to(end);
  }
  residents.cursor = changes.walked();
  return residents;
}

}  // namespace penstock
