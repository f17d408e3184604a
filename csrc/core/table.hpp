// The L1 table: the index of the arena, the state of every object in it, and who may read, write or
// evict what.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/commit_news.hpp"
#include "core/contents.hpp"
#include "core/expiry_heap.hpp"
#include "core/id_book.hpp"
#include "core/leases.hpp"
#include "core/return_queue.hpp"
#include "core/table_config.hpp"
#include "core/table_types.hpp"

namespace penstock {

class Picks;

// The node's own session: what it commits is no news to it.
inline constexpr std::uint64_t kOwnSession = 0;

// What every table call does for one prompt, chunk by chunk, and one reader or writer. See
// _native.pyi for the contract of each method; it is not repeated here.
//
// Threads: a table belongs to the thread of its first call. Handles may die anywhere
// (return_queue.hpp). Time: given by the caller, and acts only in expire(): a lease or ticket is
// alive until that call ends it. Errors: a TableError is thrown before anything is changed.
// std::logic_error is a bug of ours.
class Table {
 public:
  explicit Table(const TableConfig& config);  // throws BadArgument
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;
  Table(Table&&) = delete;
  Table& operator=(Table&&) = delete;
  ~Table() = default;

  std::uint16_t add_geometry(std::vector<Group> groups);
  void set_quota(std::uint32_t tenant, std::uint64_t bytes_max);
  [[nodiscard]] std::uint64_t bytes_of(std::uint32_t tenant);
  void attach(std::uint64_t session, std::uint64_t instance);

  // Reading: table_reading.cpp.
  struct Hit {
    std::uint32_t hit;
    std::uint32_t promised;
  };
  struct TicketRequest {
    Id id;
    std::uint32_t geometry;
    std::uint64_t instance;
    std::uint32_t readers;
    double now;
    double expires;
  };
  struct AcquireRequest {
    std::uint32_t rank;
    std::span<const std::uint16_t> slots;
    std::uint32_t first_chunk;
    Id lease;
    std::uint64_t session;
    double now;
    double expires;
  };
  struct Acquired {
    Id lease;
    std::uint32_t chunks;
    std::vector<Extent> extents;
  };
  [[nodiscard]] std::uint32_t peek(KeyBatch keys, std::uint32_t geometry);
  [[nodiscard]] std::uint32_t promised(KeyBatch keys, std::uint32_t geometry);
  Hit lookup(KeyBatch keys, const TicketRequest& request);
  void open_ticket(const TicketRequest& request);
  std::uint32_t extend(const Id& ticket, KeyBatch keys, double now);
  Acquired acquire(const Id& ticket, const AcquireRequest& request);
  Outcome release(const Id& lease, std::uint64_t session, std::span<const std::uint32_t> damaged,
                  double now);
  Outcome close_ticket(const Id& ticket, std::uint64_t instance);
  // How many chunks it pins, which is what closing it costs. 0 if there is no such ticket.
  [[nodiscard]] std::uint32_t chunks_of(const Id& ticket);
  std::uint32_t touch(KeyBatch keys, double now);

  // Loading: table_loading.cpp.
  // Its end is told once by take_ended(), unless it is closed by name. Throws TicketUnknown.
  void tell_end(const Id& ticket);
  [[nodiscard]] std::vector<Id> take_ended();
  [[nodiscard]] std::vector<Presence> presence(KeyBatch keys, std::uint32_t geometry);
  [[nodiscard]] bool has_ticket(const Id& ticket);
  Hit follow(const Id& ticket, KeyBatch keys, double now);
  // As follow, at the cost of what is new: `promised` is above `hit` if what comes next is on its
  // way, and says no more than that.
  Hit step(const Id& ticket, KeyBatch keys, double now);
  bool salvage(const Id& lease, std::uint64_t session, const Id& into);

  // Writing: table_writing.cpp.
  struct ReserveRequest {
    std::optional<Key> parent;
    std::uint32_t geometry;
    std::span<const std::uint16_t> slots;
    std::uint32_t tenant;
    Id lease;
    std::uint64_t session;
    double now;
    double expires;
    Pool pool = Pool::cache;
  };
  struct Reserved {
    std::vector<Answer> answers;
    std::vector<Extent> extents;
    std::uint64_t bytes_missing = 0;
    std::uint64_t own_bytes_missing = 0;
  };
  // `all`: every object that the lease still has. Digests and runs as in _native.pyi.
  struct CommitRequest {
    std::uint64_t session;
    bool all;
    std::span<const std::uint32_t> indices;
    std::span<const std::uint64_t> digests;
    std::span<const std::uint64_t> runs;
    double now;
  };
  // Backs the memory that reserve() will write for these chunks of a prompt, of which so many were
  // made ready before, so that it meets no page faults.
  void make_ready(KeyBatch keys, std::uint32_t geometry, std::span<const std::uint16_t> slots,
                  std::uint32_t chunks_before);
  Reserved reserve(KeyBatch keys, const ReserveRequest& request);
  std::vector<Outcome> commit(const Id& lease, const CommitRequest& request);
  // The first part of a commit: of at most so many objects, though all of them are checked. `runs`:
  // how many of the request's digests of runs it used.
  struct Committed {
    std::vector<Outcome> outcomes;
    std::size_t runs = 0;
  };
  Committed commit_some(const Id& lease, const CommitRequest& request, std::uint32_t objects_max);
  std::vector<Outcome> loaded(const Id& lease, const CommitRequest& request);
  Outcome abort(const Id& lease, std::uint64_t session);
  [[nodiscard]] std::vector<std::uint64_t> runs(const Key& key, std::uint16_t slot);

  // Life cycle: table_life.cpp.
  struct Expired {
    std::uint32_t read_leases = 0;
    std::uint32_t write_leases = 0;
    std::uint32_t tickets = 0;
  };
  struct Evicted {
    std::uint64_t bytes = 0;
    std::uint64_t quarantined_bytes = 0;
    std::uint32_t objects = 0;
    bool over = false;  // nothing is left that may go
    std::vector<Key> keys;
  };
  // What of them ended, or became overdue wholly, and whether nothing is left.
  struct Ended {
    std::uint32_t count = 0;
    bool over = false;
  };
  // All that take an `objects_max` go on until they had so many objects, leave a lease half way if
  // need be, and go on from there when they are called again. Tickets are ended whole, by their
  // chunks; each lease and ticket counts as one more.
  Expired expire(double now, std::uint32_t objects_max);
  [[nodiscard]] double next_expiry();
  // How many leases it leaves behind that hold memory, those overdue before included.
  std::uint32_t stream_lost(std::uint64_t session);
  // Its process is proven dead, or its living owner touches nothing of it any more: the same to the
  // table.
  std::uint32_t session_over(std::uint64_t session);
  // One step of either. end_some() ends the tickets too that session_over() would. What is made for
  // the session between the steps, the last call meets.
  Ended orphan_some(std::uint64_t session, std::uint32_t objects_max);
  Ended end_some(std::uint64_t session, std::uint32_t objects_max);
  // As orphan_some(), of its reservations in one pool alone.
  Ended forsake_some(std::uint64_t session, std::uint32_t objects_max, Pool pool = Pool::cache);
  // Nobody can use its tickets any more.
  std::uint32_t instance_gone(std::uint64_t instance);
  Ended close_some(std::uint64_t instance, std::uint32_t chunks_max);
  // At most `chunks_max` chunks, however little they free.
  Evicted evict(std::uint64_t bytes_wanted, std::uint32_t chunks_max, double now);
  // The same of what one tenant under a quota may do without.
  Evicted evict_own(std::uint32_t tenant, std::uint64_t bytes_wanted, std::uint32_t chunks_max,
                    double now);
  std::uint32_t drop(KeyBatch keys);
  std::uint32_t drain();

  // Borrowing: table_borrowing.cpp.
  struct BorrowRequest {
    Id lease;
    std::uint64_t session;
    double now;
    double expires;
  };
  struct BorrowedObject {
    std::uint64_t offset;
    std::uint64_t bytes;
    std::uint64_t digest;
    std::uint32_t chunk;  // its key is keys[chunk]
    std::uint32_t tenant;
    std::uint16_t slot;
    std::uint16_t reserved;
    std::uint32_t runs;  // run digests that follow; 0: they are not kept
  };
  struct Borrowed {  // the lease exists if there is any object
    std::uint32_t geometry;
    std::vector<Key> keys{};
    std::vector<BorrowedObject> objects{};
    std::vector<std::uint64_t> runs{};  // of all objects, in order
    std::uint64_t bytes = 0;            // of the arena
    std::vector<CommitNews::Item> named{};
    std::uint32_t gone = 0;  // news of objects that are not resident any more
    bool over = false;       // of victims: nothing is left that may go; of a writer: its lease is
  };
  // `wanted`: one byte per slot of each chunk, chunk-major; 0: not that object. Empty: all.
  Borrowed borrow(KeyBatch keys, std::uint32_t geometry, const BorrowRequest& request,
                  std::string_view wanted = {});
  // What `writer` writes under a lease of its own, and has not committed: in ascending order.
  Borrowed borrow_writing(const Id& lease, std::uint64_t writer,
                          std::span<const std::uint32_t> indices, const BorrowRequest& request);
  Borrowed take_committed(std::uint32_t objects_max, std::uint64_t bytes_max,
                          const BorrowRequest& request);
  Borrowed victims(std::uint64_t bytes_wanted, std::uint32_t chunks_max,
                   const BorrowRequest& request);
  Borrowed victims_own(std::uint32_t tenant, std::uint64_t bytes_wanted, std::uint32_t chunks_max,
                       const BorrowRequest& request);
  Evicted evict_these(KeyBatch keys, double now);
  std::uint32_t drop_objects(KeyBatch keys, std::span<const std::uint16_t> slots);
  // What lookups can hit: table_changes.cpp.
  struct Residents {
    std::vector<Key> keys{};
    std::uint64_t cursor = 0;  // where the next step begins
    bool over = false;
  };
  ContentChanges::Taken take_changes(std::uint32_t chunks_max);
  Residents resident_keys(std::uint64_t cursor, std::uint32_t chunks_max);
  [[nodiscard]] const ContentChanges& changes() const { return contents_.changes(); }

  // A read lease becomes overdue before its time.
  Outcome let_go(const Id& lease, std::uint64_t session, double now);
  [[nodiscard]] const CommitNews& news() const { return news_; }
  void set_weight(std::uint32_t tenant, std::uint32_t weight);

  // Numbers and checks: table_checks.cpp.
  struct Statistics {
    std::uint64_t bytes_total, bytes_free, bytes_reserved, bytes_loaded, bytes_resident;
    std::uint64_t bytes_quarantined, bytes_pinned, largest_free_bytes;
    std::uint32_t chunks, placeholders, objects, leases, overdue_leases, tickets, sessions;
    std::uint64_t metadata_bytes;
    std::uint64_t evicted_chunks, evicted_bytes, damaged_objects, discarded_objects;
    std::uint64_t expired_leases, stale_calls, returned_handles;
    std::uint64_t pd_bytes_total, pd_bytes_free, pd_bytes_reserved, pd_bytes_loaded;
    std::uint64_t pd_bytes_quarantined, pd_largest_free_bytes;  // nothing else counts Pool::pd
  };
  [[nodiscard]] std::uint64_t free_bytes();
  [[nodiscard]] Statistics statistics();
  void validate();  // throws std::logic_error naming the first broken invariant
  [[nodiscard]] std::vector<std::string> story(const Key& key);

  [[nodiscard]] int return_fd() const { return returns_->event_fd(); }
  [[nodiscard]] LeaseHandle lease_handle(const Id& lease, std::uint64_t session);
  [[nodiscard]] LeaseHandle ticket_handle(const Id& ticket, std::uint64_t instance);

 private:
  struct Counters {
    std::uint64_t evicted_chunks = 0;
    std::uint64_t evicted_bytes = 0;
    std::uint64_t damaged_objects = 0;
    std::uint64_t discarded_objects = 0;
    std::uint64_t expired_leases = 0;
    std::uint64_t stale_calls = 0;
    std::uint64_t returned_handles = 0;
  };
  enum class Goal : std::uint8_t { loaded, resident };

  // First in every call.
  void begin();
  void begin(double now);
  void take_back(const ReturnQueue::Return& returned);
  Outcome stale();

  // Who is asking.
  Session& attached(std::uint64_t session);
  void require_lease_room(const Session& session, const Id& lease);
  static void require_count(KeyBatch keys);
  void require_geometry(std::span<const ChunkId> chunks, std::uint32_t geometry) const;
  static void require_slots(const Geometry& geometry, std::span<const std::uint16_t> slots,
                            std::size_t chunks);
  BookId lease_of(const Id& id, std::uint64_t session, Lease::Kind kind);

  // Reading.
  void require_ticket(const TicketRequest& request) const;
  void require_pins(std::span<const ChunkId> chunks) const;
  void require_pins(ChunkId id) const;
  void require_prompt_of(const Ticket& ticket, KeyBatch keys) const;
  Hit scan(KeyBatch keys, std::uint32_t geometry);
  void hide_foreign(std::span<ChunkId> found, std::uint32_t geometry) const;
  BookId make_ticket(const TicketRequest& request);
  Ticket& ticket_of(const Id& id);
  enum class Sight : std::uint8_t {
    near,
    far
  };  // of what is promised: what comes next, or all of it
  Hit grow(Ticket& ticket, KeyBatch keys, std::uint32_t states, Sight sight);
  void pin_for(Ticket& ticket, std::span<const ChunkId> chunks);
  void end_ticket(BookId place);
  [[nodiscard]] BookId lease_of_rank(const Ticket& ticket, std::uint32_t rank) const;
  static void set_rank(Ticket& ticket, std::uint32_t rank, const Id& lease);
  [[nodiscard]] std::vector<ObjectRef> readable_objects(const Ticket& ticket,
                                                        const AcquireRequest& request) const;
  [[nodiscard]] Acquired acquired(const Lease& lease) const;

  // Leases.
  BookId open_lease(const Id& id, std::uint64_t session, Lease::Kind kind, double expires);
  void hold(std::span<const ObjectRef> objects, std::size_t width);
  [[nodiscard]] std::vector<Extent> extents_of(const Lease& lease) const;

  // The ends of leases: table_ends.cpp.
  bool make_overdue(BookId place, Step& step);
  void hold_back(Lease& lease, std::size_t from, std::size_t until);
  void quarantine(Lease& lease, std::size_t from, std::size_t until);
  bool end_lease(BookId place, Step& step);
  void end_lease(BookId place);
  void give_back_reads(Lease& lease, std::size_t from);
  void give_back_writes(Lease& lease, std::size_t from);
  void let_go_of_written(Lease& lease, std::size_t index);
  void close_lease(BookId place);

  // Writing.
  struct Reservation {  // one under way
    const Geometry* geometry;
    const ReserveRequest* request;
    Reserved reserved{};
    std::vector<ObjectRef> objects{};
    std::uint32_t granted = 0;
    std::uint64_t pages_granted = 0;
    std::optional<Answer> refusal{};  // the first NO_ROOM or QUOTA; all that follows gets the same
    bool beyond_help = false;         // what is missing up to here is more than eviction can make
    std::uint32_t ancestors_left = Contents::kAncestorsMax;  // to be looked at for circles
  };
  struct Write {  // one object of a commit
    std::uint32_t index;
    std::uint64_t stamp;
    std::optional<std::uint64_t> digest;
    std::span<const std::uint64_t> runs;
  };
  void count_missing(std::uint64_t pages, Reservation& work);
  void reserve_chunk(const Key& key, ChunkId& id, Reservation& work);
  Committed settle_writes(const Id& lease, const CommitRequest& request, Goal goal,
                          std::size_t objects_max);
  std::vector<Outcome> settle_overdue_writes(BookId place, const CommitRequest& request);
  void require_digests(const Lease& lease, const CommitRequest& request,
                       std::span<const std::uint32_t> indices, Goal goal) const;
  Outcome settle_write(Lease& lease, const Write& write, Goal goal);

  // Life cycle.
  Ended orphan(const Session& session, Step& step, std::optional<Pool> writing_only = {});
  Ended end_all(const Session& session, Step& step);
  Ended close_tickets(std::uint64_t instance, Step& step);

  // Borrowing.
  void require_borrower(const BorrowRequest& request);
  void pick_chunk(ChunkId id, Picks& picks, std::string_view wanted = {});
  void hold_picks(const Picks& picks, std::uint32_t geometry, const BorrowRequest& request);
  Borrowed lend(const std::vector<ChunkId>& chosen, const BorrowRequest& request);
  void tell_borrowed(ObjectRef ref, Borrowed& borrowed) const;
  void evict_one(ChunkId victim, Evicted& evicted);
  void count_evicted(const Evicted& evicted);

  // Checks.
  void validate_leases(Contents::Holdings& holdings) const;
  void validate_lease(const Lease& lease, Contents::Holdings& holdings) const;
  void validate_tickets(Contents::Holdings& holdings) const;

  TableConfig config_;
  std::thread::id thread_;  // of the first call
  Contents contents_;
  std::unordered_map<std::uint64_t, Session> sessions_;
  std::unordered_map<std::uint64_t, Instance> instances_;  // those of sessions_
  IdBook<Lease> leases_;
  IdBook<Ticket> tickets_;
  ExpiryHeap lease_expiry_;   // live leases
  ExpiryHeap ticket_expiry_;  // all tickets
  std::uint32_t leases_overdue_ = 0;
  std::vector<Id> ended_;  // tickets whose end is to be told
  std::shared_ptr<ReturnQueue> returns_;
  Counters counters_;
  CommitNews news_;
  std::vector<ChunkId> found_;    // of the call under way; kept for their memory
  std::vector<ChunkId> touched_;  // the same
};

}  // namespace penstock
