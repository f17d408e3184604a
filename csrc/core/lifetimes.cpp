#include "core/lifetimes.hpp"

#include <algorithm>
#include <cmath>

namespace penstock {
namespace {

// What is believed before anything is seen: at every doubling of its age, a chunk has this chance
// of a use. It gives the order of LRU.
constexpr float kChanceOfDoubling = 0.25F;
// How many uses or ends of waits must be seen until a kind counts as much as what is believed of
// it.
constexpr float kDoubt = 32.0F;
// What was seen counts half after as many uses as the sample would hold so many times.
constexpr float kMemory = 8.0F;

double width_of(std::uint32_t age_class) {
  if (age_class < 8) return 1.0;
  const std::uint32_t doublings = (age_class - 8) / 4 + 1;
  return std::exp2(static_cast<double>(doublings));
}

}  // namespace

Lifetimes::Lifetimes()
    : followed_(kFollowed), used_(kKinds), ended_(kKinds), waiting_(kKinds), prospects_(kKinds) {
  relearn(0, 0);
}

Lifetimes::Followed* Lifetimes::find(std::uint64_t fingerprint) {
  const std::uint64_t first =
      ((fingerprint >> 32U) * (kFollowed / kBucketEntries) >> 32U) * kBucketEntries;
  for (std::uint64_t i = first; i < first + kBucketEntries; ++i) {
    if (followed_[i].stamp != 0 && followed_[i].fingerprint == fingerprint) return &followed_[i];
  }
  return nullptr;
}

// An empty entry of its bucket, or that of the longest wait, which is given up.
Lifetimes::Followed& Lifetimes::place_for(std::uint64_t fingerprint, std::uint64_t stamp) {
  const std::uint64_t first =
      ((fingerprint >> 32U) * (kFollowed / kBucketEntries) >> 32U) * kBucketEntries;
  std::uint64_t place = first;
  for (std::uint64_t i = first; i < first + kBucketEntries; ++i) {
    if (followed_[i].stamp < followed_[place].stamp) place = i;
  }
  end(followed_[place], stamp);
  return followed_[place];
}

void Lifetimes::end(const Followed& followed, std::uint64_t stamp) {
  if (followed.stamp != 0) ended_[followed.kind][age_class(stamp - followed.stamp)] += 1.0F;
}

void Lifetimes::used(std::uint64_t fingerprint, std::uint32_t kind, std::uint64_t stamp) {
  Followed* followed = find(fingerprint);
  if (followed != nullptr) {
    used_[followed->kind][age_class(stamp - followed->stamp)] += 1.0F;
  } else {
    followed = &place_for(fingerprint, stamp);
    followed->fingerprint = fingerprint;
  }
  followed->stamp = stamp & ((1ULL << 48U) - 1);
  followed->kind = kind & 0xFFFFU;
}

void Lifetimes::corrected(std::uint64_t fingerprint, std::uint32_t kind) {
  Followed* followed = find(fingerprint);
  if (followed != nullptr) followed->kind = kind & 0xFFFFU;
}

void Lifetimes::count_waiting(std::uint64_t stamp) {
  for (Ages& ages : waiting_) ages.fill(0.0F);
  for (std::uint64_t i = 0; i < followed_.size(); ++i) {
    Followed& followed = followed_[i];
    if (followed.stamp == 0) continue;
    if (!follows(followed.fingerprint)) {
      end(followed, stamp);
      followed = {};
      continue;
    }
    waiting_[followed.kind][age_class(stamp - followed.stamp)] += 1.0F;
  }
}

// How many have come to each age, and did not end their wait in its first half.
Lifetimes::Ages Lifetimes::reached(const Ages& used, const Ages& ended) {
  Ages reached;
  float beyond = 0.0F;
  for (std::uint32_t age = kAges; age-- > 0;) {
    reached[age] = beyond + used[age] + ended[age] / 2;
    beyond += used[age] + ended[age];
  }
  return reached;
}

// The chance of a use at each age, of all kinds together. Before anything is seen of an age, it is
// believed to be like the one before.
Lifetimes::Ages Lifetimes::common_chances(const Ages& used, const Ages& ended) {
  const Ages there = reached(used, ended);
  Ages chances;
  float believed = kChanceOfDoubling / 4;
  for (std::uint32_t age = 0; age < kAges; ++age) {
    believed = (used[age] + kDoubt * believed) / (there[age] + kDoubt);
    chances[age] = believed;
  }
  return chances;
}

// The same of one kind: believed to be as much more or less than the common one as it was at all
// ages before.
Lifetimes::Ages Lifetimes::own_chances(const Ages& used, const Ages& ended, const Ages& common) {
  const Ages there = reached(used, ended);
  Ages chances;
  float uses = kDoubt * kChanceOfDoubling;
  float uses_expected = uses;
  for (std::uint32_t age = 0; age < kAges; ++age) {
    const float believed = std::min(1.0F, common[age] * uses / uses_expected);
    chances[age] = (used[age] + kDoubt * believed) / (there[age] + kDoubt);
    uses += used[age];
    uses_expected += there[age] * common[age];
  }
  return chances;
}

// The best ratio of uses to time among all periods that begin at an age: from the last age back,
// each is joined with the period after it as long as that improves the ratio.
void Lifetimes::index(const Ages& chances, Ages& prospects) {
  struct Period {
    double uses;
    double time;
    double left;  // the share that comes to its end without a use
  };
  std::vector<Period> later;
  for (std::uint32_t age = kAges; age-- > 0;) {
    const double chance = std::min(1.0F, chances[age]);
    Period own{chance, width_of(age) * (1 - chance / 2), 1 - chance};
    while (!later.empty() && later.back().uses * own.time > own.uses * later.back().time) {
      const Period next = later.back();
      later.pop_back();
      own.uses += own.left * next.uses;
      own.time += own.left * next.time;
      own.left *= next.left;
    }
    later.push_back(own);
    prospects[age] = static_cast<float>(own.uses / own.time);
  }
}

void Lifetimes::relearn(std::uint32_t resident, std::uint64_t stamp) {
  const std::uint64_t wanted = static_cast<std::uint64_t>(resident) * kResidentTimes;
  if (wanted > kFollowed) {
    follow_below_ = std::max<std::uint64_t>(0xFFFFULL * kFollowed / wanted, 15);
  }
  count_waiting(stamp);
  Ages used{};
  Ages ended{};
  for (std::uint32_t kind = 0; kind < kKinds; ++kind) {
    for (std::uint32_t age = 0; age < kAges; ++age) {
      waiting_[kind][age] += ended_[kind][age];
      used[age] += used_[kind][age];
      ended[age] += waiting_[kind][age];
    }
  }
  const Ages common = common_chances(used, ended);
  for (std::uint32_t kind = 0; kind < kKinds; ++kind) {
    index(own_chances(used_[kind], waiting_[kind], common), prospects_[kind]);
  }
  const float kept = std::exp2(-static_cast<float>(events_) / (kMemory * kFollowed));
  for (std::uint32_t kind = 0; kind < kKinds; ++kind) {
    for (float& count : used_[kind]) count *= kept;
    for (float& count : ended_[kind]) count *= kept;
  }
  seen_ += events_;
  events_ = 0;
}

}  // namespace penstock
