#include "core/optimum.hpp"

#include <algorithm>
#include <queue>
#include <vector>

namespace penstock {
namespace {

constexpr std::uint64_t kNever = UINT64_MAX;

// For each reference, when its object is asked for next.
std::vector<std::uint64_t> next_uses(std::span<const std::uint32_t> references) {
  std::vector<std::uint64_t> next(references.size());
  const auto most = std::ranges::max_element(references);
  std::vector<std::uint64_t> seen(
      most == references.end() ? 0 : static_cast<std::size_t>(*most) + 1, kNever);
  for (std::size_t at = references.size(); at-- > 0;) {
    next[at] = seen[references[at]];
    seen[references[at]] = at;
  }
  return next;
}

}  // namespace

std::uint64_t optimum_hits(std::span<const std::uint32_t> references, std::uint32_t capacity) {
  const std::vector<std::uint64_t> next = next_uses(references);
  std::vector<bool> kept(references.size(), false);  // by when it is asked for next
  std::priority_queue<std::uint64_t> latest;         // with what has gone or been used since
  std::uint64_t count = 0;
  std::uint64_t hits = 0;
  for (std::size_t at = 0; at < references.size(); ++at) {
    if (kept[at]) {
      ++hits;
      --count;
    }
    if (next[at] == kNever) continue;
    kept[next[at]] = true;
    latest.push(next[at]);
    // What was used since lies below every use to come, so the top is always kept.
    if (++count <= capacity) continue;
    kept[latest.top()] = false;
    latest.pop();
    --count;
  }
  return hits;
}

}  // namespace penstock
