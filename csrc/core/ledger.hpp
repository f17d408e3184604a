// Who takes how many pages of the arena, and in which state.
#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>

#include "core/table_types.hpp"

namespace penstock {

// Pages by state, and by tenant under a quota. A tenant pays for what is in the index, in flight or
// resident; what is quarantined is the engine's debt and not the tenant's.
class Ledger {
 public:
  // 0: no quota. What exceeds a lowered quota stays.
  void set_quota(std::uint32_t tenant, std::uint64_t bytes_max);
  [[nodiscard]] bool within_quota(std::uint32_t tenant, std::uint64_t pages_more) const;

  // `pages` of a tenant's object go from one state to another. ObjectState::free stands for the
  // allocator.
  void move(std::uint32_t tenant, std::uint64_t pages, ObjectState from, ObjectState to);

  [[nodiscard]] std::uint64_t pages(ObjectState state) const {
    return pages_[static_cast<std::size_t>(state)];
  }
  [[nodiscard]] std::uint64_t pages_of(std::uint32_t tenant) const;
  // All tenants that have pages now.
  [[nodiscard]] std::unordered_map<std::uint32_t, std::uint64_t> pages_by_tenant() const;

 private:
  struct Account {
    std::uint64_t pages = 0;
    std::uint64_t bytes_max = 0;
  };

  Account& account(std::uint32_t tenant);
  void forget_if_idle(std::uint32_t tenant);

  std::array<std::uint64_t, kObjectStates> pages_{};     // [free] is not kept: the allocator knows
  std::unordered_map<std::uint32_t, Account> accounts_;  // with pages or a quota, no others
  std::uint32_t last_tenant_ = 0;  // most calls concern one tenant many times over
  Account* last_account_ = nullptr;
};

}  // namespace penstock
