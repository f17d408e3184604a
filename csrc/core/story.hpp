// What happened to a chunk: the last events of the table, for tests and for people.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/table_types.hpp"

namespace penstock {

enum class Event : std::uint8_t {
  reserved,
  loaded,
  committed,
  discarded,
  quarantined,
  pinned,
  unpinned,
  leased,
  released,
  overdue,
  damaged,
  evicted,
  dropped,
  freed,
};

// A ring of the newest events of all chunks together. A story of 0 events keeps none and costs one
// branch.
class Story {
 public:
  explicit Story(std::uint32_t events_max);

  // The time that following events are told to have happened at, in the caller's seconds.
  void set_now(double now) { now_ = now; }
  void tell(const Key& key, Event event) {
    if (!events_.empty()) keep(key, event, kNoSlot);
  }
  void tell(const Key& key, Event event, std::uint16_t slot) {
    if (!events_.empty()) keep(key, event, slot);
  }
  // One line per kept event of the chunk, oldest first: "12.500 committed slot 3".
  [[nodiscard]] std::vector<std::string> of(const Key& key) const;

 private:
  static constexpr std::uint32_t kNoSlot = UINT32_MAX;

  struct Entry {
    Key key;
    double now;
    std::uint32_t slot;
    Event event;
  };

  void keep(const Key& key, Event event, std::uint32_t slot);

  std::vector<Entry> events_;
  std::uint64_t told_ = 0;  // the newest is events_[(told_ - 1) % size]
  double now_ = 0;
};

}  // namespace penstock
