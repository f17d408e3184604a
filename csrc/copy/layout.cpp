#include "copy/layout.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <iterator>
#include <string>

namespace penstock {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr Wide kBytesMax = Wide{1} << 63;

struct Dimension {
  const char* name;
  std::uint64_t count;
  std::uint64_t stride;
};

std::array<Dimension, 3> dimensions(const LayoutRecord& record) {
  return {{{"blocks", record.blocks, record.s_block},
           {"slots", record.block_slots, record.s_slot},
           {"heads", record.heads, record.s_head}}};
}

void require(bool good, const std::string& otherwise) {
  if (!good) {
    throw LayoutRefused(otherwise);
  }
}

void check_counts(const LayoutRecord& record) {
  require(record.layers > 0, "a layout has at least one layer");
  require(record.components == 1 || record.components == 2,
          "a layout has 1 or 2 components (K and V), not " + std::to_string(record.components));
  require(record.head_bytes > 0, "a head run has at least one byte");
  for (const Dimension& dimension : dimensions(record)) {
    require(dimension.count > 0, std::string("a layout without ") + dimension.name);
  }
  const Wide wanted = Wide{record.layers} * record.components;
  require(record.bases.size() == wanted && record.span_bytes.size() == wanted,
          "a layout of " + std::to_string(record.layers) + " layers and " +
              std::to_string(record.components) +
              " components has one base and one span for each pair, not " +
              std::to_string(record.bases.size()) + " and " +
              std::to_string(record.span_bytes.size()));
}

/// From the first byte of a base to the last one that a block can have. Two coordinates never share
/// a byte: each stride, taken from the smallest up, must step over everything below it.
std::uint64_t checked_extent(const LayoutRecord& record) {
  auto ordered = dimensions(record);
  std::ranges::sort(ordered, {}, &Dimension::stride);
  Wide extent = record.head_bytes;
  for (const Dimension& dimension : ordered) {
    if (dimension.count == 1) {
      continue;
    }
    require(dimension.stride >= extent, std::string(dimension.name) + " overlap: they are " +
                                            std::to_string(dimension.stride) +
                                            " bytes apart, and one takes " +
                                            std::to_string(static_cast<std::uint64_t>(extent)));
    extent += Wide{dimension.count - 1} * dimension.stride;
    require(extent < kBytesMax, "a layout that spans more than 2^63 bytes");
  }
  return static_cast<std::uint64_t>(extent);
}

/// The dimensions that have a stride, largest stride first.
std::vector<Dimension> strided(const LayoutRecord& record) {
  std::vector<Dimension> kept;
  std::ranges::copy_if(dimensions(record), std::back_inserter(kept),
                       [](const Dimension& dimension) { return dimension.count > 1; });
  std::ranges::sort(kept, std::ranges::greater(), &Dimension::stride);
  return kept;
}

/// Whether a head run of one base shares a byte with one of a base `distance` bytes further on.
/// Each stride steps over everything below it, so of a dimension's multiples only the two around
/// the distance come near enough; what matters below is how far off they are, not to which side.
bool runs_meet(std::span<const Dimension> dimensions, std::uint64_t head_bytes,
               std::uint64_t distance) {
  if (dimensions.empty()) return distance < head_bytes;
  const auto [name, count, stride] = dimensions.front();
  const std::uint64_t steps = distance / stride;
  const std::uint64_t beyond = distance % stride;
  const std::span<const Dimension> below = dimensions.subspan(1);
  return (steps < count && runs_meet(below, head_bytes, beyond)) ||
         (steps + 1 < count && runs_meet(below, head_bytes, stride - beyond));
}

/// Memory of two (layer, component) pairs may be interleaved, as it is where the layers or K and V
/// of a block lie side by side, but no byte may be of both.
void check_apart(const LayoutRecord& record, std::uint64_t extent) {
  std::vector<std::uint64_t> sorted = record.bases;
  std::ranges::sort(sorted);
  require(std::ranges::adjacent_find(sorted) == sorted.end(),
          "two (layer, component) pairs have the same base");
  const std::vector<Dimension> dimensions = strided(record);
  for (auto base = sorted.begin(); base != sorted.end(); ++base) {
    for (auto other = base + 1; other != sorted.end() && *other - *base < extent; ++other) {
      require(!runs_meet(dimensions, record.head_bytes, *other - *base),
              "two (layer, component) pairs overlap: their bases are " +
                  std::to_string(*other - *base) +
                  " bytes apart, and with the declared strides some head runs of both share bytes");
    }
  }
}

void check_bases(const LayoutRecord& record, std::uint64_t extent) {
  for (std::size_t i = 0; i < record.bases.size(); ++i) {
    require(record.bases[i] != 0, "base " + std::to_string(i) + " is a null pointer");
    require(Wide{record.bases[i]} + extent < kBytesMax,
            "base " + std::to_string(i) + " is not an address");
    require(record.span_bytes[i] >= extent, "the memory at base " + std::to_string(i) + " is " +
                                                std::to_string(record.span_bytes[i]) +
                                                " bytes, and the declared blocks reach " +
                                                std::to_string(extent) + " bytes");
  }
}

/// Joins heads that touch, then slots that touch. A single long run is cut into slots again, by
/// halves, so that it is asked for in steps and several threads can share it.
BlockShape joined_shape(const LayoutRecord& record) {
  constexpr std::uint64_t kLongRunBytes = std::uint64_t{16} << 10;
  constexpr std::uint64_t kCutBytes = 256;
  BlockShape shape{.slots = record.block_slots,
                   .heads = record.heads,
                   .run_bytes = record.head_bytes,
                   .s_block = record.s_block,
                   .s_slot = record.s_slot,
                   .s_head = record.s_head};
  if (shape.heads == 1 || shape.s_head == shape.run_bytes) {
    shape.run_bytes *= shape.heads;
    shape.heads = 1;
  }
  if (shape.heads == 1 && (shape.slots == 1 || shape.s_slot == shape.run_bytes)) {
    shape.run_bytes *= shape.slots;
    shape.slots = 1;
  }
  if (shape.slots * shape.heads == 1) {
    while (shape.run_bytes > kLongRunBytes && shape.run_bytes % (2 * kCutBytes) == 0) {
      shape.slots *= 2;
      shape.run_bytes /= 2;
    }
    shape.s_slot = shape.run_bytes;
  }
  return shape;
}

std::uint64_t common_alignment(const LayoutRecord& record) {
  std::uint64_t bits = record.head_bytes;
  for (const std::uint64_t base : record.bases) {
    bits |= base;
  }
  for (const Dimension& dimension : dimensions(record)) {
    bits |= dimension.count > 1 ? dimension.stride : 0;
  }
  return bits & (~bits + 1);
}

std::vector<std::pair<std::uint64_t, std::uint64_t>> merged_spans(const LayoutRecord& record,
                                                                  std::uint64_t extent) {
  std::vector<std::uint64_t> sorted = record.bases;
  std::ranges::sort(sorted);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> spans;
  for (const std::uint64_t base : sorted) {
    if (!spans.empty() && base <= spans.back().second) {
      spans.back().second = base + extent;
    } else {
      spans.emplace_back(base, base + extent);
    }
  }
  return spans;
}

}  // namespace

PagedLayout::PagedLayout(LayoutRecord record) : record_(std::move(record)) {
  check_counts(record_);
  const std::uint64_t extent = checked_extent(record_);
  check_bases(record_, extent);
  check_apart(record_, extent);
  shape_ = joined_shape(record_);
  alignment_ = common_alignment(record_);
  spans_ = merged_spans(record_, extent);
}

std::byte* PagedLayout::base(std::uint64_t layer, std::uint64_t kv) const noexcept {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): engines name their memory by address.
  return reinterpret_cast<std::byte*>(record_.bases[layer * record_.components + kv]);
}

std::uint64_t PagedLayout::run_bytes(std::uint64_t object_blocks) const {
  const Wide bytes = Wide{shape_.block_bytes()} * object_blocks;
  require(bytes < kBytesMax, "a run of more than 2^63 bytes");
  return static_cast<std::uint64_t>(bytes);
}

std::uint64_t PagedLayout::object_bytes(std::uint64_t object_blocks) const {
  const Wide bytes = Wide{run_bytes(object_blocks)} * record_.bases.size();
  require(bytes < kBytesMax, "an object of more than 2^63 bytes");
  return static_cast<std::uint64_t>(bytes);
}

bool PagedLayout::overlaps(std::uint64_t address, std::uint64_t bytes) const noexcept {
  // The first span that ends beyond the address is the only one that can begin before its end
  // first.
  const auto span = std::ranges::upper_bound(
      spans_, address, {}, [](const auto& first_and_end) { return first_and_end.second; });
  return bytes != 0 && span != spans_.end() && span->first < address + bytes;
}

}  // namespace penstock
