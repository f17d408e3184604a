// Who takes how many pages of the arena, and in which state.
#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>

#include "core/table_types.hpp"

namespace penstock {

// Pages by state, and by tenant under a quota. A tenant pays for what is in the index, in flight or
// resident; what is quarantined is the engine's debt and not the tenant's, and what lies in
// Pool::pd nobody's.
class Ledger {
 public:
  // Without `fair_share` nobody has a share.
  explicit Ledger(bool fair_share) : fair_share_(fair_share) {}

  // 0: no quota. What exceeds a lowered quota stays.
  void set_quota(std::uint32_t tenant, std::uint64_t bytes_max);
  [[nodiscard]] bool within_quota(std::uint32_t tenant, std::uint64_t pages_more) const;
  // Whether it could ever have so many pages.
  [[nodiscard]] bool fits_quota(std::uint32_t tenant, std::uint64_t pages) const;
  [[nodiscard]] bool has_quota(std::uint32_t tenant) const;
  [[nodiscard]] bool any_quota() const { return quotas_ > 0; }

  // Of what all tenants take, a tenant's share is its weight over the weights of all that take
  // anything; 1 unless it is set. Within it: it takes less than 7/8 of its share, so that tenants
  // about level are left to the policy. There is always one that is not.
  static constexpr std::uint32_t kWeightMax = 1000;
  void set_weight(std::uint32_t tenant, std::uint32_t weight);
  [[nodiscard]] bool is_within_share(std::uint32_t tenant) const;

  // `pages` of a tenant's object go from one state to another. ObjectState::free stands for the
  // allocator.
  void move(std::uint32_t tenant, std::uint64_t pages, ObjectState from, ObjectState to);

  // The same of an object in Pool::pd, which nobody pays for.
  void move_pd(std::uint64_t pages, ObjectState from, ObjectState to);

  [[nodiscard]] std::uint64_t pages(ObjectState state, Pool pool = Pool::cache) const {
    return (pool == Pool::cache ? pages_ : pd_pages_)[static_cast<std::size_t>(state)];
  }
  [[nodiscard]] std::uint64_t pages_of(std::uint32_t tenant) const;
  // All tenants that have pages now.
  [[nodiscard]] std::unordered_map<std::uint32_t, std::uint64_t> pages_by_tenant() const;

 private:
  struct Account {
    std::uint64_t pages = 0;
    std::uint64_t bytes_max = 0;
    std::uint32_t weight = 1;
  };

  Account& account(std::uint32_t tenant);
  void forget_if_idle(std::uint32_t tenant);

  std::array<std::uint64_t, kObjectStates> pages_{};  // [free] is not kept: the allocator knows
  std::array<std::uint64_t, kObjectStates> pd_pages_{};
  // With pages, a quota or a weight, no others.
  std::unordered_map<std::uint32_t, Account> accounts_;
  bool fair_share_;
  std::uint32_t quotas_ = 0;       // accounts with one
  std::uint64_t pages_live_ = 0;   // of all tenants
  std::uint64_t weight_live_ = 0;  // of those that have pages
  std::uint32_t last_tenant_ = 0;  // most calls concern one tenant many times over
  Account* last_account_ = nullptr;
};

}  // namespace penstock
