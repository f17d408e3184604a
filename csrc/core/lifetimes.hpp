// How long chunks of each kind wait for their next use, learned from a sample of all keys.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <vector>

#include "core/mapped_array.hpp"

namespace penstock {

// A sample of all chunks, by a hash of the key, is followed from one use to the next whether it is
// resident or not, so that what is learned does not depend on what was kept. From the uses seen,
// and from the waits that have not ended yet (they count as far as they have come: Kaplan, Meier
// 1958), comes for each *kind* of chunk the chance of a use at each *age*, the number of stamps
// since the last one.
//
// prospect(kind, age) is what the place of such a chunk will yield: uses per stamp of waiting, if
// it is kept exactly as long as is best for that ratio (the index of Gittins, 1979, for keeping or
// giving up). Kinds of which little is known are taken for what chunks of all kinds do; and when
// nothing is known, for what is used less the longer ago its last use.
//
// Bounded: kFollowed chunks at most; the sample becomes sparser as more is resident.
class Lifetimes {
 public:
  static constexpr std::uint32_t kKinds = 40;
  static constexpr std::uint32_t kAges = 128;  // four to a doubling

  Lifetimes();

  // Whether this chunk is in the sample. Only of such ones do the calls below want to hear.
  [[nodiscard]] bool follows(std::uint64_t fingerprint) const {
    return (fingerprint >> 8U & 0xFFFFU) <= follow_below_;
  }
  // It is used now, and is of this kind from now on.
  void used(std::uint64_t fingerprint, std::uint32_t kind, std::uint64_t stamp);
  // Its kind is another one than was thought at its last use.
  void corrected(std::uint64_t fingerprint, std::uint32_t kind);

  // Makes prospects anew if enough was seen since that was done; then they are true of `resident`
  // chunks at most.
  void refresh(std::uint64_t events, std::uint32_t resident, std::uint64_t stamp) {
    events_ += events;
    if (events_ >= std::clamp(seen_ / kRefreshShare, kRefreshMin, kRefreshMax)) {
      relearn(resident, stamp);
    }
  }

  [[nodiscard]] float prospect(std::uint32_t kind, std::uint64_t age) const {
    return prospects_[kind][age_class(age)];
  }
  [[nodiscard]] std::uint64_t bytes() const { return followed_.size() * sizeof(Followed); }

 private:
  static constexpr std::uint32_t kFollowed = 1U << 16U;
  static constexpr std::uint32_t kBucketEntries = 8;
  // Prospects are made anew after an eighth more events than ever before, but never after fewer
  // than some hundreds nor more than some ten thousands: it takes as long as thousands do.
  static constexpr std::uint64_t kRefreshShare = 8;
  static constexpr std::uint64_t kRefreshMin = 256;
  static constexpr std::uint64_t kRefreshMax = 32768;
  static constexpr std::uint32_t kResidentTimes = 16;  // followed past what would stay that long

  // Zero bytes are an empty entry: stamps begin at 1.
  struct Followed {
    std::uint64_t stamp : 48;  // of its last use
    std::uint64_t kind : 16;
    std::uint64_t fingerprint;
  };
  using Ages = std::array<float, kAges>;

  // Ages below 8 have their own class; of every doubling after that there are four.
  [[nodiscard]] static std::uint32_t age_class(std::uint64_t age) {
    if (age < 8) return static_cast<std::uint32_t>(age);
    const auto doubling = static_cast<std::uint32_t>(std::bit_width(age)) - 1;
    const auto quarter = static_cast<std::uint32_t>(age >> (doubling - 2U) & 3U);
    const std::uint32_t place = 8 + (doubling - 3) * 4 + quarter;
    return place < kAges ? place : kAges - 1;
  }

  [[nodiscard]] Followed* find(std::uint64_t fingerprint);
  Followed& place_for(std::uint64_t fingerprint, std::uint64_t stamp);
  void end(const Followed& followed, std::uint64_t stamp);
  void relearn(std::uint32_t resident, std::uint64_t stamp);
  void count_waiting(std::uint64_t stamp);
  [[nodiscard]] static Ages reached(const Ages& used, const Ages& ended);
  [[nodiscard]] static Ages common_chances(const Ages& used, const Ages& ended);
  [[nodiscard]] static Ages own_chances(const Ages& used, const Ages& ended, const Ages& common);
  static void index(const Ages& chances, Ages& prospects);

  MappedArray<Followed> followed_;
  std::vector<Ages> used_;     // by kind and age at the use
  std::vector<Ages> ended_;    // the same of waits that were given up
  std::vector<Ages> waiting_;  // of those still waiting
  std::vector<Ages> prospects_;
  std::uint64_t follow_below_ = 0xFFFF;
  std::uint64_t events_ = 0;  // since prospects were made
  std::uint64_t seen_ = 0;    // before that
};

}  // namespace penstock
