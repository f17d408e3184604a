// Records with unguessable names, bounded in number.
#pragma once

#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#include "core/table_types.hpp"

namespace penstock {

// A place in a book; given anew when its record is closed.
using BookId = std::uint32_t;
inline constexpr BookId kNoBookId = UINT32_MAX;

// At most `records_max` records of type T, found by their id and, in constant time, by their place.
// Records stay where they are while they live. T has a member `Id id`.
template <typename T>
class IdBook {
 public:
  explicit IdBook(std::uint32_t records_max) : records_max_(records_max) {}

  [[nodiscard]] bool full() const { return places_.size() >= records_max_; }
  [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(places_.size()); }
  [[nodiscard]] std::uint32_t records_max() const { return records_max_; }
  [[nodiscard]] bool contains(const Id& id) const { return places_.contains(id); }

  // kNoBookId when nothing has that id.
  [[nodiscard]] BookId find(const Id& id) const {
    const auto found = places_.find(id);
    return found == places_.end() ? kNoBookId : found->second;
  }
  [[nodiscard]] T& operator[](BookId place) { return records_[place]; }
  [[nodiscard]] const T& operator[](BookId place) const { return records_[place]; }

  // A new record, empty but for its id. There must be room, and the id must be new.
  BookId open(const Id& id) {
    BookId place;
    if (free_.empty()) {
      place = static_cast<BookId>(records_.size());
      records_.emplace_back();
    } else {
      place = free_.back();
      free_.pop_back();
    }
    records_[place].id = id;
    places_.emplace(id, place);
    return place;
  }

  void close(BookId place) {
    places_.erase(records_[place].id);
    records_[place] = T();
    free_.push_back(place);
  }

  // Calls visit(BookId, const T&) for each.
  template <typename Visitor>
  void each(Visitor visit) const {
    for (const auto& [id, place] : places_) visit(place, records_[place]);
  }

 private:
  std::uint32_t records_max_;
  std::deque<T> records_;
  std::vector<BookId> free_;
  std::unordered_map<Id, BookId> places_;
};

}  // namespace penstock
