// The records of chunks and objects, and the index that finds them.
#pragma once

#include <cstdint>
#include <span>

#include "core/key_index.hpp"
#include "core/mapped_array.hpp"
#include "core/table_types.hpp"

namespace penstock {

// One object: where its bytes are and who reads them. Objects of a chunk are a list that begins
// inside the chunk.
struct Object {
  std::uint64_t digest;
  std::uint32_t page;     // first page of its extent
  std::uint32_t next;     // the chunk's next object, as in ObjectRef; 0 ends the list
  std::uint16_t readers;  // leases on it, live or overdue; of a reserved one, the node's
  std::uint16_t slot;
  ObjectState state;  // free: only of the one inside the chunk
  bool damaged;       // in flight, but a reader found it damaged: it must not become resident
  bool has_runs;      // its run digests are kept
};
static_assert(sizeof(Object) == 24);

// What a lookup touches of a chunk: one cache line.
struct alignas(64) Chunk {
  Key key;
  Object first;
  std::uint32_t pins : 24;    // tickets and live read leases
  std::uint32_t indexed : 1;  // found by its key
  std::uint32_t queued : 1;   // entered in the policy
  std::uint32_t base : 1;     // something rests on it: children, or objects in flight
  std::uint32_t listed : 1;   // in its tenant's list: contents.hpp
  std::uint16_t geometry;
  std::uint16_t resident;  // objects that are RESIDENT
};
static_assert(sizeof(Chunk) == 64);
inline constexpr std::uint32_t kPinsMax = (1U << 24U) - 1;
inline constexpr std::uint16_t kReadersMax = UINT16_MAX;

// The rest of it.
struct Lineage {
  ChunkId parent;  // kNoChunk at a prompt's start, or when the parent was never seen
  std::uint32_t children;
  std::uint32_t tenant;     // whose quota its objects count against
  std::uint32_t in_flight;  // objects that are RESERVED or LOADED
};
static_assert(sizeof(Lineage) == 16);

// Gives and takes records. Rules about states are Contents's.
class ChunkStore {
 public:
  // Room for so many objects, and as many chunks.
  ChunkStore(std::uint32_t objects_max, std::uint64_t hash_seed);
  ~ChunkStore();
  ChunkStore(const ChunkStore&) = delete;
  ChunkStore& operator=(const ChunkStore&) = delete;
  ChunkStore(ChunkStore&&) = delete;
  ChunkStore& operator=(ChunkStore&&) = delete;

  // The chunk of every key, or kNoChunk. The cache misses of up to kWindow keys overlap.
  static constexpr std::size_t kWindow = 128;
  void find(KeyBatch keys, std::span<ChunkId> found) const;
  [[nodiscard]] ChunkId find(const Key& key) const;

  [[nodiscard]] Chunk& chunk(ChunkId id) { return chunks_[id]; }
  [[nodiscard]] const Chunk& chunk(ChunkId id) const { return chunks_[id]; }
  [[nodiscard]] Lineage& lineage(ChunkId id) { return lineages_[id]; }
  [[nodiscard]] const Lineage& lineage(ChunkId id) const { return lineages_[id]; }
  [[nodiscard]] Object& object(ObjectRef ref) {
    return ref.object == 0 ? chunks_[ref.chunk].first : objects_[ref.object - 1];
  }
  [[nodiscard]] const Object& object(ObjectRef ref) const {
    return ref.object == 0 ? chunks_[ref.chunk].first : objects_[ref.object - 1];
  }
  void prefetch(ChunkId id) const { chunks_.prefetch(id); }
  void prefetch_lineage(ChunkId id) const { lineages_.prefetch(id); }

  // A new record in the index, without objects. There must be chunk_room().
  ChunkId create(const Key& key, std::uint16_t geometry);
  // `kept`: with so many records left over.
  [[nodiscard]] bool chunk_room(std::uint32_t kept = 0) const {
    return std::uint64_t{chunks_used_} + kept < chunks_.size();
  }
  // Backs the memory that create() and add_object() will write for these keys, when so many chunks
  // are created before them and each gets so many objects.
  void make_ready(KeyBatch keys, std::size_t chunks_before, std::size_t objects_a_chunk);
  // Out of the index; the record stays for those who hold it.
  void unindex(ChunkId id);
  // The record may serve another chunk. It must be out of the index and without objects.
  void free(ChunkId id);

  // A new object of the chunk, RESERVED. There must be object_room().
  ObjectRef add_object(ChunkId id, std::uint16_t slot, std::uint32_t page);
  [[nodiscard]] bool object_room(std::uint32_t kept = 0) const {
    return std::uint64_t{objects_used_} + kept < objects_.size();
  }
  // Takes the record out of its chunk. Records of other objects keep their place.
  void remove_object(ObjectRef ref);

  // The chunk's object of that slot that is not quarantined, if it has one.
  [[nodiscard]] ObjectRef find_object(ChunkId id, std::uint16_t slot) const;
  // The same for many chunks, cache misses overlapping; kNoChunk finds none.
  void find_objects(std::span<const ChunkId> ids, std::uint16_t slot,
                    std::span<ObjectRef> found) const;
  // Calls visit(ObjectRef, const Object&) for every object of the chunk, quarantined ones included.
  // `visit` may remove the object it is shown.
  template <typename Visitor>
  void each_object(ChunkId id, Visitor visit) const;
  // Calls visit(ChunkId) for every record below chunks_ever() that serves no chunk.
  template <typename Visitor>
  void each_free_chunk(Visitor visit) const {
    for (ChunkId id = free_chunk_; id != kNoChunk; id = lineages_[id].parent) visit(id);
  }
  [[nodiscard]] bool has_objects(ChunkId id) const {
    const Object& first = chunks_[id].first;
    return first.state != ObjectState::free || first.next != 0;
  }

  // Run digests, kept outside the records: an object of one run has none beside its own. 8 bytes
  // each, 8 for their number, 8 for where they are, and what the heap adds (8 or 16). An empty
  // span keeps none.
  void set_runs(ObjectRef ref, std::span<const std::uint64_t> digests);
  [[nodiscard]] std::span<const std::uint64_t> runs(ObjectRef ref) const;

  [[nodiscard]] std::uint32_t chunks_ever() const { return chunks_ever_; }
  [[nodiscard]] std::uint32_t chunks_used() const { return chunks_used_; }
  [[nodiscard]] std::uint32_t chunks_indexed() const { return index_.size(); }
  [[nodiscard]] std::uint32_t objects_used() const { return objects_used_; }
  // Memory these records take: all that were ever used, run digests with what the heap adds to
  // them, and the whole index.
  [[nodiscard]] std::uint64_t bytes() const;

 private:
  using Runs = std::uint64_t*;  // how many, then the digests

  [[nodiscard]] Runs& runs_of(ObjectRef ref) {
    return ref.object == 0 ? first_runs_[ref.chunk] : object_runs_[ref.object - 1];
  }
  void drop_runs(ObjectRef ref);

  KeyIndex index_;
  MappedArray<Chunk> chunks_;
  MappedArray<Lineage> lineages_;
  MappedArray<Object> objects_;    // all but the first of each chunk
  MappedArray<Runs> first_runs_;   // of the objects inside chunks; null when not kept
  MappedArray<Runs> object_runs_;  // of the others
  std::uint32_t chunks_ever_ =
      0;  // records below this were used; free ones are a list through lineage.parent
  std::uint32_t chunks_used_ = 0;
  ChunkId free_chunk_ = kNoChunk;
  std::uint32_t objects_ever_ = 0;  // the same for objects_, a list through next
  std::uint32_t objects_used_ = 0;  // those inside chunks are counted too
  std::uint32_t free_object_ = 0;
  std::uint32_t first_runs_ever_ = 0;   // entries of first_runs_ below this were used
  std::uint32_t object_runs_ever_ = 0;  // the same for object_runs_
  std::uint64_t runs_bytes_ = 0;        // of the digests that are kept
};

template <typename Visitor>
void ChunkStore::each_object(ChunkId id, Visitor visit) const {
  const Object& first = chunks_[id].first;
  std::uint32_t next = first.next;
  if (first.state != ObjectState::free) visit(ObjectRef{id, 0}, first);
  while (next != 0) {
    const Object& object = objects_[next - 1];
    const ObjectRef ref{id, next};
    next = object.next;
    visit(ref, object);
  }
}

}  // namespace penstock
