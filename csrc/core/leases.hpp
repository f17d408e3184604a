// What sessions may read or write, what tickets pin, and who they are.
#pragma once

#include <cstdint>
#include <memory>
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
// in flight; an overdue one has quarantined pages.
struct Lease {
  enum class Kind : std::uint8_t { read, write };

  Id id{};
  std::uint64_t session = 0;
  Kind kind = Kind::read;
  bool overdue = false;
  std::uint16_t geometry = 0;
  std::vector<std::uint16_t> slots;
  std::vector<ObjectRef> objects;    // by index, chunk-major; none(): nothing there (any more)
  std::vector<PageRun> quarantined;  // by index: an overdue write lease's
  std::uint32_t objects_left = 0;    // entries of `objects` that are not none
  std::uint64_t pages_overdue = 0;   // what it holds back while overdue
  BookId previous = kNoBookId;       // of the same session
  BookId next = kNoBookId;
};

// A lookup that somebody waits for: the chunks of its hit are pinned.
struct Ticket {
  Id id{};
  std::uint64_t instance = 0;
  std::uint16_t geometry = 0;
  std::uint32_t readers = 0;
  std::uint32_t looked_up =
      0;  // chunks that were pinned RESIDENT by the lookup; those beyond may be LOADED
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
