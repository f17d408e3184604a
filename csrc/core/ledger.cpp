#include "core/ledger.hpp"

#include <cassert>

#include "core/extent_allocator.hpp"

namespace penstock {

void Ledger::set_quota(std::uint32_t tenant, std::uint64_t bytes_max) {
  Account& own = account(tenant);
  quotas_ -= own.bytes_max > 0 ? 1 : 0;
  quotas_ += bytes_max > 0 ? 1 : 0;
  own.bytes_max = bytes_max;
  forget_if_idle(tenant);
}

bool Ledger::within_quota(std::uint32_t tenant, std::uint64_t pages_more) const {
  const auto found = accounts_.find(tenant);
  if (found == accounts_.end() || found->second.bytes_max == 0) return true;
  return (found->second.pages + pages_more) * kPageBytes <= found->second.bytes_max;
}

bool Ledger::fits_quota(std::uint32_t tenant, std::uint64_t pages) const {
  const auto found = accounts_.find(tenant);
  if (found == accounts_.end() || found->second.bytes_max == 0) return true;
  return pages * kPageBytes <= found->second.bytes_max;
}

bool Ledger::has_quota(std::uint32_t tenant) const {
  const auto found = accounts_.find(tenant);
  return found != accounts_.end() && found->second.bytes_max > 0;
}

void Ledger::set_weight(std::uint32_t tenant, std::uint32_t weight) {
  Account& own = account(tenant);
  if (own.pages > 0) weight_live_ = weight_live_ - own.weight + weight;
  own.weight = weight;
  forget_if_idle(tenant);
}

bool Ledger::is_within_share(std::uint32_t tenant) const {
  if (!fair_share_) return false;
  const auto found = accounts_.find(tenant);
  if (found == accounts_.end()) return false;
  using Product = unsigned __int128;  // pages by weights by 8 may be more than 64 bits hold
  const Account& own = found->second;
  return Product{8} * own.pages * weight_live_ < Product{7} * pages_live_ * own.weight;
}

void Ledger::move(std::uint32_t tenant, std::uint64_t pages, ObjectState from, ObjectState to) {
  assert(from == ObjectState::free || pages_[static_cast<std::size_t>(from)] >= pages);
  if (from != ObjectState::free) pages_[static_cast<std::size_t>(from)] -= pages;
  if (to != ObjectState::free) pages_[static_cast<std::size_t>(to)] += pages;
  if (is_live(from) == is_live(to)) return;
  Account& own = account(tenant);
  if (is_live(to)) {
    if (own.pages == 0) weight_live_ += own.weight;
    own.pages += pages;
    pages_live_ += pages;
  } else {
    own.pages -= pages;
    pages_live_ -= pages;
    if (own.pages > 0) return;
    weight_live_ -= own.weight;
    forget_if_idle(tenant);
  }
}

void Ledger::move_pd(std::uint64_t pages, ObjectState from, ObjectState to) {
  assert(to != ObjectState::resident);
  assert(from == ObjectState::free || pd_pages_[static_cast<std::size_t>(from)] >= pages);
  if (from != ObjectState::free) pd_pages_[static_cast<std::size_t>(from)] -= pages;
  if (to != ObjectState::free) pd_pages_[static_cast<std::size_t>(to)] += pages;
}

std::uint64_t Ledger::pages_of(std::uint32_t tenant) const {
  const auto found = accounts_.find(tenant);
  return found == accounts_.end() ? 0 : found->second.pages;
}

std::unordered_map<std::uint32_t, std::uint64_t> Ledger::pages_by_tenant() const {
  std::unordered_map<std::uint32_t, std::uint64_t> pages;
  for (const auto& [tenant, account] : accounts_) {
    if (account.pages > 0) pages.emplace(tenant, account.pages);
  }
  return pages;
}

Ledger::Account& Ledger::account(std::uint32_t tenant) {
  if (last_account_ == nullptr || last_tenant_ != tenant) {
    last_account_ = &accounts_[tenant];  // stays in place while it exists
    last_tenant_ = tenant;
  }
  return *last_account_;
}

void Ledger::forget_if_idle(std::uint32_t tenant) {
  const auto found = accounts_.find(tenant);
  if (found->second.pages > 0 || found->second.bytes_max > 0 || found->second.weight != 1) return;
  if (last_account_ == &found->second) last_account_ = nullptr;
  accounts_.erase(found);
}

}  // namespace penstock
