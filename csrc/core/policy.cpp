#include "core/policy.hpp"

#include <stdexcept>

#include "core/policy_lru.hpp"
#include "core/policy_s3fifo.hpp"

namespace penstock {

std::unique_ptr<Policy> make_policy(PolicyKind kind, std::uint32_t chunks_max,
                                    std::uint64_t arena_pages, const ChunkFacts& facts) {
  switch (kind) {
    case PolicyKind::lru:
      return std::make_unique<LruPolicy>(chunks_max);
    case PolicyKind::s3fifo:
      return std::make_unique<S3FifoPolicy>(chunks_max, arena_pages, facts);
  }
  throw std::invalid_argument("no such policy");
}

}  // namespace penstock
