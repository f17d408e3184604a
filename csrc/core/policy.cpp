#include "core/policy.hpp"

#include <stdexcept>

#include "core/policy_arc.hpp"
#include "core/policy_lru.hpp"
#include "core/policy_prospect.hpp"
#include "core/policy_s3fifo.hpp"
#include "core/policy_sieve.hpp"
#include "core/policy_tinylfu.hpp"

namespace penstock {

std::unique_ptr<Policy> make_policy(PolicyKind kind, std::uint32_t chunks_max,
                                    std::uint64_t pages_total, const ChunkFacts& facts) {
  switch (kind) {
    case PolicyKind::lru:
      return std::make_unique<LruPolicy>(chunks_max);
    case PolicyKind::s3fifo:
      return std::make_unique<S3FifoPolicy>(chunks_max, pages_total, facts);
    case PolicyKind::sieve:
      return std::make_unique<SievePolicy>(chunks_max);
    case PolicyKind::arc:
      return std::make_unique<ArcPolicy>(chunks_max, pages_total, facts);
    case PolicyKind::tinylfu:
      return std::make_unique<TinyLfuPolicy>(chunks_max, pages_total, facts);
    case PolicyKind::prospect:
      return std::make_unique<ProspectPolicy>(chunks_max, facts);
  }
  throw std::invalid_argument("no such policy");
}

}  // namespace penstock
