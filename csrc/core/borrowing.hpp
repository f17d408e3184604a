// Which objects a borrowing read lease is of, chunk by chunk.
#pragma once

#include <cstdint>
#include <vector>

#include "core/geometry.hpp"
#include "core/table_types.hpp"

namespace penstock {

// Collects objects of chunks of one geometry, and lays them out as a lease wants them: rows of one
// chunk each, `slots()` to a row, all that any row has an object of.
class Picks {
 public:
  struct Pick {
    ObjectRef ref;
    std::uint32_t row;
    std::uint16_t slot;
  };

  explicit Picks(const Geometry& geometry) : has_slot_(geometry.slot_count()) {}

  // Whether the lease may grow by an object of that slot, in a row of its own at worst.
  [[nodiscard]] bool has_room(std::uint16_t slot) const {
    const std::uint64_t width = width_ + (has_slot_[slot] ? 0U : 1U);
    return (rows_ + 1) * width <= kObjectsMax;
  }
  void begin_row() { ++rows_; }
  // Of the row begun last; slots of a row ascend.
  void add(ObjectRef ref, std::uint16_t slot) {
    if (!has_slot_[slot]) ++width_;
    has_slot_[slot] = true;
    picks_.push_back({ref, static_cast<std::uint32_t>(rows_ - 1), slot});
  }

  [[nodiscard]] bool empty() const { return picks_.empty(); }
  [[nodiscard]] const std::vector<Pick>& picks() const { return picks_; }
  [[nodiscard]] std::vector<std::uint16_t> slots() const;
  [[nodiscard]] std::vector<ObjectRef> grid() const;

 private:
  static constexpr std::uint64_t kObjectsMax = std::uint64_t{1} << 20U;  // in one lease

  std::vector<bool> has_slot_;
  std::vector<Pick> picks_;
  std::uint64_t rows_ = 0;
  std::uint64_t width_ = 0;
};

}  // namespace penstock
