#include "core/bitmap.hpp"

#include <algorithm>
#include <bit>
#include <string>

namespace penstock {
namespace {

constexpr std::size_t kWordBits = 64;

constexpr std::size_t words_for(std::size_t bits) noexcept {
  return bits / kWordBits + (bits % kWordBits != 0 ? 1 : 0);
}

/// The lowest `count` bits of a word; `count` is below 64.
constexpr std::uint64_t low_bits(std::size_t count) noexcept {
  return (std::uint64_t{1} << count) - 1;
}

/// The largest n at most `end` for which the rule of `group` holds.
std::size_t largest_holding(const GroupPresence& group, std::size_t end) {
  switch (group.rule) {
    case HitRule::full:
      return std::min(end, group.present->prefix());
    case HitRule::window:
      for (;;) {
        const std::size_t run = group.present->run_before(end);
        if (run >= std::min(group.window_chunks, end)) {
          return end;
        }
        // A hole at end - run - 1 spoils every n up to there plus the window, unless n is at or
        // before the hole. Shorter n after it see the hole too, since their window reaches back
        // at least as far.
        end = end - run - 1;
      }
    case HitRule::state: {
      const std::optional<std::size_t> last = group.present->highest_before(end);
      return last ? *last + 1 : 0;
    }
  }
  throw BitmapMismatch("a hit rule outside its enumeration");
}

}  // namespace

Bitmap::Bitmap(std::size_t size) : size_(size), words_(words_for(size)) {}

Bitmap Bitmap::from_bytes(std::span<const std::byte> packed, std::size_t size) {
  const std::size_t wanted = size / 8 + (size % 8 != 0 ? 1 : 0);
  if (packed.size() != wanted) {
    throw BitmapMismatch("a bitmap of " + std::to_string(size) + " bits is " +
                         std::to_string(wanted) + " bytes, not " + std::to_string(packed.size()));
  }
  Bitmap bitmap(size);
  for (std::size_t i = 0; i < packed.size(); ++i) {
    bitmap.words_[i / 8] |= std::to_integer<std::uint64_t>(packed[i]) << (8 * (i % 8));
  }
  if (size % kWordBits != 0) {
    bitmap.words_.back() &= low_bits(size % kWordBits);
  }
  return bitmap;
}

std::vector<std::byte> Bitmap::to_bytes() const {
  std::vector<std::byte> packed(size_ / 8 + (size_ % 8 != 0 ? 1 : 0));
  for (std::size_t i = 0; i < packed.size(); ++i) {
    packed[i] = static_cast<std::byte>(words_[i / 8] >> (8 * (i % 8)));
  }
  return packed;
}

bool Bitmap::test(std::size_t index) const {
  require_index(index);
  return ((words_[index / kWordBits] >> (index % kWordBits)) & 1) != 0;
}

void Bitmap::set(std::size_t index) {
  require_index(index);
  words_[index / kWordBits] |= std::uint64_t{1} << (index % kWordBits);
}

void Bitmap::reset(std::size_t index) {
  require_index(index);
  words_[index / kWordBits] &= ~(std::uint64_t{1} << (index % kWordBits));
}

std::size_t Bitmap::count() const noexcept {
  std::size_t ones = 0;
  for (const std::uint64_t word : words_) {
    ones += static_cast<std::size_t>(std::popcount(word));
  }
  return ones;
}

std::size_t Bitmap::prefix() const noexcept {
  for (std::size_t i = 0; i < words_.size(); ++i) {
    // The bits beyond the size are zero, so the last word ends the run where it should.
    if (~words_[i] != 0) {
      return i * kWordBits + static_cast<std::size_t>(std::countr_one(words_[i]));
    }
  }
  return size_;
}

std::size_t Bitmap::run_before(std::size_t end) const {
  require_end(end);
  std::size_t run = 0;
  while (run < end) {
    const std::size_t last = end - run - 1;
    const std::size_t in_word = last % kWordBits + 1;
    const std::uint64_t top = words_[last / kWordBits] << (kWordBits - in_word);
    const auto ones = static_cast<std::size_t>(std::countl_one(top));
    run += std::min(ones, in_word);
    if (ones < in_word) {
      break;
    }
  }
  return run;
}

std::optional<std::size_t> Bitmap::highest_before(std::size_t end) const {
  require_end(end);
  for (std::size_t above = end; above > 0;) {
    const std::size_t in_word = (above - 1) % kWordBits + 1;
    const std::size_t first = above - in_word;
    const std::uint64_t top = words_[first / kWordBits] << (kWordBits - in_word);
    if (top != 0) {
      return above - 1 - static_cast<std::size_t>(std::countl_zero(top));
    }
    above = first;
  }
  return std::nullopt;
}

Bitmap& Bitmap::operator&=(const Bitmap& other) {
  require_same_size(other);
  for (std::size_t i = 0; i < words_.size(); ++i) {
    words_[i] &= other.words_[i];
  }
  return *this;
}

Bitmap& Bitmap::operator|=(const Bitmap& other) {
  require_same_size(other);
  for (std::size_t i = 0; i < words_.size(); ++i) {
    words_[i] |= other.words_[i];
  }
  return *this;
}

void Bitmap::require_index(std::size_t index) const {
  if (index >= size_) {
    throw BitmapMismatch("bit " + std::to_string(index) + " of a bitmap of " +
                         std::to_string(size_) + " bits");
  }
}

void Bitmap::require_end(std::size_t end) const {
  if (end > size_) {
    throw BitmapMismatch("position " + std::to_string(end) + " in a bitmap of " +
                         std::to_string(size_) + " bits");
  }
}

void Bitmap::require_same_size(const Bitmap& other) const {
  if (other.size_ != size_) {
    throw BitmapMismatch("bitmaps of " + std::to_string(size_) + " and " +
                         std::to_string(other.size_) + " bits cannot be joined");
  }
}

std::size_t longest_hit(std::span<const GroupPresence> groups) {
  if (groups.empty()) {
    return 0;
  }
  std::size_t hit = groups.front().present->size();
  for (const GroupPresence& group : groups) {
    if (group.present->size() != hit) {
      throw BitmapMismatch("groups see " + std::to_string(hit) + " and " +
                           std::to_string(group.present->size()) + " chunks of one prompt");
    }
    if (group.rule == HitRule::window && group.window_chunks == 0) {
      throw BitmapMismatch("a sliding window holds at least one chunk, not 0");
    }
  }
  // Each rule in turn lowers n to the largest that it allows. Whatever holds for all groups is
  // never stepped over, so the first n on which all of them agree is the largest.
  for (std::size_t agreeing = 0; agreeing < groups.size();) {
    for (const GroupPresence& group : groups) {
      const std::size_t lowered = largest_holding(group, hit);
      agreeing = lowered == hit ? agreeing + 1 : 1;
      hit = lowered;
      if (agreeing >= groups.size()) {
        break;
      }
    }
  }
  return hit;
}

}  // namespace penstock
