// What engines have committed since somebody last asked.
#pragma once

#include <cstdint>
#include <deque>

#include "core/table_types.hpp"

namespace penstock {

// Names of objects that have become RESIDENT, oldest first. Bounded: when it is full the oldest
// name gives way, and is counted.
class CommitNews {
 public:
  struct Item {
    Key key;
    std::uint64_t bytes;
    std::uint16_t slot;
  };

  // 0: nothing is kept, and nothing is counted.
  explicit CommitNews(std::uint32_t items_max) : items_max_(items_max) {}

  void tell(const Item& item) {
    if (items_max_ == 0) return;
    if (items_.size() == items_max_) {
      pop();
      ++lost_;
    }
    items_.push_back(item);
    bytes_ += item.bytes;
  }
  [[nodiscard]] bool empty() const { return items_.empty(); }
  [[nodiscard]] const Item& oldest() const { return items_.front(); }
  void pop() {
    bytes_ -= items_.front().bytes;
    items_.pop_front();
  }

  [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(items_.size()); }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }  // of the objects it names
  [[nodiscard]] std::uint64_t lost() const { return lost_; }

 private:
  std::uint32_t items_max_;
  std::deque<Item> items_;
  std::uint64_t bytes_ = 0;
  std::uint64_t lost_ = 0;
};

}  // namespace penstock
