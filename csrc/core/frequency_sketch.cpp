#include "core/frequency_sketch.hpp"

#include <algorithm>
#include <array>
#include <bit>

namespace penstock {
namespace {

// Odd constants, one to a row (from Knuth's multiplicative hashing with digits of pi).
constexpr std::array<std::uint64_t, 4> kFactors = {0x243F6A8885A308D3ULL, 0x13198A2E03707345ULL,
                                                   0xA4093822299F31D1ULL, 0x082EFA98EC4E6C89ULL};
constexpr std::uint64_t kEventsPerKey = 10;
constexpr std::uint64_t kHalvedAtOnce = 256;  // words: a few hundred nanoseconds

}  // namespace

FrequencySketch::FrequencySketch(std::uint32_t keys)
    : words_(std::bit_ceil(std::max<std::uint64_t>(keys, 8))),
      events_max_(kEventsPerKey * std::max<std::uint32_t>(keys, 8)),
      halved_(words_.size()) {}

FrequencySketch::Place FrequencySketch::place(std::uint64_t fingerprint, std::uint32_t row) const {
  const std::uint64_t mixed = (fingerprint ^ (fingerprint >> 32U)) * kFactors[row];
  return {(mixed >> 32U) & (words_.size() - 1),
          static_cast<std::uint32_t>(mixed >> 16U & 3U) * 4 + row * 16};
}

void FrequencySketch::count(std::uint64_t fingerprint) {
  for (std::uint32_t row = 0; row < kRows; ++row) {
    const Place at = place(fingerprint, row);
    if ((words_[at.word] >> at.shift & kCounterMax) < kCounterMax)
      words_[at.word] += 1ULL << at.shift;
  }
  if (++events_ >= events_max_ && halved_ == words_.size()) {
    events_ /= 2;
    halved_ = 0;
  }
  if (halved_ < words_.size()) halve_some();
}

std::uint32_t FrequencySketch::estimate(std::uint64_t fingerprint) const {
  std::uint64_t least = kCounterMax;
  for (std::uint32_t row = 0; row < kRows; ++row) {
    const Place at = place(fingerprint, row);
    least = std::min(least, words_[at.word] >> at.shift & kCounterMax);
  }
  return static_cast<std::uint32_t>(least);
}

void FrequencySketch::halve_some() {
  const std::uint64_t end = std::min<std::uint64_t>(words_.size(), halved_ + kHalvedAtOnce);
  for (; halved_ < end; ++halved_) {
    words_[halved_] = words_[halved_] >> 1U & 0x7777777777777777ULL;
  }
}

}  // namespace penstock
