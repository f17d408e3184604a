// What peers have said they have: one filter for each, and which of them to ask for a prompt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/cuckoo_filter.hpp"
#include "core/table_types.hpp"

namespace penstock {

// Peers are small numbers that the caller gives. Belongs to one thread.
class Directory {
 public:
  static constexpr std::uint32_t kPeersMax = 65536;

  // `bytes_max`: of all filters, those that are coming in included. `seed`: of the order of peers
  // that promise as much.
  Directory(std::uint64_t bytes_max, std::uint64_t seed);

  enum class Taken : std::uint8_t {
    more,     // other parts are missing
    whole,    // it was the last: what the peer had said before is replaced
    no_room,  // the peer is forgotten
  };
  // A part of a peer's snapshot, the first of a new one after begin(). Throws FilterMalformed:
  // begin anew.
  void begin(std::uint32_t peer);
  Taken take_part(std::uint32_t peer, std::span<const std::byte> part);
  // Packed names of what has gone, and then come. False if that does not fit what the peer has said
  // before, which is not what it has now, then.
  bool change(std::uint32_t peer, std::span<const ChunkName> gone,
              std::span<const ChunkName> added);
  void forget(std::uint32_t peer);

  struct Promise {
    std::uint32_t peer;
    std::uint32_t chunks;
  };
  // Who says yes to keys[first], and to how many from there on; the longest first.
  [[nodiscard]] std::vector<Promise> promises(KeyBatch keys, std::size_t first) const;

  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  [[nodiscard]] std::uint64_t bytes_max() const { return bytes_max_; }
  [[nodiscard]] std::uint64_t bytes_of(std::uint32_t peer) const;
  [[nodiscard]] std::uint64_t keys_of(std::uint32_t peer) const;
  void validate() const;  // throws std::logic_error

 private:
  struct Peer {
    std::unique_ptr<CuckooFilter> filter;
    std::unique_ptr<FilterAssembly> coming;
  };

  Peer& peer_at(std::uint32_t peer);
  [[nodiscard]] const Peer* find(std::uint32_t peer) const;
  [[nodiscard]] static std::uint64_t bytes_of(const Peer& peer);
  void drop_filter(Peer& peer);
  void drop_coming(Peer& peer);

  std::uint64_t bytes_max_;
  std::uint64_t seed_;
  std::uint64_t bytes_ = 0;
  std::vector<Peer> peers_;  // by number
};

}  // namespace penstock
