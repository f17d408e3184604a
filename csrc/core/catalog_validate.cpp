// Catalog: whether records, sums and the policy still agree.
#include <stdexcept>
#include <string>

#include "core/catalog.hpp"

namespace penstock {
namespace {

void require(bool holds, const char* what, ChunkId id) {
  if (holds) return;
  throw std::logic_error(std::string("catalog: ") + what + " at record " + std::to_string(id));
}

}  // namespace

void Catalog::validate() const {
  std::vector<std::uint32_t> children(records_ever_, 0);
  std::unordered_map<std::uint32_t, std::uint64_t> tenants;
  std::uint32_t used = 0;
  std::uint32_t objects = 0;
  std::uint32_t candidates = 0;
  std::uint64_t bytes = 0;
  std::uint64_t pages = 0;
  for (ChunkId id = 0; id < records_ever_; ++id) {
    const Record& record = records_[id];
    if (!record.used) continue;
    ++used;
    require(find_record(record.key) == id, "not found by its key", id);
    require(record.present || record.children > 0, "kept for nothing", id);
    require(!record.held, "held after the call", id);
    const bool candidate = record.present && !record.chosen && record.children == 0;
    require(candidate == (record.queued != 0), "a candidate not queued, or the reverse", id);
    require(policy_->is_candidate(id) == candidate, "the policy thinks otherwise", id);
    if (candidate) ++candidates;
    if (record.parent != kNoChunk) {
      require(records_[record.parent].used, "a parent that is gone", id);
      ++children[record.parent];
    }
    if (!record.present) continue;
    ++objects;
    bytes += record.item.bytes;
    pages += pages_of(record.item.bytes);
    if (record.item.bytes > 0) tenants[record.item.tenant] += record.item.bytes;
  }
  for (ChunkId id = 0; id < records_ever_; ++id) {
    if (records_[id].used)
      require(records_[id].children == children[id], "children miscounted", id);
  }
  require(used == records_used_ && used == index_.size(), "records miscounted", used);
  require(objects == objects_, "objects miscounted", objects);
  require(bytes == used_bytes_ && tenants == bytes_by_tenant_, "bytes miscounted", kNoChunk);
  require(candidates == policy_->candidates(), "candidates miscounted", candidates);
  require(policy_->pages_counted().value_or(pages) == pages, "the policy has miscounted", kNoChunk);
  policy_->validate();
}

}  // namespace penstock
