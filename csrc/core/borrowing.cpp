#include "core/borrowing.hpp"

namespace penstock {

std::vector<std::uint16_t> Picks::slots() const {
  std::vector<std::uint16_t> slots;
  for (std::size_t slot = 0; slot < has_slot_.size(); ++slot) {
    if (has_slot_[slot]) slots.push_back(static_cast<std::uint16_t>(slot));
  }
  return slots;
}

std::vector<ObjectRef> Picks::grid() const {
  std::vector<std::size_t> columns(has_slot_.size());
  std::size_t column = 0;
  for (std::size_t slot = 0; slot < has_slot_.size(); ++slot) {
    columns[slot] = column;
    if (has_slot_[slot]) ++column;
  }
  std::vector<ObjectRef> grid(rows_ * width_);
  for (const Pick& pick : picks_) grid[pick.row * width_ + columns[pick.slot]] = pick.ref;
  return grid;
}

}  // namespace penstock
