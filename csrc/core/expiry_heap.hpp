// Which of many expires first.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace penstock {

// A binary heap of (time, owner) from which any owner can be taken out in O(log n), so that it
// never holds more than is alive. Owners are small numbers, each in the heap at most once.
class ExpiryHeap {
 public:
  static constexpr double kNever = std::numeric_limits<double>::infinity();

  // The owner must not be in it. A time of kNever is not kept.
  void add(std::uint32_t owner, double time);
  // Nothing happens if it is not in it.
  void remove(std::uint32_t owner);
  [[nodiscard]] bool empty() const { return heap_.empty(); }
  // The earliest time, or kNever.
  [[nodiscard]] double next() const { return heap_.empty() ? kNever : heap_.front().time; }
  // Whose time that is; there must be one.
  [[nodiscard]] std::uint32_t next_owner() const { return heap_.front().owner; }
  [[nodiscard]] bool contains(std::uint32_t owner) const {
    return owner < places_.size() && places_[owner] != kNowhere;
  }

 private:
  static constexpr std::uint32_t kNowhere = UINT32_MAX;

  struct Entry {
    double time;
    std::uint32_t owner;
  };

  void put(std::size_t place, Entry entry);
  void rise(std::size_t place);
  void sink(std::size_t place);

  std::vector<Entry> heap_;
  std::vector<std::uint32_t> places_;  // by owner; kNowhere: not in the heap
};

}  // namespace penstock
