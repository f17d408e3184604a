#include "core/directory.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace penstock {
namespace {

// Peers that promise as much are asked in an order of each chunk's own, and each node's.
std::uint64_t turn_of(std::uint32_t peer, std::uint64_t drawn) {
  const std::uint64_t mixed = (drawn ^ (std::uint64_t{peer} + 1)) * 0x9E3779B97F4A7C15;
  return mixed ^ (mixed >> 32U);
}

}  // namespace

Directory::Directory(std::uint64_t bytes_max, std::uint64_t seed)
    : bytes_max_(bytes_max), seed_(seed) {}

Directory::Peer& Directory::peer_at(std::uint32_t peer) {
  if (peer >= kPeersMax) {
    throw BadArgument("peer " + std::to_string(peer) + ": give a number below " +
                      std::to_string(kPeersMax));
  }
  if (peer >= peers_.size()) peers_.resize(peer + 1);
  return peers_[peer];
}

const Directory::Peer* Directory::find(std::uint32_t peer) const {
  return peer < peers_.size() ? &peers_[peer] : nullptr;
}

std::uint64_t Directory::bytes_of(const Peer& peer) {
  return (peer.filter == nullptr ? 0 : peer.filter->bytes()) +
         (peer.coming == nullptr ? 0 : peer.coming->bytes());
}

void Directory::drop_filter(Peer& peer) {
  if (peer.filter == nullptr) return;
  bytes_ -= peer.filter->bytes();
  peer.filter.reset();
}

void Directory::drop_coming(Peer& peer) {
  if (peer.coming == nullptr) return;
  bytes_ -= peer.coming->bytes();
  peer.coming.reset();
}

void Directory::begin(std::uint32_t peer) {
  drop_coming(peer_at(peer));
}

// What it has said before is of use until the new one is whole, if there is room for both.
Directory::Taken Directory::take_part(std::uint32_t number, std::span<const std::byte> bytes) {
  Peer& peer = peer_at(number);
  const FilterAssembly::Part part = FilterAssembly::read(bytes);
  if (peer.coming == nullptr) {
    const std::uint64_t needed = FilterAssembly::bytes_of(part.buckets);
    if (needed > bytes_max_ || bytes_ > bytes_max_ - needed) drop_filter(peer);
    if (needed > bytes_max_ || bytes_ > bytes_max_ - needed) return Taken::no_room;
    peer.coming = std::make_unique<FilterAssembly>(part);
    bytes_ += peer.coming->bytes();
  }
  peer.coming->take(part);
  if (!peer.coming->is_whole()) return Taken::more;
  auto filter = std::make_unique<CuckooFilter>(std::move(*peer.coming).finish());
  peer.coming.reset();  // whose memory, counted before, is the filter's now
  drop_filter(peer);
  peer.filter = std::move(filter);
  return Taken::whole;
}

bool Directory::change(std::uint32_t number, std::span<const ChunkName> gone,
                       std::span<const ChunkName> added) {
  Peer& peer = peer_at(number);
  if (peer.filter == nullptr) return false;
  CuckooFilter& filter = *peer.filter;
  return std::ranges::all_of(gone, [&](ChunkName name) { return filter.remove(name); }) &&
         std::ranges::all_of(added, [&](ChunkName name) { return filter.add(name); });
}

void Directory::forget(std::uint32_t number) {
  Peer& peer = peer_at(number);
  drop_filter(peer);
  drop_coming(peer);
}

std::vector<Directory::Promise> Directory::promises(KeyBatch keys, std::size_t first) const {
  std::vector<Promise> promises;
  if (first >= keys.size()) return promises;
  const ChunkName missing = name_of(keys[first]);
  for (const Peer& peer : peers_) {
    if (peer.filter != nullptr) peer.filter->prefetch(missing);
  }
  for (std::uint32_t number = 0; number < peers_.size(); ++number) {
    const CuckooFilter* filter = peers_[number].filter.get();
    if (filter == nullptr) continue;
    std::size_t end = first;
    while (end < keys.size() && filter->contains(name_of(keys[end]))) ++end;
    if (end > first) promises.push_back({number, static_cast<std::uint32_t>(end - first)});
  }
  const std::uint64_t drawn = seed_ ^ missing;
  std::ranges::sort(promises, [drawn](const Promise& left, const Promise& right) {
    if (left.chunks != right.chunks) return left.chunks > right.chunks;
    return turn_of(left.peer, drawn) < turn_of(right.peer, drawn);
  });
  return promises;
}

std::uint64_t Directory::bytes_of(std::uint32_t number) const {
  const Peer* peer = find(number);
  return peer == nullptr ? 0 : bytes_of(*peer);
}

std::uint64_t Directory::keys_of(std::uint32_t number) const {
  const Peer* peer = find(number);
  return peer == nullptr || peer->filter == nullptr ? 0 : peer->filter->keys();
}

void Directory::validate() const {
  std::uint64_t bytes = 0;
  for (const Peer& peer : peers_) bytes += bytes_of(peer);
  if (bytes != bytes_) throw std::logic_error("the bytes of all peers are not what was counted");
  if (bytes > bytes_max_) throw std::logic_error("peers take more than bytes_max");
}

}  // namespace penstock
