#include "core/cuckoo_filter.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <string>
#include <utility>

#include "core/digest.hpp"

namespace penstock {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::uint64_t kCellMask = 0xFFF;
constexpr std::uint32_t kCellBits = 12;
constexpr std::uint64_t kBucketMask = (std::uint64_t{1} << 48U) - 1;
constexpr std::uint64_t kEveryCell = 0x001001001001;  // one in each
constexpr std::uint64_t kCellTops = 0x800800800800;
constexpr std::uint64_t kPadding = 2;

constexpr std::uint32_t kMagic = 0x31464350;  // "PCF1"
struct PartHeader {
  std::uint32_t magic;
  std::uint32_t count;
  std::uint64_t buckets;
  std::uint64_t keys;
  std::uint64_t first;
};
static_assert(sizeof(PartHeader) == 32);
constexpr std::size_t kDigestBytes = 8;
constexpr std::uint64_t kPartBuckets =
    (CuckooFilter::kPartBytesMax - sizeof(PartHeader) - kDigestBytes) / CuckooFilter::kBucketBytes;

// The finaliser of splitmix64 (Steele, Lea, Flood, 2014).
std::uint64_t mix(std::uint64_t word) {
  word += 0x9E3779B97F4A7C15;
  word = (word ^ (word >> 30U)) * 0xBF58476D1CE4E5B9;
  word = (word ^ (word >> 27U)) * 0x94D049BB133111EB;
  return word ^ (word >> 31U);
}

// From [0, 2^64) to [0, range), evenly.
std::uint64_t scaled(std::uint64_t word, std::uint64_t range) {
  return static_cast<std::uint64_t>((static_cast<unsigned __int128>(word) * range) >> 64U);
}

// The top bit of every cell that equals `fingerprint`, exact up to the first; 0: there is none.
std::uint64_t matches(std::uint64_t cells, std::uint64_t fingerprint) {
  const std::uint64_t differences = cells ^ (fingerprint * kEveryCell);
  return (differences - kEveryCell) & ~differences & kCellTops;
}

std::uint64_t checked_buckets(std::uint64_t buckets) {
  if (buckets < CuckooFilter::kBucketsMin || buckets > CuckooFilter::kBucketsMax) {
    throw BadArgument("a filter of " + std::to_string(buckets) + " buckets: give " +
                      std::to_string(CuckooFilter::kBucketsMin) + " to " +
                      std::to_string(CuckooFilter::kBucketsMax));
  }
  return buckets;
}

}  // namespace

// Beyond 95 in 100 slots what is added moves more and more of what is there.
CuckooFilter::CuckooFilter(std::uint64_t buckets)
    : buckets_(checked_buckets(buckets)),
      keys_max_(buckets * kSlots * 95 / 100),
      cells_(buckets * kBucketBytes + kPadding) {}

std::uint64_t CuckooFilter::buckets_for(std::uint64_t keys) {
  const std::uint64_t with_room = std::min(keys, kBucketsMax * 3) * 5 / 4;
  const std::uint64_t buckets = (with_room * 100 / 95 + kSlots - 1) / kSlots;
  return std::clamp(buckets, kBucketsMin, kBucketsMax);
}

// From the low half of the name; its bucket is from the high bits.
CuckooFilter::Fingerprint CuckooFilter::fingerprint_of(ChunkName name) {
  return 1 + static_cast<Fingerprint>(((name & UINT32_MAX) * kCellMask) >> 32U);
}

std::uint64_t CuckooFilter::bucket_of(ChunkName name) const {
  return scaled(name, buckets_);
}

// The two buckets of a fingerprint add up to the same number for all its names, modulo their
// count: each leads to the other, whatever the count is.
std::uint64_t CuckooFilter::other_bucket(std::uint64_t bucket, Fingerprint fingerprint) const {
  const std::uint64_t sum = scaled(mix(fingerprint), buckets_);
  return sum >= bucket ? sum - bucket : sum + buckets_ - bucket;
}

std::uint64_t CuckooFilter::load(std::uint64_t bucket) const {
  std::uint64_t word = 0;
  std::memcpy(&word, cells_.data() + bucket * kBucketBytes, sizeof(word));
  return word & kBucketMask;
}

void CuckooFilter::store(std::uint64_t bucket, std::uint64_t cells) {
  std::memcpy(cells_.data() + bucket * kBucketBytes, &cells, kBucketBytes);
}

CuckooFilter::Fingerprint CuckooFilter::swap(Place place, Fingerprint fingerprint) {
  const std::uint32_t shift = place.slot * kCellBits;
  const std::uint64_t cells = load(place.bucket);
  store(place.bucket,
        (cells & ~(kCellMask << shift)) | (static_cast<std::uint64_t>(fingerprint) << shift));
  return static_cast<Fingerprint>((cells >> shift) & kCellMask);
}

// The first of this fingerprint, or of the empty slots, in the bucket.
bool CuckooFilter::replace(std::uint64_t bucket, Fingerprint from, Fingerprint to) {
  const std::uint64_t found = matches(load(bucket), from);
  if (found == 0) return false;
  const auto slot = static_cast<std::uint32_t>(std::countr_zero(found)) / kCellBits;
  swap({bucket, slot}, to);
  return true;
}

bool CuckooFilter::add(ChunkName name) {
  if (keys_ >= keys_max_) return false;
  const Fingerprint fingerprint = fingerprint_of(name);
  const std::uint64_t bucket = bucket_of(name);
  if (!replace(bucket, 0, fingerprint)) {
    const std::uint64_t other = other_bucket(bucket, fingerprint);
    if (!replace(other, 0, fingerprint) && !add_by_moving(other, fingerprint)) return false;
  }
  ++keys_;
  return true;
}

// Takes the place of another, which goes to its other bucket, and so on. Whose turn it is is drawn
// from what is there alone, so that copies move alike.
bool CuckooFilter::add_by_moving(std::uint64_t bucket, Fingerprint fingerprint) {
  std::array<Place, kKicksMax> path;
  for (std::uint32_t kick = 0; kick < kKicksMax; ++kick) {
    const std::uint64_t drawn =
        mix(bucket ^ (std::uint64_t{fingerprint} << 40U) ^ (std::uint64_t{kick} << 52U));
    path[kick] = {bucket, static_cast<std::uint32_t>(drawn % kSlots)};
    fingerprint = swap(path[kick], fingerprint);
    bucket = other_bucket(bucket, fingerprint);
    if (replace(bucket, 0, fingerprint)) return true;
  }
  for (std::uint32_t kick = kKicksMax; kick-- > 0;) fingerprint = swap(path[kick], fingerprint);
  return false;
}

bool CuckooFilter::remove(ChunkName name) {
  const Fingerprint fingerprint = fingerprint_of(name);
  const std::uint64_t bucket = bucket_of(name);
  if (!replace(bucket, fingerprint, 0) &&
      !replace(other_bucket(bucket, fingerprint), fingerprint, 0)) {
    return false;
  }
  --keys_;
  return true;
}

bool CuckooFilter::contains(ChunkName name) const {
  const Fingerprint fingerprint = fingerprint_of(name);
  const std::uint64_t bucket = bucket_of(name);
  return matches(load(bucket), fingerprint) != 0 ||
         matches(load(other_bucket(bucket, fingerprint)), fingerprint) != 0;
}

void CuckooFilter::prefetch(ChunkName name) const {
  const std::uint64_t bucket = bucket_of(name);
  __builtin_prefetch(cells_.data() + bucket * kBucketBytes);
  __builtin_prefetch(cells_.data() + other_bucket(bucket, fingerprint_of(name)) * kBucketBytes);
}

// Slots that are not empty: what is not 0 carries into the top bit of its cell, or has it.
std::uint64_t CuckooFilter::count_taken(std::uint64_t first, std::uint64_t count) const {
  constexpr std::uint64_t kBelowTops = kBucketMask ^ kCellTops;
  std::uint64_t taken = 0;
  for (std::uint64_t bucket = first; bucket < first + count; ++bucket) {
    const std::uint64_t cells = load(bucket);
    const std::uint64_t tops = ((cells & kBelowTops) + kBelowTops) | cells;
    taken += static_cast<std::uint64_t>(std::popcount(tops & kCellTops));
  }
  return taken;
}

std::uint64_t CuckooFilter::parts_of(std::uint64_t buckets) {
  return (buckets + kPartBuckets - 1) / kPartBuckets;
}

std::vector<std::byte> CuckooFilter::part(std::uint64_t number) const {
  if (number >= parts()) {
    throw BadArgument("part " + std::to_string(number) + " of a filter in " +
                      std::to_string(parts()) + " parts");
  }
  const std::uint64_t first = number * kPartBuckets;
  const std::uint64_t count = std::min(kPartBuckets, buckets_ - first);
  const PartHeader header{kMagic, static_cast<std::uint32_t>(count), buckets_, keys_, first};
  const std::size_t body = sizeof(header) + count * kBucketBytes;
  std::vector<std::byte> bytes(body + kDigestBytes);
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::memcpy(bytes.data() + sizeof(header), cells_.data() + first * kBucketBytes,
              count * kBucketBytes);
  const std::uint64_t digest = crc64(std::span(bytes).first(body));
  std::memcpy(bytes.data() + body, &digest, sizeof(digest));
  return bytes;
}

FilterAssembly::Part FilterAssembly::read(std::span<const std::byte> bytes) {
  PartHeader header{};
  if (bytes.size() < sizeof(header) + kDigestBytes || bytes.size() > CuckooFilter::kPartBytesMax) {
    throw FilterMalformed("a part of a filter has " + std::to_string(bytes.size()) + " bytes");
  }
  const std::size_t body = bytes.size() - kDigestBytes;
  std::uint64_t digest = 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  std::memcpy(&digest, bytes.data() + body, sizeof(digest));
  if (header.magic != kMagic) throw FilterMalformed("a part of a filter has another form");
  if (digest != crc64(bytes.first(body))) {
    throw FilterMalformed("a part of a filter is damaged");
  }
  const bool is_possible = header.buckets >= CuckooFilter::kBucketsMin &&
                           header.buckets <= CuckooFilter::kBucketsMax &&
                           header.keys <= header.buckets * CuckooFilter::kSlots &&
                           header.first < header.buckets && header.first % kPartBuckets == 0 &&
                           header.count == std::min(kPartBuckets, header.buckets - header.first) &&
                           body == sizeof(header) + header.count * CuckooFilter::kBucketBytes;
  if (!is_possible) throw FilterMalformed("a part of a filter contradicts itself");
  return {header.buckets, header.keys, header.first,
          bytes.subspan(sizeof(header), body - sizeof(header))};
}

FilterAssembly::FilterAssembly(const Part& first)
    : filter_(first.buckets),
      keys_(first.keys),
      seen_(CuckooFilter::parts_of(first.buckets)),
      missing_(seen_.size()) {}

void FilterAssembly::take(const Part& part) {
  if (part.buckets != filter_.buckets_ || part.keys != keys_) {
    throw FilterMalformed("parts of two filters are mixed");
  }
  const std::uint64_t number = part.first / kPartBuckets;
  if (seen_[number]) return;
  seen_[number] = true;
  --missing_;
  std::memcpy(filter_.cells_.data() + part.first * CuckooFilter::kBucketBytes, part.cells.data(),
              part.cells.size());
  taken_ += filter_.count_taken(part.first, part.cells.size() / CuckooFilter::kBucketBytes);
}

CuckooFilter FilterAssembly::finish() && {
  if (taken_ != keys_) {
    throw FilterMalformed("a filter has not as many names as it says");
  }
  filter_.keys_ = keys_;
  return std::move(filter_);
}

}  // namespace penstock
