// How often keys were asked for of late, about, in little memory.
#pragma once

#include <cstdint>

#include "core/mapped_array.hpp"

namespace penstock {

// A count-min sketch of 4-bit counters, four to a key, all of which are halved when as many
// events were counted as ten times the keys it is made for (Einziger, Friedman, Manes: "TinyLFU: a
// highly efficient cache admission policy", ACM ToS 2017). 8 to 16 bytes for every key. All
// counters of a key lie in one cache line, as in Manes' Caffeine: one cache miss, and at most one
// page fault, and not four.
class FrequencySketch {
 public:
  explicit FrequencySketch(std::uint32_t keys);

  void count(std::uint64_t fingerprint);
  // 0 to 15; never too low but for the halving.
  [[nodiscard]] std::uint32_t estimate(std::uint64_t fingerprint) const;
  [[nodiscard]] std::uint64_t bytes() const { return words_.size() * sizeof(std::uint64_t); }

 private:
  static constexpr std::uint32_t kRows = 4;
  static constexpr std::uint32_t kLineWords = 8;
  static constexpr std::uint32_t kCounterMax = 15;

  struct Place {
    std::uint64_t word;
    std::uint32_t shift;
  };

  [[nodiscard]] Place place(std::uint64_t fingerprint, std::uint32_t row) const;
  void halve_some();

  MappedArray<std::uint64_t> words_;  // sixteen counters each; a power of two
  std::uint64_t events_max_;
  std::uint64_t events_ = 0;
  std::uint64_t halved_;  // words below this have been halved; all: no halving under way
};

}  // namespace penstock
