#include "core/expiry_heap.hpp"

#include <cassert>

namespace penstock {

void ExpiryHeap::add(std::uint32_t owner, double time) {
  assert(!contains(owner));
  if (time == kNever) return;
  if (owner >= places_.size()) places_.resize(owner + 1, kNowhere);
  heap_.push_back({time, owner});
  places_[owner] = static_cast<std::uint32_t>(heap_.size() - 1);
  rise(heap_.size() - 1);
}

void ExpiryHeap::remove(std::uint32_t owner) {
  if (!contains(owner)) return;
  const std::size_t place = places_[owner];
  places_[owner] = kNowhere;
  const Entry last = heap_.back();
  heap_.pop_back();
  if (place == heap_.size()) return;
  put(place, last);
  rise(place);
  sink(places_[last.owner]);
}

void ExpiryHeap::put(std::size_t place, Entry entry) {
  heap_[place] = entry;
  places_[entry.owner] = static_cast<std::uint32_t>(place);
}

void ExpiryHeap::rise(std::size_t place) {
  const Entry entry = heap_[place];
  while (place > 0 && entry.time < heap_[(place - 1) / 2].time) {
    put(place, heap_[(place - 1) / 2]);
    place = (place - 1) / 2;
  }
  put(place, entry);
}

void ExpiryHeap::sink(std::size_t place) {
  const Entry entry = heap_[place];
  for (std::size_t child = 2 * place + 1; child < heap_.size(); child = 2 * place + 1) {
    if (child + 1 < heap_.size() && heap_[child + 1].time < heap_[child].time) ++child;
    if (entry.time <= heap_[child].time) break;
    put(place, heap_[child]);
    place = child;
  }
  put(place, entry);
}

}  // namespace penstock
