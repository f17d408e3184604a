// What sessions may read or write, what tickets pin, and who they are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/id_book.hpp"
#include "core/table_types.hpp"

namespace penstock {

// One session's right to read or to write extents.
//
//   live --release | all committed | abort--> over
//    |                                          ^
//    '--expired | stream lost--> overdue -------'  released, aborted or committed late; given up;
//    process gone
//
// A live read lease pins its chunks and is a reader of its objects; an overdue one is a reader
// only, so its objects may leave the index and their memory stays. A live write lease has objects
// in flight; an overdue one has quarantined pages, and has become a reader of those objects that
// the node reads while they are written.
//
// Both ways may be gone in steps (table_ends.cpp). Half way to overdue, it is overdue in its
// objects below `overdue_until` and live in the rest. Half way to its end, it has lost its last
// objects and is in all else what it was. To its owner it is overdue, or over, from the first step
// on.
struct Lease {
  enum class Kind : std::uint8_t { read, write };

  Id id{};
  std::uint64_t session = 0;
  Kind kind = Kind::read;
  bool overdue = false;
  bool ending = false;      // the rest of its end is bound to follow
  Pool pool = Pool::cache;  // a write lease's
  std::uint16_t geometry = 0;
  std::vector<std::uint16_t> slots;
  std::vector<ObjectRef> objects;    // by index, chunk-major; none(): nothing there (any more)
  std::vector<PageRun> quarantined;  // by index: an overdue write lease's
  std::uint32_t objects_left = 0;    // entries of `objects` that are not none
  std::size_t overdue_until = 0;     // of an overdue one; between rows, or at the end
  std::uint64_t pages_overdue = 0;   // what it holds back while overdue
  BookId previous = kNoBookId;       // of the same session
  BookId next = kNoBookId;

  [[nodiscard]] bool is_overdue_whole() const { return overdue && overdue_until == objects.size(); }
  [[nodiscard]] std::span<const ObjectRef> from(std::size_t index) const {
    return std::span(objects).subspan(index);
  }
};

// Calls visit(ChunkId) once for each chunk of a chunk-major list of objects that has any.
template <typename Visitor>
void each_chunk(std::span<const ObjectRef> objects, std::size_t width, Visitor visit) {
  for (std::size_t row = 0; row < objects.size(); row += width) {
    for (const ObjectRef ref : objects.subspan(row, width)) {
      if (ref.none()) continue;
      visit(ref.chunk);
      break;
    }
  }
}

// How much more of something large may be done in one call. Whoever does it goes by rows, so it may
// be exceeded by less than one.
class Step {
 public:
  Step() = default;  // all of it
  // At least one: whoever goes on until it is over must come to an end.
  explicit Step(std::size_t objects_max) : objects_left_(std::max<std::size_t>(objects_max, 1)) {}

  [[nodiscard]] bool is_over() const { return objects_left_ == 0; }
  void take(std::size_t objects) { objects_left_ -= std::min(objects, objects_left_); }
  // Objects of a lease with `size` left, in whole rows; at least one row.
  [[nodiscard]] std::size_t share_of(std::size_t size, std::size_t width) const {
    if (objects_left_ >= size) return size;
    return std::min(size, (std::max<std::size_t>(objects_left_, 1) + width - 1) / width * width);
  }

 private:
  std::size_t objects_left_ = SIZE_MAX;
};

// A lookup that somebody waits for: the chunks of its hit are pinned.
struct Ticket {
  Id id{};
  std::uint64_t instance = 0;
  std::uint16_t geometry = 0;
  std::uint32_t readers = 0;
  std::uint32_t looked_up =
      0;  // chunks that were pinned RESIDENT by the lookup; those beyond may be LOADED
  bool end_is_told = false;
  std::vector<ChunkId> chunks;                      // kNoChunk where the hit rule needed none
  std::vector<std::pair<std::uint32_t, Id>> ranks;  // rank -> its last lease, which may be over
  BookId previous = kNoBookId;                      // of the same instance
  BookId next = kNoBookId;
};

// An attached process.
struct Session {
  std::uint64_t instance = 0;
  bool lost = false;  // its stream has ended; its process may live
  BookId first_lease = kNoBookId;
};

inline constexpr std::uint64_t kOwnInstance = 0;  // the node itself

// An engine instance with at least one session.
struct Instance {
  std::uint32_t sessions = 0;
  std::uint64_t pages_overdue = 0;  // held back by overdue leases of all its sessions
  BookId first_ticket = kNoBookId;
};

// A list of records through their previous and next, which begins at `first`.
template <typename T>
void link_front(IdBook<T>& book, BookId& first, BookId place) {
  book[place].previous = kNoBookId;
  book[place].next = first;
  if (first != kNoBookId) book[first].previous = place;
  first = place;
}

template <typename T>
void unlink(IdBook<T>& book, BookId& first, BookId place) {
  const T& record = book[place];
  if (record.next != kNoBookId) book[record.next].previous = record.previous;
  if (record.previous != kNoBookId) {
    book[record.previous].next = record.next;
  } else {
    first = record.next;
  }
}

}  // namespace penstock
