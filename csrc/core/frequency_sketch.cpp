#include "core/frequency_sketch.hpp"

#include <algorithm>
#include <array>
#include <bit>

namespace penstock {
namespace {

// Odd constants (from Knuth's multiplicative hashing with digits of pi): for the line, and the
// rest.
constexpr std::array<std::uint64_t, 2> kFactors = {0x243F6A8885A308D3ULL, 0x13198A2E03707345ULL};
constexpr std::uint64_t kEventsPerKey = 10;
constexpr std::uint64_t kHalvedAtOnce = 256;  // words: a few hundred nanoseconds

}  // namespace

FrequencySketch::FrequencySketch(std::uint32_t keys)
    : words_(std::bit_ceil(std::max<std::uint64_t>(keys, kLineWords))),
      events_max_(kEventsPerKey * std::max<std::uint32_t>(keys, kLineWords)),
      halved_(words_.size()) {}

FrequencySketch::Place FrequencySketch::place(std::uint64_t fingerprint, std::uint32_t row) const {
  // Every row has two words of the line: 32 counters.
  const std::uint64_t folded = fingerprint ^ (fingerprint >> 32U);
  const std::uint64_t lines = words_.size() / kLineWords;
  const std::uint64_t line = (folded * kFactors[0] >> 32U) & (lines - 1);
  const std::uint64_t within = folded * kFactors[1] >> (24U + row * 8U);
  return {line * kLineWords + row * 2ULL + (within >> 4U & 1U),
          static_cast<std::uint32_t>(within & 15U) * 4};
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
