// A fixed number of bits, one per chunk of a prompt, and the rule that turns presence into a hit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <vector>

namespace penstock {

/// Two bitmaps of different sizes met, or a bit outside was named.
class BitmapMismatch : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// Bit i says whether chunk i has something. The size is fixed at birth.
class Bitmap {
 public:
  explicit Bitmap(std::size_t size);

  /// Bits packed eight to a byte, lowest first; bits beyond `size` are ignored.
  /// Throws BitmapMismatch when there are fewer than size/8 bytes, rounded up, or more.
  [[nodiscard]] static Bitmap from_bytes(std::span<const std::byte> packed, std::size_t size);
  [[nodiscard]] std::vector<std::byte> to_bytes() const;

  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  /// These throw BitmapMismatch when `index` is not below size().
  [[nodiscard]] bool test(std::size_t index) const;
  void set(std::size_t index);
  void reset(std::size_t index);

  /// How many bits are one.
  [[nodiscard]] std::size_t count() const noexcept;
  /// The prefix fold: how many ones there are before the first zero.
  [[nodiscard]] std::size_t prefix() const noexcept;
  /// The length of the run of ones that ends just before `end`. `end` is at most size().
  [[nodiscard]] std::size_t run_before(std::size_t end) const;
  /// The highest one below `end`, if there is any. `end` is at most size().
  [[nodiscard]] std::optional<std::size_t> highest_before(std::size_t end) const;

  /// Throw BitmapMismatch unless both have the same size.
  Bitmap& operator&=(const Bitmap& other);
  Bitmap& operator|=(const Bitmap& other);
  [[nodiscard]] friend Bitmap operator&(Bitmap left, const Bitmap& right) { return left &= right; }
  [[nodiscard]] friend Bitmap operator|(Bitmap left, const Bitmap& right) { return left |= right; }
  [[nodiscard]] bool operator==(const Bitmap& other) const = default;

 private:
  void require_index(std::size_t index) const;
  void require_end(std::size_t end) const;
  void require_same_size(const Bitmap& other) const;

  std::size_t size_;
  std::vector<std::uint64_t> words_;  // bits at and beyond size_ are zero
};

/// What a layer group needs of the chunks before a position to go on from there.
enum class HitRule : std::uint8_t {
  full,    // full attention and MLA: every chunk
  window,  // sliding window: the last `window_chunks`, or all when there are fewer
  state,   // recurrent: the state at exactly that position, the object of the last chunk
};

/// One group's objects along a prompt: bit i is set when chunk i's object is there on every shard.
struct GroupPresence {
  const Bitmap* present;
  HitRule rule;
  std::size_t window_chunks = 0;  // at least 1 for HitRule::window, otherwise unused
};

/// The hit: the largest n for which every group's rule holds at n. 0 always holds, and is the
/// answer for no groups at all.
/// Throws BitmapMismatch unless all bitmaps have one size and every window is at least one chunk.
[[nodiscard]] std::size_t longest_hit(std::span<const GroupPresence> groups);

}  // namespace penstock
